package bake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"ersatz/eris"
	"ersatz/internal/block/narindex"
	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/internal/torrent"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// flaw is a fault of an entry.
type flaw struct {
	file string
	err  error
	// index means that narinfo and nars are good, so that the rest can be made
	// from them.
	index bool
}

// entry is what the check of an entry has found out.
type entry struct {
	text   []byte // of the narinfo
	signed narinfo.Signed
	cap    eris.ReadCap
	magnet *torrent.Magnet // nil if the narinfo has none
	named  string          // name of the nar that the URN names
	flaws  []flaw
}

// item checks one entry. One with a fault is checked twice, since it may have
// been replaced or removed meanwhile.
func (c *checker) item(ctx context.Context, hash string) error {
	e, err := c.check(ctx, hash)
	if err != nil || len(e.flaws) == 0 {
		return err
	}
	first := e.text
	e, err = c.check(ctx, hash)
	if err != nil || len(e.flaws) == 0 || !bytes.Equal(first, e.text) {
		return err
	}
	for _, f := range e.flaws {
		repair := func() error { return c.drop(ctx, hash) }
		if f.index {
			repair = func() error { return c.reindex(ctx, e) }
		}
		if err := c.Fault(f.file, f.err.Error(), repair); err != nil {
			return err
		}
	}
	return nil
}

// check returns what there is of an entry. One that is gone has no flaw. An
// error means that ctx has ended or that the index cannot be read.
func (c *checker) check(ctx context.Context, hash string) (e entry, err error) {
	name := c.Narinfo(hash)
	if e.text, err = folder.Read(c.Path(name), narinfo.MaxSize); errors.Is(err, fs.ErrNotExist) {
		return e, nil
	}
	var nars []narinfo.Nar
	if err == nil {
		nars, err = e.parse(hash, c)
	}
	if err != nil {
		e.flaws = append(e.flaws, flaw{name, err, false})
		return e, nil
	}
	for _, n := range nars {
		file := c.Nar(compress.Method{Name: n.Compression}, e.signed.StorePath.Base())
		if err := c.checkFile(ctx, file, n, e.signed); err != nil {
			e.flaws = append(e.flaws, flaw{file, err, false})
		}
	}
	if ctx.Err() != nil || len(e.flaws) > 0 {
		return e, ctx.Err()
	}
	return e, c.checkBlocks(ctx, &e)
}

// parse checks the narinfo and returns the nars that it names.
func (e *entry) parse(hash string, c *checker) ([]narinfo.Nar, error) {
	n, err := narinfo.Parse(e.text)
	if err != nil {
		return nil, err
	}
	if e.signed, err = c.keys.verify(n); err != nil {
		return nil, err
	}
	if e.signed.StorePath.Hash != hash {
		return nil, fmt.Errorf("%w: %s", narinfo.ErrWrongPath, e.signed.StorePath)
	}
	if !e.signed.HasNarSize || len(n.Nars) == 0 {
		return nil, errors.New("no signed NarSize, or no URL")
	}
	for _, one := range n.Nars {
		m := compress.Method{Name: one.Compression}
		if !slices.Contains(methodNames(), m.Name) || one.URL != c.URL(m, e.signed.StorePath.Base()) {
			return nil, fmt.Errorf("URL %q is not where a nar of compression %q is", one.URL, one.Compression)
		}
	}
	// Where only Nix's signature is wanted, nothing covers these; that the nar
	// encodes to the URN is checked later.
	if e.cap, err = eris.ParseURN(n.ERIS); err != nil {
		return nil, err
	}
	format, err := compress.ParseFormat(n.ERISFormat)
	if err != nil {
		return nil, err
	}
	if e.signed.ERIS != n.ERIS && len(c.keys.Guix.Keys()) > 0 {
		return nil, fmt.Errorf("%w: the signature does not cover ERIS", narinfo.ErrUnsigned)
	}
	if n.ERISMagnet != "" {
		m, err := torrent.ParseMagnet(n.ERISMagnet)
		if err != nil {
			return nil, err
		}
		if e.signed.ERISMagnet != n.ERISMagnet && len(c.keys.Guix.Keys()) > 0 {
			return nil, fmt.Errorf("%w: the signature does not cover ERISMagnet", narinfo.ErrUnsigned)
		}
		e.magnet = &m
	}
	if !slices.ContainsFunc(n.Nars, func(one narinfo.Nar) bool { return one.Compression == format.Name }) {
		return nil, fmt.Errorf("ERISFormat %s is that of no nar", n.ERISFormat)
	}
	e.named = c.Nar(format, e.signed.StorePath.Base())
	return n.Nars, nil
}

