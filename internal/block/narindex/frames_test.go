package narindex

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"ersatz/eris"
)

// sent returns the blocks that Frames gives, nil for those that it lacks, as who
// gets them over a line takes them apart.
func sent(t *testing.T, x *Index, refs []eris.Ref) (blocks [][]byte) {
	t.Helper()
	var all []byte
	for part := range slices.Chunk(refs, 512) {
		err := x.Frames(t.Context(), part, func(frames []byte) error {
			all = append(all, frames...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for len(all) >= 4 {
		n := binary.BigEndian.Uint32(all)
		switch block := all[4:][:n]; {
		case n == 0:
			blocks = append(blocks, nil)
		case eris.BlockRef(block) != refs[len(blocks)]:
			t.Fatalf("block %d is another", len(blocks))
		default:
			blocks = append(blocks, block)
		}
		all = all[4+n:]
	}
	if len(all) > 0 || len(blocks) != len(refs) {
		t.Fatalf("%d blocks for %d references, and %d bytes", len(blocks), len(refs), len(all))
	}
	return blocks
}

// Frames has what Batch has, whatever is asked for.
func TestFrames(t *testing.T) {
	x := open(t)
	var refs []eris.Ref
	blocks := map[eris.Ref][]byte{}
	for n, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB, eris.Size1KiB, eris.Size32KiB} {
		it := add(t, x, n, randomBytes(byte(n), 20*int(size)-n), size)
		for i, ref := range it.refs {
			blocks[ref] = it.blocks[ref]
			refs = append(refs, ref)
			if i%5 == 4 {
				refs = append(refs, eris.Ref{byte(i), byte(n)})
			}
		}
		refs = append(refs, it.refs[3], it.refs[1]) // again, backwards
	}
	interleaved := make([]eris.Ref, 0, len(refs))
	for i := range refs {
		interleaved = append(interleaved, refs[i*37%len(refs)])
	}
	for _, refs := range [][]eris.Ref{refs, interleaved, refs[:1], {{1}}, nil} {
		for i, b := range sent(t, x, refs) {
			if !bytes.Equal(b, blocks[refs[i]]) {
				t.Fatalf("block %d has %d bytes, not %d", i, len(b), len(blocks[refs[i]]))
			}
		}
	}
}

// A block that is spoiled within a group comes from another item that has it, or is
// missing, and the others of the group are there.
func TestFramesOfSpoiled(t *testing.T) {
	x := open(t)
	content := randomBytes(1, 100<<10)
	a := add(t, x, 0, content, eris.Size1KiB)
	for _, leaf := range []int64{0, 3, 4, 40, 99} {
		damage(t, filepath.Join(x.dir, a.nar), leaf<<10)
	}
	count := func() (n int) {
		for _, b := range sent(t, x, a.refs) {
			if b != nil {
				n++
			}
		}
		return n
	}
	if n := count(); n != len(a.refs)-5 {
		t.Errorf("%d blocks of %d", n, len(a.refs))
	}
	add(t, x, 1, content, eris.Size1KiB)
	if n := count(); n != len(a.refs) {
		t.Errorf("with a twin, %d blocks of %d", n, len(a.refs))
	}
}

// Frames ends with the error of emit, and when ctx ends.
func TestFramesEnd(t *testing.T) {
	x := open(t)
	it := add(t, x, 0, randomBytes(1, 1<<20), eris.Size32KiB)
	stop := errors.New("stop")
	calls := 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, want := range []error{stop, context.Canceled} {
		err := x.Frames(ctx, it.refs, func([]byte) error {
			calls++
			if errors.Is(want, context.Canceled) {
				cancel()
				return nil
			}
			return want
		})
		if !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if calls != 2 {
		t.Errorf("%d calls", calls)
	}
}

// To make one block more allocates nothing.
func TestFramesAllocs(t *testing.T) {
	x := open(t)
	for n, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		it := add(t, x, n, randomBytes(byte(n), 512*int(size)), size)
		r := x.Reader(nil)
		defer r.Close()
		count := func(refs []eris.Ref) float64 {
			return testing.AllocsPerRun(5, func() {
				if err := r.Frames(t.Context(), refs, func([]byte) error { return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		if few, many := count(it.refs[:16]), count(it.refs[:512]); many > few+5 { // sqlite's vary
			t.Errorf("%v: %v allocations for 16 blocks, %v for 512", size, few, many)
		}
	}
}

// A content gives the same blocks in a row, from any place on, and one by one; what
// is spoiled spoils nothing else.
func TestContentInARow(t *testing.T) {
	x := open(t)
	for n, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		it := add(t, x, n, randomBytes(byte(n), 100*int(size)), size)
		damage(t, filepath.Join(x.dir, it.nar), 17*int64(size))
		c, err := x.Open(t.Context(), it.path.Hash)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		last := c.Len() - 1
		places := []int64{last, 0, 1, 2, 50, 51, 52, last, 0, 16, 17, 18, 19, 5, 4, 3, c.Len()}
		for place := range c.Len() {
			places = append(places, place)
		}
		for _, place := range places {
			ref, b, err := c.Block(t.Context(), place)
			switch {
			case place == 17:
				if !errors.Is(err, eris.ErrCorrupt) {
					t.Errorf("spoiled block: %v", err)
				}
			case place > last:
				if err == nil {
					t.Error("a block behind the last one")
				}
			case err != nil || ref != it.refs[place] || !bytes.Equal(b, it.blocks[ref]):
				t.Fatalf("block %d of %v: %v", place, size, err)
			}
		}
		if n := testing.AllocsPerRun(3, func() {
			for place := int64(20); place < last; place++ {
				if _, _, err := c.Block(t.Context(), place); err != nil {
					t.Error(err)
				}
			}
		}); n > 0 {
			t.Errorf("%v: %v allocations", size, n)
		}
	}
}
