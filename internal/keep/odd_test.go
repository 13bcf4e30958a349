package keep

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block/narindex"
	"ersatz/internal/compress"
	"ersatz/internal/torrent"
)

// makeRaw is a thing whose file has exactly these bytes.
func makeRaw(t testing.TB, n byte, file []byte, size eris.BlockSize) *thing {
	t.Helper()
	x := &thing{nar: file, file: file, blocks: map[eris.Ref][]byte{}}
	x.encode(t, size, makeThing(t, n, 1).Path, compress.None)
	return x
}

// Leaves from another source fill what no source of blocks has, whether their
// references are known or not, up to a length that ends with a leaf.
func TestLeavesFromElsewhere(t *testing.T) {
	size := int64(eris.Size32KiB)
	for _, length := range []int64{3*size + 5, 4 * size} {
		for _, known := range []bool{false, true} {
			s := open(t, t.TempDir(), Options{})
			x := makeRaw(t, 0, random(1, int(length)), eris.Size32KiB)
			p := part(t, s, x)
			r := p.Reader(t.Context())
			f := eris.NewFiller(x.ReadCap, p, eris.FillOptions{})
			have := 0 // without the root, no reference is known
			if known {
				have = 3 // the root, and two leaves
			}
			_, err := f.Run(t.Context(), &from{x: x, stop: max(have, 1)})
			if known && !errors.Is(err, errStop) {
				t.Fatal(err)
			}
			for i := int64(0); i*size < length; i++ {
				node := make([]byte, size)
				if n := copy(node, x.file[i*size:]); n < len(node) {
					eris.Leaf(node, x.file[i*size:])
				}
				if known {
					if err := f.PutLeaf(i, random(9, int(size))); p.filled.done.has(i) == (err != nil) && !errors.Is(err, eris.ErrCorrupt) {
						t.Errorf("wrong bytes of leaf %d: %v", i, err)
					}
				}
				if err := f.PutLeaf(i, node); err != nil {
					t.Fatal(err)
				}
			}
			p.Finish(length)
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, x.file) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			// Its tree is not known: Commit encodes.
			i, err := p.Commit(t.Context(), x.Item, nil)
			if err != nil || i.ReadCap != x.ReadCap || !i.Signed {
				t.Errorf("%+v, %v", i, err)
			}
			closing(t, r)
			closing(t, p)
			kept(t, s, x)
			if n := served(t, s.Blocks(nil), x); n != len(x.nodes) {
				t.Errorf("%d blocks of %d", n, len(x.nodes))
			}
			closing(t, s)
		}
	}
}

