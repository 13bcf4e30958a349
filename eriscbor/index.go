package eriscbor

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

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

func prefixOf(ref eris.Ref) uint64 { return binary.BigEndian.Uint64(ref[:8]) }

// ReadIndex reads a whole bundle. A block whose bytes are not what its reference
// says is told to wrong, which may be nil, and left out. The error matches
// eris.ErrCorrupt if this is no bundle, or only the beginning of one, or if it
// has more than MaxBlocks.
func ReadIndex(r io.Reader, wrong func(error)) (*Index, error) {
	x := &Index{}
	b := NewReader(r)
	for n := 0; ; n++ {
		ref, block, err := b.Block()
		var corrupt *eris.CorruptError
		switch {
		case n == MaxBlocks && !errors.Is(err, io.EOF):
			return nil, fmt.Errorf("bundle: %w: more than %d blocks", eris.ErrCorrupt, MaxBlocks)
		case errors.As(err, &corrupt):
			if wrong != nil {
				wrong(fmt.Errorf("bundle, before byte %d: %w", b.Offset(), err))
			}
			continue
		case errors.Is(err, io.EOF):
			if x.caps, err = b.Caps(); err != nil {
				return nil, err
			}
			x.size = b.Offset()
			slices.SortFunc(x.places, func(a, b place) int { return cmp.Or(cmp.Compare(a.prefix, b.prefix), cmp.Compare(a.off, b.off)) })
			x.dropAlike()
			return x, nil
		case err != nil:
			return nil, err
		}
		p := place{prefixOf(ref), (b.Offset() - int64(len(block))) * 2}
		if len(block) == int(eris.Size32KiB) {
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
func (x *Index) Fetcher(r io.ReaderAt) eris.Fetcher { return &indexFetcher{x, r} }

type indexFetcher struct {
	*Index
	r io.ReaderAt
}

// Fetch implements eris.Fetcher.
func (f *indexFetcher) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	buf := make([]byte, size)
	for i, ref := range refs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.fetch(ref, buf, func() error { return got(i, buf) }); err != nil {
			return fmt.Errorf("block %s: %w", ref, err)
		}
	}
	return nil
}

// fetch reads blocks whose references begin as ref does until one is the right
// one, or the last error of got.
func (f *indexFetcher) fetch(ref eris.Ref, buf []byte, got func() error) (wrong error) {
	prefix := prefixOf(ref)
	i, _ := slices.BinarySearchFunc(f.places, prefix, func(p place, prefix uint64) int { return cmp.Compare(p.prefix, prefix) })
	for ; i < len(f.places) && f.places[i].prefix == prefix; i++ {
		off, large := f.places[i].off/2, f.places[i].off%2 == 1
		if large != (len(buf) == int(eris.Size32KiB)) {
			continue
		}
		n, err := f.r.ReadAt(buf, off)
		switch {
		case n == len(buf):
		case errors.Is(err, io.EOF):
			// As io.EOF, it would look like the end of the content.
			return fmt.Errorf("%w: bundle is shorter than it was", eris.ErrCorrupt)
		default:
			return err
		}
		if wrong = got(); wrong == nil || !errors.Is(wrong, eris.ErrCorrupt) {
			return wrong
		}
	}
	return wrong
}
