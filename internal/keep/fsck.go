package keep

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"ersatz/eris"
	"ersatz/internal/block/narindex"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// CheckOptions are what of Fsck has a default.
type CheckOptions struct {
	// Repair removes what is broken, and makes trees and index rows anew. No
	// other process may have the folder.
	Repair bool
	// Progress is called after each of the items that there are. Default none.
	Progress func(done, total int)
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// IsState reports whether dir is the state folder of a node.
func IsState(dir string) bool {
	for _, name := range []string{infoDir, partsDir} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || !fi.IsDir() {
			return false
		}
	}
	return true
}

// Fsck reads all that a state folder keeps and reports each fault: records;
// nars against their size, NarHash and NarSize; the blocks that they are made
// into against the read capability; tree files and index rows in both
// directions; torrents against the blocks; files that belong to nothing. What is in parts is verified when
// it is used. Without Repair it works beside a node, and takes no work in
// progress for a fault. An error means that it could not go on; with Repair,
// it matches ErrLocked if another process has the folder.
func Fsck(ctx context.Context, dir string, o CheckOptions, report func(folder.Fault)) error {
	if !o.Repair {
		return check(ctx, dir, o, report)
	}
	lock, err := folder.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return fmt.Errorf("fsck %s: %w", dir, err)
	}
	return errors.Join(check(ctx, dir, o, report), lock.Close())
}

// check is Fsck by who has the lock, if that is needed.
func check(ctx context.Context, dir string, o CheckOptions, report func(folder.Fault)) error {
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &checker{Check: folder.Check{Dir: dir, Repair: o.Repair, Report: report, Alone: o.Repair, Before: o.Now()}, o: o}
	if err := c.run(ctx); err != nil {
		return fmt.Errorf("fsck %s: %w", dir, err)
	}
	return nil
}

type checker struct {
	folder.Check
	o     CheckOptions
	index *narindex.Index // nil if there is none
}

func (c *checker) run(ctx context.Context) (err error) {
	total := 0
	if _, err := os.Stat(c.Dir); err != nil {
		return err
	}
	if err := folder.List(c.Path(infoDir), func(string) error { total++; return nil }); err != nil {
		return err
	}
	if !c.Repair {
		if c.Before, err = folder.Settled(c.Path(lockFile), c.o.Now()); err != nil {
			return err
		}
	}
	if folder.Exists(c.Path(narindex.File)) || c.Repair {
		if c.index, err = narindex.Open(c.Dir); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, c.index.Close()) }()
	}
	done := 0
	err = folder.List(c.Path(infoDir), func(name string) error {
		if err := ctx.Err(); err != nil || strings.HasPrefix(name, durable.TempPrefix) {
			return err
		}
		err := c.item(ctx, name)
		if done++; c.o.Progress != nil {
			c.o.Progress(done, max(done, total))
		}
		return err
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, c.Twice(ctx, func() error {
		return errors.Join(c.leftItems(ctx), c.ExtraRows(ctx, c.index, c.drop), c.strays(ctx), c.parts())
	}))
}

// flaw is what is wrong with an item.
type flaw struct {
	file string
	err  error
	// index means that record and nar are good, so that the rest can be made
	// from them, and torrent that all is but its torrent.
	index, torrent bool
}

// item checks one item. One with a fault is checked twice, since it may have
// been replaced or removed meanwhile.
func (c *checker) item(ctx context.Context, hash string) error {
	_, first, _, err := c.check(ctx, hash)
	if err != nil || first == nil {
		return err
	}
	i, f, text, err := c.check(ctx, hash)
	if err != nil || f == nil {
		return err
	}
	if again, err := folder.Read(c.Path(infoDir+"/"+hash), maxRecord); err == nil && !bytes.Equal(again, text) {
		return nil // replaced
	}
	return c.Fault(f.file, f.err.Error(), func() error {
		if f.torrent { // it is made anew when somebody wants it
			return durable.Remove(c.Path(f.file))
		}
		if f.index && c.reindex(ctx, i) == nil {
			return nil
		}
		return c.drop(ctx, hash)
	})
}