// checkFile checks a nar as it is stored.
func (c *checker) checkFile(ctx context.Context, name string, n narinfo.Nar, signed narinfo.Signed) error {
	got, size, err := folder.HashNar(ctx, c.Path(name), n.Compression, signed.NarSize)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("the nar is missing")
	case err != nil:
		return err
	case uint64(size) != n.FileSize:
		return fmt.Errorf("the file has %d bytes, not %d", size, n.FileSize)
	case uint64(got.Size) != signed.NarSize:
		return fmt.Errorf("the nar has not %d bytes", signed.NarSize)
	case got.Hash != signed.NarHash:
		return fmt.Errorf("the nar has %s, not %s", narinfo.FormatHash(got.Hash), narinfo.FormatHash(signed.NarHash))
	}
	return nil
}

// checkBlocks checks what the index has of an item whose nars are good.
func (c *checker) checkBlocks(ctx context.Context, e *entry) error {
	found := error(nil)
	if c.index != nil {
		p := e.signed.StorePath
		want := narindex.Item{Hash: p.Hash, Base: p.Base(), Nar: e.named}
		var err error
		if found, err = c.index.Check(ctx, want, e.cap); err != nil {
			return err
		}
		if found == nil {
			return c.checkTorrent(ctx, e)
		}
	}
	// Either the tree file and the index are wrong or the URN is.
	rc, err := encodeFile(ctx, c.Path(e.named), nil)
	if err != nil {
		return err
	}
	if rc != e.cap {
		e.flaws = append(e.flaws, flaw{e.named, fmt.Errorf("encodes to %s, not %s", rc.URN(), e.cap.URN()), false})
	} else if found != nil {
		e.flaws = append(e.flaws, flaw{narindex.File, fmt.Errorf("%s: %w", e.signed.StorePath.Base(), found), true})
	}
	return nil
}

// encodeFile encodes a file as the baker does; w takes the blocks, or is nil.
func encodeFile(ctx context.Context, name string, w *narindex.Writer) (eris.ReadCap, error) {
	enc := encoder{}
	if w != nil {
		enc.emit = w.Add
	}
	if err := folder.Copy(ctx, &enc, name); err != nil {
		return eris.ReadCap{}, err
	}
	return enc.finish()
}

// reindex makes the tree file and the rows of an item anew, and its torrent if
// there is to be one.
func (c *checker) reindex(ctx context.Context, e entry) (err error) {
	old, err := c.index.Item(ctx, e.signed.StorePath.Hash)
	if err != nil && !errors.Is(err, narindex.ErrNoItem) {
		return err
	}
	w, err := c.index.NewWriter(e.signed.StorePath)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Abort()) }()
	rc, err := encodeFile(ctx, c.Path(e.named), w)
	if err != nil {
		return err
	}
	fi, err := os.Stat(c.Path(e.named))
	if err != nil {
		return err
	}
	if rc != e.cap {
		return fmt.Errorf("%s has changed meanwhile", e.named)
	}
	if err := w.Commit(ctx, rc, fi.Size(), e.named); err != nil {
		return err
	}
	if err := c.retorrent(ctx, e); err != nil || old.Manifest == "" {
		return err
	}
	return c.index.SetManifest(ctx, old.Hash, old.Manifest)
}

// reindexHash is reindex for an entry that has been checked before.
func (c *checker) reindexHash(ctx context.Context, hash string) error {
	e, err := c.check(ctx, hash)
	if err != nil {
		return err
	}
	if e.named == "" || slices.ContainsFunc(e.flaws, func(f flaw) bool { return !f.index }) {
		return errors.New("its narinfo or nar is broken too")
	}
	return c.reindex(ctx, e)
}

// drop removes an entry, narinfo first. What the index has of an item that is
// in IPFS stays: the server takes it out of it.
func (c *checker) drop(ctx context.Context, hash string) error {
	names := []string{c.Narinfo(hash)}
	for _, method := range methodNames() {
		dir := c.narDir(method)
		err := folder.List(c.Path(dir), func(base string) error {
			if p, err := storepath.ParseBase("/", base); err == nil && p.Hash == hash {
				names = append(names, dir+"/"+base)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, name := range names {
		if !folder.Exists(c.Path(name)) {
			continue
		}
		if err := durable.Remove(c.Path(name)); err != nil {
			return err
		}
	}
	if c.index == nil {
		return nil
	}
	i, err := c.index.Item(ctx, hash)
	if errors.Is(err, narindex.ErrNoItem) || err == nil && i.Manifest != "" {
		return nil
	}
	if err != nil {
		return err
	}
	return c.index.Remove(ctx, hash)
}