// The blocks of a capability of ERIS 0.3.0 are those of no item: it is encoded
// anew, and the capability counts as a hint.
func TestLegacy(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	x := makeThing(t, 0, 50_000)
	item := x.Item
	var err error
	item.ReadCap, err = eris.ParseLegacyURN("urn:erisx2:" + strings.TrimPrefix(x.ReadCap.URN(), "urn:eris:"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Part(BlocksID(item.ReadCap), About{Item: item})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, p)
	fill(t, p, x)
	if _, ok := s.Blocks(nil).Have(x.NarHash); ok {
		t.Error("offered to peers")
	}
	i, err := p.Commit(t.Context(), item, x.tree)
	if err != nil || i.ReadCap != x.ReadCap || i.Signed {
		t.Errorf("%+v, %v", i, err)
	}
	if n := served(t, s.Blocks(nil), x); n != len(x.nodes) {
		t.Errorf("%d blocks of %d", n, len(x.nodes))
	}
}

// With a convergence secret the tree is kept as it came. Fsck cannot make it
// anew: the item goes.
func TestSecret(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	x := makeRaw(t, 0, random(1, 100_000), eris.Size32KiB)
	x.nodes, x.blocks = nil, map[eris.Ref][]byte{}
	c, _, err := eris.Encode(bytes.NewReader(x.file), eris.Size32KiB, eris.Secret{1}, func(b eris.Block) error {
		b.Data, b.Node = bytes.Clone(b.Data), bytes.Clone(b.Node)
		x.blocks[b.Ref] = b.Data
		x.nodes = append(x.nodes, b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	x.ReadCap = c
	if i := put(t, s, x); i.ReadCap != c || !i.Signed {
		t.Errorf("%+v", i)
	}
	if n := served(t, s.Blocks(nil), x); n != len(x.nodes) {
		t.Errorf("%d blocks of %d", n, len(x.nodes))
	}
	closing(t, s)
	if f := faults(t, dir, CheckOptions{}); f != "" {
		t.Error(f)
	}
	damage(t, s.path("eris/tree/"+x.Path.Base()), 50)
	if f := faults(t, dir, CheckOptions{Repair: true}); !strings.Contains(f, x.Path.Base()) {
		t.Error(f)
	}
	if f := faults(t, dir, CheckOptions{}); f != "" {
		t.Error(f)
	}
	s = open(t, dir, Options{})
	defer closing(t, s)
	if _, err := s.Get(x.Path.Hash); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

// What was fetched ahead is asked for, and that outlives the process.
func TestAskedLater(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, Options{Now: c.now})
	x := makeThing(t, 0, 1000)
	x.Asked = false
	put(t, s, x)
	for _, want := range []bool{false, true, true} {
		closing(t, s)
		s = open(t, dir, Options{Now: c.now})
		i, err := s.Get(x.Path.Hash)
		if err != nil || i.Asked != want {
			t.Errorf("asked %v, want %v, %v", i.Asked, want, err)
		}
		c.add(time.Minute)
		kept(t, s, x)
		if i, err := s.Get(x.Path.Hash); err != nil || !i.Asked || !i.Used.Equal(c.now()) {
			t.Errorf("%+v, %v", i, err)
		}
	}
	closing(t, s)
}

func TestBitmap(t *testing.T) {
	var b bitmap
	want := map[int64]bool{}
	for range 100 {
		i := rand.Int64N(1000)
		b.set(i)
		want[i] = true
	}
	for i := range int64(2000) {
		if b.has(i) != want[i] {
			t.Fatalf("bit %d is %v", i, b.has(i))
		}
	}
	if b.count() != int64(len(want)) {
		t.Errorf("%d bits of %d", b.count(), len(want))
	}
	if b = nil; b.has(0) || b.count() != 0 {
		t.Error("nothing has something")
	}
	if b.set(9); !bytes.Equal(b, []byte{0, 0x40}) {
		t.Errorf("bit 9 is in %x", []byte(b))
	}
}

// A torrent that was made of an item's blocks is kept with it, and one of
// nothing goes when the store is opened.
func TestTorrent(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	x := makeThing(t, 0, 100_000)
	put(t, s, x)
	c, err := s.Library(nil, "").Open(t.Context(), x.ReadCap.Root)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, c)
	i, err := c.(interface {
		Torrent(context.Context) (torrent.Info, error)
	}).Torrent(t.Context())
	if err != nil || i.Name != torrent.Name(x.ReadCap.Root) || i.Length != c.Len()*int64(x.ReadCap.Size) {
		t.Errorf("torrent of %d bytes, %q, %v", i.Length, i.Name, err)
	}
	mine, stray := s.path(narindex.TorrentDir+"/"+x.Path.Base()), s.path(narindex.TorrentDir+"/"+makeThing(t, 9, 1).Path.Base())
	for _, name := range []string{stray, s.path(narindex.TorrentDir + "/.tmp-1")} {
		if err := os.WriteFile(name, i.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	closing(t, s)
	closing(t, open(t, dir, Options{}))
	if names, err := os.ReadDir(filepath.Dir(mine)); err != nil || len(names) != 1 || names[0].Name() != x.Path.Base() {
		t.Errorf("left %v, %v", names, err)
	}
}