// check returns what is wrong with an item, if anything, and its record.
func (c *checker) check(ctx context.Context, hash string) (i Item, f *flaw, text []byte, err error) {
	name := infoDir + "/" + hash
	text, err = folder.Read(c.Path(name), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return i, nil, nil, nil
	}
	a := About{}
	if err == nil {
		a, err = parseRecord(text)
	}
	i = a.Item
	i.Size = a.FileSize
	if err == nil && i.Path.Hash != hash {
		err = fmt.Errorf("%w: it is of %s", errRecord, i.Path)
	}
	if err == nil && len(i.Narinfo) > 0 {
		err = sameNarinfo(i)
	}
	if err != nil {
		return i, &flaw{file: name, err: err}, text, nil
	}
	nar := narName(i.Method, i.Path.Base())
	if err := checkNar(ctx, c.Path(nar), i); err != nil || ctx.Err() != nil {
		return i, &flaw{file: nar, err: err}, text, ctx.Err()
	}
	found := error(narindex.ErrNoItem)
	if c.index != nil {
		want := narindex.Item{Hash: hash, Base: i.Path.Base(), Nar: nar}
		if found, err = c.index.Check(ctx, want, i.ReadCap); err != nil {
			return i, nil, text, err
		}
		if found == nil {
			return i, c.torrentFlaw(ctx, i), text, ctx.Err()
		}
	}
	return i, &flaw{file: narindex.File, err: fmt.Errorf("%s: %w", i.Path.Base(), found), index: true}, text, nil
}

// torrentFlaw returns what is wrong with the torrent of an item whose blocks are
// good, if one is kept.
func (c *checker) torrentFlaw(ctx context.Context, i Item) *flaw {
	content, err := c.index.Open(ctx, i.Path.Hash)
	if err != nil {
		return nil // it has been removed meanwhile
	}
	defer content.Close() // it was only read
	if err := content.CheckTorrent(ctx); err != nil && ctx.Err() == nil {
		return &flaw{file: path.Join(narindex.TorrentDir, i.Path.Base()), err: err, torrent: true}
	}
	return nil
}

// sameNarinfo compares the narinfo of an item with its record. Nobody here knows
// whose signature would count.
func sameNarinfo(i Item) error {
	n, err := narinfo.Parse(i.Narinfo)
	if err != nil {
		return err
	}
	if n.StorePath != i.Path.String() {
		return fmt.Errorf("%w: %s", narinfo.ErrWrongPath, n.StorePath)
	}
	return nil
}

// checkNar checks a nar as it is kept.
func checkNar(ctx context.Context, name string, i Item) error {
	got, size, err := folder.HashNar(ctx, name, i.Method, uint64(i.NarSize))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("the nar is missing")
	case err != nil:
		return err
	case size != i.Size:
		return fmt.Errorf("the file has %d bytes, not %d", size, i.Size)
	case got.Size != i.NarSize:
		return fmt.Errorf("the nar has not %d bytes", i.NarSize)
	case got.Hash != i.NarHash:
		return fmt.Errorf("the nar has %s, not %s", narinfo.FormatHash(got.Hash), narinfo.FormatHash(i.NarHash))
	}
	return nil
}

// reindex makes the tree file and the rows of an item anew, if its nar encodes
// to its read capability. That of another secret cannot be made.
func (c *checker) reindex(ctx context.Context, i Item) (err error) {
	w, err := c.index.NewWriter(i.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Abort()) }()
	name := narName(i.Method, i.Path.Base())
	enc := eris.NewEncoder(i.ReadCap.Size, eris.Secret{}, w.Add)
	if err := folder.Copy(ctx, enc, c.Path(name)); err != nil {
		return err
	}
	rc, err := enc.Finish()
	if err != nil {
		return err
	}
	if rc != i.ReadCap {
		return fmt.Errorf("%s encodes to %s, not %s", name, rc.URN(), i.ReadCap.URN())
	}
	return w.Commit(ctx, rc, i.Size, name)
}

// drop removes an item, of which nothing is known for sure but its hash part.
func (c *checker) drop(ctx context.Context, hash string) error {
	var nars []string
	for _, m := range methods() {
		err := folder.List(c.Path(path.Join(narDir, m)), func(base string) error {
			if p, err := storepath.ParseBase("/", base); err == nil && p.Hash == hash {
				nars = append(nars, narName(m, base))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return removeItem(ctx, c.Dir, c.index, hash, nars...)
}
