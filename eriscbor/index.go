package eriscbor

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"ersatz/eris"
)

// MaxBlocks bounds the blocks of a bundle that is indexed: half a TiB in blocks
// of 32 KiB, whose index takes 256 MiB.
const MaxBlocks = 1 << 24

// maxAlike bounds the blocks that are kept whose references begin alike. By
// chance there is one; a bundle that repeats a block would have all of them read
// each time that the block is asked for.
const maxAlike = 4

// Index says where the blocks of a bundle are, in 16 bytes each. It is safe for
// concurrent use.
type Index struct {
	places []place
	caps   []eris.ReadCap
	size   int64
}

// place is where a block is. Of the reference it has only the beginning, since
// who fetches a block hashes it.
type place struct {
	prefix uint64
	off    int64 // in the bundle, times two; plus one if the block has 32 KiB
}

func (p place) size() eris.BlockSize {
	if p.off%2 == 1 {
		return eris.Size32KiB
	}
	return eris.Size1KiB
}

func prefixOf(ref eris.Ref) uint64 { return binary.BigEndian.Uint64(ref[:8]) }

// ReadIndex reads a whole bundle. A block whose bytes are not what its reference
// says is told to wrong, which may be nil, and left out. The error matches
// eris.ErrCorrupt if this is no bundle, or only the beginning of one, or if it
// has more than MaxBlocks.
func ReadIndex(r io.Reader, wrong func(error)) (*Index, error) {
	if wrong == nil {
		wrong = func(error) {}
	}
	x := &Index{}
	b := NewReader(r)
	var together group
	for n := 0; ; n++ {
		ref, size, err := b.next()
		switch {
		case errors.Is(err, io.EOF):
			x.add(&together, wrong)
			if x.caps, err = b.Caps(); err != nil {
				return nil, err
			}
			x.size = b.Offset()
			slices.SortFunc(x.places, func(a, b place) int { return cmp.Or(cmp.Compare(a.prefix, b.prefix), cmp.Compare(a.off, b.off)) })
			x.dropAlike()
			return x, nil
		case err != nil:
			return nil, err
		case n == MaxBlocks:
			return nil, fmt.Errorf("bundle: %w: more than %d blocks", eris.ErrCorrupt, MaxBlocks)
		}
		if together.size != size || together.next() == nil {
			x.add(&together, wrong)
			together.fit(size)
		}
		block := together.next()
		if err := b.d.full(block); err != nil {
			return nil, err
		}
		together.blocks = append(together.blocks, block)
		together.refs, together.ends = append(together.refs, ref), append(together.ends, b.Offset())
	}
}

// group is blocks that are hashed together: what a bundle says of them.
type group struct {
	shelf
	refs []eris.Ref
	ends []int64 // of the blocks in the bundle
	sums []eris.Ref
}

// fit empties the group for blocks of a size.
func (g *group) fit(size eris.BlockSize) {
	if g.size != size {
		g.shelf = *newShelf(size)
		g.sums = make([]eris.Ref, cap(g.blocks))
	}
	g.blocks, g.refs, g.ends = g.blocks[:0], g.refs[:0], g.ends[:0]
}

// add adds the blocks that are right, and tells of the others.
func (x *Index) add(g *group, wrong func(error)) {
	sums := g.sums[:len(g.blocks)]
	eris.BlockRefs(sums, g.blocks)
	for i, ref := range g.refs {
		if sums[i] != ref {
			wrong(fmt.Errorf("bundle, before byte %d: %w", g.ends[i], &eris.CorruptError{Ref: ref, Msg: mismatch}))
			continue
		}
		p := place{prefixOf(ref), (g.ends[i] - int64(g.size)) * 2}
		if g.size == eris.Size32KiB {
			p.off++
		}
		x.places = append(x.places, p)
	}
}

// dropAlike leaves the first maxAlike of the sorted places that have one prefix.
func (x *Index) dropAlike() {
	kept := x.places[:0]
	for _, p := range x.places {
		if n := len(kept); n < maxAlike || kept[n-maxAlike].prefix != p.prefix {
			kept = append(kept, p)
		}
	}
	x.places = kept
}

