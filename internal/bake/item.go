package bake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"

	"ersatz/eris"
	"ersatz/internal/block/narindex"
	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/internal/storedb"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// bake makes the entry of an item that the caller has claimed. It reports
// whether there was anything to do. compressed is called if what is left to do
// is to wait for the disk.
func (c *Cache) bake(ctx context.Context, p storepath.Path, compressed func()) (did bool, err error) {
	if c.has(p.Hash) {
		return false, nil
	}
	info, err := c.store.Info(ctx, p)
	valid := err == nil
	if errors.Is(err, storedb.ErrNotFound) {
		info, err = c.oldInfo(p)
	}
	if err != nil {
		return false, err
	}
	done, err := c.adopt(ctx, info)
	if err != nil || done {
		return done, err
	}
	if !valid {
		return false, fmt.Errorf("%w: neither the store nor the old cache has a good nar of %s", ErrFailed, p)
	}
	return true, c.compress(ctx, info, compressed)
}

// stored is a nar in the cache folder.
type stored struct {
	method compress.Method
	size   int64 // bytes of the file
}

// compress makes the nars of an item and its tree, and its entry.
func (c *Cache) compress(ctx context.Context, info storedb.Info, compressed func()) (err error) {
	index, err := c.index.NewWriter(info.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, index.Abort()) }()
	methods := Methods(info.Path.Base(), c.o.Methods)
	j := job{
		Path: fileName(info.Path.String()), Size: int64(min(info.NarSize, math.MaxInt64)), Named: named(methods),
		Tree: fileName(index.File().TempName()), Torrent: c.linked(info.Path.Hash),
	}
	var files []*durable.File
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Abort())
		}
	}()
	for _, m := range methods {
		f, err := durable.Create(c.path(c.Nar(m, info.Path.Base())), 0o644)
		if err != nil {
			return err
		}
		files = append(files, f)
		j.Forms = append(j.Forms, form{m, 0, fileName(f.TempName())})
	}
	got, err := c.make(ctx, j, index.File(), files)
	if err != nil {
		return err
	}
	if got.Nar.Hash != info.NarHash || uint64(got.Nar.Size) != info.NarSize {
		return fmt.Errorf("%w: nar of %s has %s and %d bytes, the store's database says %s and %d", ErrFailed, info.Path,
			narinfo.FormatHash(got.Nar.Hash), got.Nar.Size, narinfo.FormatHash(info.NarHash), info.NarSize)
	}
	rc, err := eris.ParseReadCap(got.Cap)
	if err != nil {
		return err
	}
	compressed()
	var nars []stored
	for i, f := range files {
		if err := f.Commit(); err != nil {
			return err
		}
		nars = append(nars, stored{methods[i], got.Sizes[i]})
	}
	return c.commit(ctx, info, index, nars, rc, got.Pieces)
}

// make does a job by as many threads as are free, in a process of its own if
// there is one. What one goroutine does takes some 4 % less of processors than what
// several do, and as long if others have the other processors.
func (c *Cache) make(ctx context.Context, j job, tree *durable.File, files []*durable.File) (got made, err error) {
	threads := 0
	for i := range j.Forms {
		f := &j.Forms[i]
		f.Threads = c.cores.take(f.Method.Threads(j.Size))
		threads += f.Threads
	}
	defer c.cores.give(threads)
	n := c.jobs.Add(1)
	defer c.jobs.Add(-1)
	j.Alone = n > 1 && n >= int64(runtime.GOMAXPROCS(0))
	if c.children != nil {
		if got, err = c.children.make(ctx, j); !errors.Is(err, errNoChild) {
			return got, err
		}
	}
	to := make([]io.Writer, len(files))
	for i, f := range files {
		to[i] = f
	}
	var t tools
	defer t.spare.Free()
	return t.make(ctx, j, tree, to)
}

// commit makes the entry of an item whose nars are in place: tree file, rows,
// torrent, narinfo. pieces are of the leaves, if they were hashed.
func (c *Cache) commit(ctx context.Context, info storedb.Info, index *narindex.Writer, nars []stored, rc eris.ReadCap, pieces []byte) error {
	methods := make([]compress.Method, len(nars))
	lines := make([]narinfo.Nar, len(nars))
	base := info.Path.Base()
	for i, n := range nars {
		methods[i] = n.method
		lines[i] = narinfo.Nar{URL: c.URL(n.method, base), Compression: n.method.Name, FileSize: uint64(n.size)}
	}
	content := nars[named(methods)]
	if err := c.forgetOther(ctx, info.Path.Hash, rc); err != nil {
		return err
	}
	if err := index.CommitTree(ctx, rc, content.size, c.Nar(content.method, base)); err != nil {
		return err
	}
	encoded := Encoded{Format: content.method.Format(), URN: rc.URN()}
	if c.linked(info.Path.Hash) { // since it began, or since a moment ago
		var err error
		if encoded.Magnet, err = c.makeMagnet(ctx, info.Path.Hash, pieces); err != nil {
			return err
		}
	}
	text, err := c.signer.Narinfo(info, encoded, lines)
	if err != nil {
		return err
	}
	return durable.WriteFile(c.path(c.Narinfo(info.Path.Hash)), 0o644, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

// forgetOther removes from IPFS what the index has of an item before it is
// replaced by other blocks.
func (c *Cache) forgetOther(ctx context.Context, hash string, rc eris.ReadCap) error {
	i, err := c.index.Item(ctx, hash)
	if errors.Is(err, narindex.ErrNoItem) || err == nil && i.Manifest == "" {
		return nil
	}
	if err != nil {
		return err
	}
	old, err := c.index.Open(ctx, hash)
	if err == nil {
		same := old.ReadCap() == rc
		if err := old.Close(); err != nil || same {
			return err
		}
	}
	return c.unput(ctx, i)
}
