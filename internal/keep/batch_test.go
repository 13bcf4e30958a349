package keep

import (
	"path/filepath"
	"testing"

	"ersatz/eris"
)

// Blocks of a part that are spoiled come from an item that has them, or are missing;
// those made in one row with them are served.
func TestServeSpoiledPart(t *testing.T) {
	x := makeThing(t, 0, 1<<20)
	for _, item := range []bool{false, true} {
		s := open(t, t.TempDir(), Options{})
		defer closing(t, s)
		if item {
			put(t, s, x)
		}
		p := part(t, s, x)
		defer closing(t, p)
		fill(t, p, x)
		if n := served(t, s.Blocks(nil), x); n != len(x.nodes) {
			t.Errorf("%d blocks of %d", n, len(x.nodes))
		}
		spoiled := []int64{0, 3, 9, 10}
		for _, leaf := range spoiled {
			damage(t, filepath.Join(p.dir, contentFile), leaf*int64(x.ReadCap.Size)+100)
		}
		want := len(x.nodes)
		if !item {
			want -= len(spoiled)
		}
		if n := served(t, s.Blocks(nil), x); n != want {
			t.Errorf("item %v, spoiled: %d blocks, want %d", item, n, want)
		}
	}
}

// To make one block of a part more allocates nothing.
func TestServePartAllocs(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	x := makeThing(t, 0, 2<<20)
	p := part(t, s, x)
	defer closing(t, p)
	fill(t, p, x)
	blocks := s.Blocks(nil)
	count := func(n int) float64 {
		refs := make([]eris.Ref, 0, n)
		for i := range n {
			refs = append(refs, x.nodes[i%len(x.nodes)].Ref)
		}
		return testing.AllocsPerRun(5, func() {
			if err := blocks.Frames(t.Context(), refs, func([]byte) error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	if few, many := count(16), count(512); many > few+5 {
		t.Errorf("%v allocations for 16 blocks, %v for 512", few, many)
	}
}
