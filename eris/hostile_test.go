package eris_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"golang.org/x/crypto/blake2b"

	"ersatz/eris"
)

// forge makes trees that no encoder makes.
type forge struct {
	*blockMap
	size eris.BlockSize
}

func newForge(size eris.BlockSize) forge { return forge{newMap(), size} }

// pair is a reference and a key, 64 bytes.
type pair = []byte

// leaf stores a leaf that holds content and then whatever fills it up.
func (f forge) leaf(content, filler []byte) pair {
	node := make([]byte, f.size)
	n := copy(node, content)
	copy(node[n:], filler)
	return f.node(0, node, eris.LeafKey(node, eris.Secret{}))
}

// full stores a leaf without padding.
func (f forge) full() pair { return f.leaf(bytes.Repeat([]byte{7}, int(f.size)), nil) }

// last stores a leaf of three bytes of content.
func (f forge) last() pair { return f.leaf([]byte("end\x80"), nil) }

// inner stores an internal node.
func (f forge) inner(level int, pairs ...pair) pair {
	node := make([]byte, f.size)
	copy(node, bytes.Join(pairs, nil))
	return f.node(level, node, blake2b.Sum256(node))
}

func (f forge) node(level int, node []byte, key eris.Key) pair {
	block := make([]byte, f.size)
	eris.Seal(block, node, level, key)
	ref := eris.BlockRef(block)
	f.blocks[ref] = block
	return append(ref[:], key[:]...)
}

func (f forge) readCap(level uint8, p pair) eris.ReadCap {
	return eris.ReadCap{Size: f.size, Level: level, Root: eris.Ref(p[:32]), Key: eris.Key(p[32:])}
}

func times(p pair, n int) []pair {
	pairs := make([]pair, n)
	for i := range pairs {
		pairs[i] = p
	}
	return pairs
}

func TestHostileTrees(t *testing.T) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		for name, c := range map[string]struct {
			make func(f forge) (level uint8, root pair)
			msg  string
		}{
			"level raised": { // what official vector 17 is about
				func(f forge) (uint8, pair) { return 1, f.last() }, "root node does not match its key",
			},
			"level lowered": {
				func(f forge) (uint8, pair) { return 0, f.inner(1, f.full(), f.last()) }, "last leaf",
			},
			"bad padding": { // what official vector 23 is about
				func(f forge) (uint8, pair) {
					return 1, f.inner(1, f.full(), f.leaf([]byte("end\x80"), []byte{0, 0, 1}))
				}, "last leaf ends in neither",
			},
			"no padding": {
				func(f forge) (uint8, pair) { return 1, f.inner(1, f.full(), f.leaf(nil, nil)) }, "no padding",
			},
			"empty root": {
				func(f forge) (uint8, pair) { return 1, f.inner(1) }, "without pairs",
			},
			"empty node": {
				func(f forge) (uint8, pair) {
					return 2, f.inner(2, f.inner(1, times(f.full(), size.Arity())...), f.inner(1))
				}, "without pairs",
			},
			"bytes after the null pair": {
				func(f forge) (uint8, pair) {
					return 1, f.inner(1, f.full(), f.last(), make(pair, 64), f.last())
				}, "after its last pair",
			},
			"null reference with a key": {
				func(f forge) (uint8, pair) {
					return 1, f.inner(1, f.full(), f.last(), append(make(pair, 63), 1))
				}, "after its last pair",
			},
			"root with one pair": {
				func(f forge) (uint8, pair) { return 1, f.inner(1, f.last()) }, "one pair only",
			},
			"node not full": {
				func(f forge) (uint8, pair) {
					short := f.inner(1, times(f.full(), size.Arity()-1)...)
					return 2, f.inner(2, short, f.inner(1, f.last()))
				}, "full",
			},
		} {
			t.Run(size.String()+" "+name, func(t *testing.T) {
				f := newForge(size)
				level, root := c.make(f)
				for how, read := range decoders {
					_, err := decode(t, f.readCap(level, root), f, read)
					if !errors.Is(err, eris.ErrCorrupt) || !strings.Contains(err.Error(), c.msg) {
						t.Errorf("%s: %v, want %q", how, err, c.msg)
					}
				}
			})
		}
	}
}

