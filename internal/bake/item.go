package bake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"ersatz/eris"
	"ersatz/internal/block/narindex"
	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/internal/storedb"
	"ersatz/nar"
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

// compress dumps an item once, into a file per method.
func (c *Cache) compress(ctx context.Context, info storedb.Info, compressed func()) (err error) {
	methods := Methods(info.Path.Base(), c.o.Methods)
	which := named(methods)
	blocks, err := c.newBlocks(info.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blocks.Abort()) }()
	var streams []*stream
	defer func() {
		for _, s := range streams {
			err = errors.Join(err, s.file.Abort())
		}
	}()
	size := int64(min(info.NarSize, math.MaxInt64))
	threads := 0
	defer func() { c.cores.give(threads) }()
	for i, m := range methods {
		var add func(eris.Block) error
		if i == which {
			add = blocks.add
		}
		n := c.cores.take(m.Threads(size))
		threads += n
		o := compress.Options{Size: size, Threads: n, Background: true}
		s, err := newStream(c.path(c.Nar(m, info.Path.Base())), m, o, add)
		if err != nil {
			return closeAll(err, streams)
		}
		streams = append(streams, s)
	}
	f := newFan(ctx, streams)
	got, dumpErr := nar.Dump(f, info.Path.String())
	if dumpErr != nil {
		f.interrupt()
	}
	closeErr := f.Close()
	c.cores.give(threads)
	threads = 0
	if dumpErr != nil {
		return dumpErr
	}
	if closeErr != nil {
		return closeErr
	}
	if got.Hash != info.NarHash || uint64(got.Size) != info.NarSize {
		return fmt.Errorf("%w: nar of %s has %s and %d bytes, the store's database says %s and %d", ErrFailed, info.Path,
			narinfo.FormatHash(got.Hash), got.Size, narinfo.FormatHash(info.NarHash), info.NarSize)
	}
	compressed()
	var nars []stored
	for _, s := range streams {
		if err := s.file.Commit(); err != nil {
			return err
		}
		nars = append(nars, stored{s.method, s.n})
	}
	return c.commit(ctx, info, blocks, streams[which].cap, nars)
}

// closeAll frees what the compressors of streams hold.
func closeAll(err error, streams []*stream) error {
	for _, s := range streams {
		err = errors.Join(err, s.comp.Close())
	}
	return err
}

// commit makes the entry of an item whose nars are in place: tree file, rows,
// torrent, narinfo.
func (c *Cache) commit(ctx context.Context, info storedb.Info, blocks *blocks, rc eris.ReadCap, nars []stored) error {
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
	if err := blocks.Commit(ctx, rc, content.size, c.Nar(content.method, base)); err != nil {
		return err
	}
	encoded := Encoded{Format: content.method.Format(), URN: rc.URN()}
	if c.linked(info.Path.Hash) { // since it began, or since a moment ago
		var err error
		if encoded.Magnet, err = c.makeMagnet(ctx, info.Path.Hash, blocks.torrent); err != nil {
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