// Caps returns the read capabilities that the bundle names, in order.
func (x *Index) Caps() []eris.ReadCap { return x.caps }

// Blocks returns how many blocks there are; repeated ones count up to four times.
func (x *Index) Blocks() int { return len(x.places) }

// Size returns the size of the bundle, in bytes.
func (x *Index) Size() int64 { return x.size }

// Fetcher returns an eris.Fetcher of the blocks, which it reads from r: the same
// bytes that ReadIndex has read, or what has become of them, since whoever
// fetches verifies.
func (x *Index) Fetcher(r io.ReaderAt) eris.Fetcher { return &indexFetcher{Index: x, r: r} }

type indexFetcher struct {
	*Index
	r    io.ReaderAt
	free sync.Pool // of *shelf
}

// shelf is memory for blocks of one size that are hashed together.
type shelf struct {
	size   eris.BlockSize
	room   []byte
	is     []int
	blocks [][]byte
}

func newShelf(size eris.BlockSize) *shelf {
	n := eris.Together(size)
	return &shelf{size, make([]byte, n*int(size)), make([]int, 0, n), make([][]byte, 0, n)}
}

// next returns where the next block goes, nil if there is no room.
func (s *shelf) next() []byte {
	at := len(s.blocks) * int(s.size)
	if at == len(s.room) {
		return nil
	}
	return s.room[at:][:s.size]
}

// flush hands over what there is.
func (s *shelf) flush(got eris.GotMany) error {
	if len(s.is) == 0 {
		return nil
	}
	_, err := got(s.is, s.blocks)
	s.is, s.blocks = s.is[:0], s.blocks[:0]
	return err
}

// Fetch implements eris.Fetcher.
func (f *indexFetcher) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	return f.FetchMany(ctx, size, refs, eris.One(got))
}

// FetchMany implements eris.ManyFetcher.
func (f *indexFetcher) FetchMany(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	s, ok := f.free.Get().(*shelf)
	if !ok || s.size != size {
		s = newShelf(size)
	}
	defer func() {
		s.is, s.blocks = s.is[:0], s.blocks[:0]
		f.free.Put(s)
	}()
	for i, ref := range refs {
		if err := ctx.Err(); err != nil {
			return err
		}
		places, n := f.alike(ref, size)
		if n != 1 || s.next() == nil {
			if err := s.flush(got); err != nil {
				return err
			}
		}
		var wrong error // of a block that another one was taken for, and is asked of got alone
		for _, p := range places {
			if p.size() != size {
				continue
			}
			block := s.next()
			if err := f.read(block, p); err != nil {
				return errors.Join(s.flush(got), fmt.Errorf("block %s: %w", ref, err))
			}
			s.is, s.blocks = append(s.is, i), append(s.blocks, block)
			if n == 1 {
				break
			}
			if wrong = s.flush(got); wrong == nil || !errors.Is(wrong, eris.ErrCorrupt) {
				break
			}
		}
		if wrong != nil {
			return fmt.Errorf("block %s: %w", ref, wrong)
		}
	}
	return s.flush(got)
}

// alike returns the places of blocks whose references begin as ref does, and how
// many of these blocks have a size.
func (x *Index) alike(ref eris.Ref, size eris.BlockSize) (alike []place, n int) {
	prefix := prefixOf(ref)
	i, _ := slices.BinarySearchFunc(x.places, prefix, func(p place, prefix uint64) int { return cmp.Compare(p.prefix, prefix) })
	alike = x.places[i:]
	for k, p := range alike {
		if p.prefix != prefix {
			return alike[:k], n
		}
		if p.size() == size {
			n++
		}
	}
	return alike, n
}

// read reads the block at a place.
func (f *indexFetcher) read(block []byte, p place) error {
	n, err := f.r.ReadAt(block, p.off/2)
	switch {
	case n == len(block):
		return nil
	case errors.Is(err, io.EOF):
		// As io.EOF, it would look like the end of the content.
		return fmt.Errorf("%w: bundle is shorter than it was", eris.ErrCorrupt)
	}
	return err
}