// TestSelfMadeTree reads a well-formed tree that the forge made, so that the
// failures above are those that they seem to be.
func TestSelfMadeTree(t *testing.T) {
	f := newForge(eris.Size1KiB)
	root := f.inner(2, f.inner(1, times(f.full(), 16)...), f.inner(1, f.full(), f.last()))
	want := append(bytes.Repeat([]byte{7}, 17<<10), "end"...)
	for how, read := range decoders {
		if got, err := decode(t, f.readCap(2, root), f, read); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", how, len(got), err)
		}
	}
}

// bomb returns the capability of a few blocks that claim a content of arity to
// the power of level blocks.
func bomb(f forge, level int) eris.ReadCap {
	p := f.full()
	for l := 1; l <= level; l++ {
		p = f.inner(l, times(p, f.size.Arity())...)
	}
	return f.readCap(uint8(level), p)
}

// TestBomb wants a bound on the length to stop a tree of repeated nodes before
// much was asked for.
func TestBomb(t *testing.T) {
	for _, c := range []struct {
		size  eris.BlockSize
		level int
		bound int64
	}{
		{eris.Size1KiB, 2, 200 << 10}, {eris.Size1KiB, 6, 9 << 20}, {eris.Size1KiB, 13, 1 << 50},
		{eris.Size32KiB, 2, 1 << 30}, {eris.Size32KiB, 4, 1 << 40}, {eris.Size32KiB, 4, 1000},
	} {
		f := newForge(c.size)
		readCap := bomb(f, c.level)
		for how, read := range decoders {
			f.asked = 0
			_, err := read(t.Context(), readCap, f, eris.ReaderOptions{MaxLength: c.bound})
			if !errors.Is(err, eris.ErrTooLong) {
				t.Errorf("%v level %d, %s: %v", c.size, c.level, how, err)
			}
			if f.asked > 1 {
				t.Errorf("%v level %d, %s: asked for %d blocks", c.size, c.level, how, f.asked)
			}
		}
	}
}

func TestMaxLength(t *testing.T) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		for _, n := range []int64{0, 1, 1000, 1023, 1024, 16383, 16384, 100_000, 1 << 20} {
			m := newMap()
			c, _, err := eris.Encode(keystream(t, "max length", n), size, eris.Secret{}, m.put)
			if err != nil {
				t.Fatal(err)
			}
			if n > c.MaxLength() {
				t.Errorf("%v: MaxLength of level %d is %d, content has %d", size, c.Level, c.MaxLength(), n)
			}
			for _, bound := range []int64{n - 1, n, n + 1} {
				if bound <= 0 {
					continue
				}
				for how, read := range decoders {
					got, err := read(t.Context(), c, m, eris.ReaderOptions{MaxLength: bound})
					if bound < n && !errors.Is(err, eris.ErrTooLong) || bound >= n && (err != nil || int64(len(got)) != n) {
						t.Errorf("%v, %d bytes, bound %d, %s: %d bytes, %v", size, n, bound, how, len(got), err)
					}
				}
			}
		}
	}
}

// TestDeepCapability wants capabilities that no content can have refused
// before anything is asked for.
func TestDeepCapability(t *testing.T) {
	m := newMap()
	for _, c := range []eris.ReadCap{
		{Size: eris.Size1KiB, Level: 255}, {Size: eris.Size1KiB, Level: 15},
		{Size: eris.Size32KiB, Level: 7}, {Size: 512, Level: 0}, {},
	} {
		r := eris.NewReader(t.Context(), c, m, eris.ReaderOptions{})
		if _, err := io.ReadAll(r); err == nil || errors.Is(err, eris.ErrNotFound) {
			t.Errorf("%v: %v", c, err)
		}
		if _, err := r.ReadAt(make([]byte, 1), 0); err == nil {
			t.Errorf("%v: ReadAt succeeded", c)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		f := eris.NewFiller(c, newShelf(c), eris.FillOptions{})
		_, err := f.Run(t.Context(), m)
		put := f.PutLeaf(0, make([]byte, eris.Size1KiB))
		if err == nil || errors.Is(err, eris.ErrNotFound) || put == nil || f.Err() == nil || len(f.Missing()) > 0 {
			t.Errorf("%v: filler: %v; %v; %v", c, err, put, f.Missing())
		}
	}
	if m.asked > 0 {
		t.Errorf("asked for %d blocks", m.asked)
	}
}
