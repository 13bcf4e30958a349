package bake

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"

	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/internal/storedb"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// oldHashes is the folder in which `guix publish --cache` (1.5.0) maps hash
// parts to store paths. Beside it are METHOD/BASE.nar and METHOD/BASE.narinfo.
const oldHashes = "hashes"

func oldNar(method, base string) string { return path.Join(method, base+".nar") }

// Adoptable returns the store path of an item that the store lacks but of
// which a cache of `guix publish` in the folder has a nar, and a narinfo with a
// valid signature by the cache's own key. Bake adopts it.
func (c *Cache) Adoptable(ctx context.Context, hash string) (storepath.Path, bool) {
	if !storepath.ValidHash(hash) {
		return storepath.Path{}, false
	}
	text, err := folder.Read(c.path(path.Join(oldHashes, hash)), 4<<10)
	if err != nil {
		return storepath.Path{}, false
	}
	p, err := storepath.Parse(string(text))
	if err != nil || p.Hash != hash || p.Dir != c.store.StoreDir() || len(c.oldNars(p)) == 0 {
		return storepath.Path{}, false
	}
	if _, err := c.oldInfo(p); err != nil {
		c.log.WarnContext(ctx, "old entry not adopted", slog.String("store_path", p.String()), slog.Any("error", err))
		return storepath.Path{}, false
	}
	return p, true
}

// oldInfo returns what a signed narinfo of the old cache says of an item.
func (c *Cache) oldInfo(p storepath.Path) (storedb.Info, error) {
	errs := []error{fmt.Errorf("%s: %w", p, storedb.ErrNotFound)}
	for _, method := range methodNames() {
		text, err := folder.Read(c.path(path.Join(method, p.Base()+suffix)), narinfo.MaxSize)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		info, err := c.parseOld(p, text)
		if err == nil {
			return info, nil
		}
		errs = append(errs, fmt.Errorf("%s/%s%s: %w", method, p.Base(), suffix, err))
	}
	return storedb.Info{}, errors.Join(errs...)
}

func (c *Cache) parseOld(p storepath.Path, text []byte) (storedb.Info, error) {
	n, err := narinfo.Parse(text)
	if err != nil {
		return storedb.Info{}, err
	}
	signed, err := n.VerifyGuix(c.signer.Keys().Guix)
	if err == nil {
		err = signed.Matches(p)
	}
	if err == nil && !signed.HasNarSize {
		err = fmt.Errorf("%w: no NarSize", narinfo.ErrUnsigned)
	}
	if err != nil {
		return storedb.Info{}, err
	}
	info := storedb.Info{Path: p, NarHash: signed.NarHash, NarSize: signed.NarSize, Deriver: signed.Deriver}
	for _, base := range signed.References {
		ref, err := storepath.ParseBase(p.Dir, base)
		if err != nil {
			return storedb.Info{}, err
		}
		info.References = append(info.References, ref)
	}
	return info, nil
}

// oldNars returns the methods of which the old cache has a nar of an item,
// those that are configured first and in their order.
func (c *Cache) oldNars(p storepath.Path) []string {
	var names []string
	for _, m := range c.o.Methods {
		names = append(names, m.Name)
	}
	for _, name := range methodNames() {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return slices.DeleteFunc(names, func(name string) bool {
		fi, err := os.Lstat(c.path(oldNar(name, p.Base())))
		return err != nil || !fi.Mode().IsRegular()
	})
}

// adopt makes the entry of an item from the nars of the old cache, if it has a
// good one. It reports whether it did.
func (c *Cache) adopt(ctx context.Context, info storedb.Info) (done bool, err error) {
	var nars []stored
	for _, name := range c.oldNars(info.Path) {
		old := c.path(oldNar(name, info.Path.Base()))
		// At which level it was compressed is not known.
		m := compress.Method{Name: name}
		size, err := c.link(ctx, info, old, c.path(c.Nar(m, info.Path.Base())), name)
		if err != nil && ctx.Err() != nil {
			return false, err
		}
		if err != nil {
			c.log.WarnContext(ctx, "old nar not adopted", slog.String("file", old), slog.Any("error", err))
			continue
		}
		nars = append(nars, stored{m, size})
	}
	if len(nars) == 0 {
		return false, nil
	}
	methods := make([]compress.Method, len(nars))
	for i, n := range nars {
		methods[i] = n.method
	}
	index, err := c.index.NewWriter(info.Path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, index.Abort()) }()
	blocks := newBlocks(index.File(), c.linked(info.Path.Hash))
	enc := encoder{emit: blocks.add}
	if err := folder.Copy(ctx, &enc, c.path(c.Nar(methods[named(methods)], info.Path.Base()))); err != nil {
		return false, err
	}
	rc, err := enc.finish()
	if err != nil {
		return false, err
	}
	if enc.n != nars[named(methods)].size {
		return false, fmt.Errorf("nar of %s changes while it is adopted", info.Path)
	}
	if err := blocks.Finish(rc, enc.n); err != nil {
		return false, err
	}
	return true, c.commit(ctx, info, index, nars, rc, blocks.pieces())
}

// link links an old nar to its new name and checks what it holds; a bad one
// does not keep the name. It returns the size of the file.
func (c *Cache) link(ctx context.Context, info storedb.Info, from, to, method string) (size int64, err error) {
	if folder.Exists(to) {
		if err := durable.Remove(to); err != nil {
			return 0, err
		}
	}
	if err := durable.Link(from, to); err != nil {
		return 0, err
	}
	got, size, err := folder.HashNar(ctx, to, method, info.NarSize)
	if err == nil && (got.Hash != info.NarHash || uint64(got.Size) != info.NarSize) {
		err = fmt.Errorf("holds a nar with %s, not %s", narinfo.FormatHash(got.Hash), narinfo.FormatHash(info.NarHash))
	}
	if err != nil {
		return 0, errors.Join(err, durable.Remove(to))
	}
	return size, nil
}
