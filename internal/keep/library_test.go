package keep

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/transport/n2r"
)

// listed returns the roots in a library, in its order.
func listed(t testing.TB, l block.Library) (roots []eris.Ref) {
	t.Helper()
	err := l.Each(t.Context(), func(s block.Shared) error {
		roots = append(roots, s.ReadCap.Root)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

func changed(l <-chan struct{}) bool {
	select {
	case <-l:
		return true
	default:
		return false
	}
}

// A library has the items that allow says, whole, and neither others nor parts.
func TestLibrary(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	b, a, secret, half := makeThing(t, 2, 300_000), makeThing(t, 1, 40_000), makeThing(t, 3, 5000), makeThing(t, 4, 5000)
	asked := map[string]int{}
	l := s.Library(func(i Item) (string, bool) {
		asked[i.Path.Hash]++
		return "magnet:" + i.Path.Hash, i.Path != secret.Path
	}, "")
	before := l.Changed()
	put(t, s, b)
	if !changed(before) || changed(l.Changed()) {
		t.Error("not told of the item that came, or of one that did not")
	}
	put(t, s, a)
	put(t, s, secret)
	p := part(t, s, half)
	defer closing(t, p)
	fill(t, p, half)
	for range 2 {
		if got := listed(t, l); !slices.Equal(got, []eris.Ref{a.ReadCap.Root, b.ReadCap.Root}) {
			t.Fatalf("listed %v", got)
		}
	}
	for _, x := range []*thing{a, b} {
		c, err := l.Open(t.Context(), x.ReadCap.Root)
		if err != nil {
			t.Fatal(err)
		}
		if c.Len() != int64(len(x.nodes)) {
			t.Errorf("%d blocks", c.Len())
		}
		for i, node := range x.nodes {
			ref, got, err := c.Block(t.Context(), int64(i))
			if err != nil || ref != node.Ref || !bytes.Equal(got, x.blocks[ref]) {
				t.Fatalf("block %d: %v", i, err)
			}
			if has, err := l.(*library).Has(t.Context(), ref); err != nil || !has {
				t.Fatalf("does not know block %d, %v", i, err)
			}
			if got, err := l.Get(t.Context(), ref); err != nil || !bytes.Equal(got, x.blocks[ref]) {
				t.Fatalf("block %d by its reference: %v", i, err)
			}
		}
		closing(t, c)
		if asked[x.Path.Hash] != 1 {
			t.Errorf("asked %d times of one item", asked[x.Path.Hash])
		}
	}
	err := l.Each(t.Context(), func(x block.Shared) error {
		if x.Length == 0 || x.Magnet != "magnet:"+a.Path.Hash && x.Magnet != "magnet:"+b.Path.Hash {
			t.Errorf("%+v", x)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, x := range []*thing{secret, half} {
		if c, err := l.Open(t.Context(), x.ReadCap.Root); !errors.Is(err, eris.ErrNotFound) || c != nil {
			t.Errorf("opened %v, %v", c, err)
		}
		if has, err := l.(*library).Has(t.Context(), x.nodes[0].Ref); err != nil || has {
			t.Errorf("knows a block of it, %v", err)
		}
		if _, err := l.Get(t.Context(), x.nodes[0].Ref); !errors.Is(err, eris.ErrNotFound) {
			t.Errorf("a block of it: %v", err)
		}
	}
	want := [][]byte{b.blocks[b.ReadCap.Root], nil, a.blocks[a.ReadCap.Root]}
	err = l.(n2r.Blocks).Batch(t.Context(), []eris.Ref{b.ReadCap.Root, secret.ReadCap.Root, a.ReadCap.Root}, func(i int, got []byte) error {
		if !bytes.Equal(got, want[i]) {
			t.Errorf("block %d of a batch is wrong", i)
		}
		want[i] = []byte("has come")
		return nil
	})
	if err != nil || string(bytes.Join(want, nil)) != strings.Repeat("has come", 3) {
		t.Errorf("a batch ends with %v", err)
	}
	sent, frames := 0, 4+int(b.ReadCap.Size)+4
	err = l.(*library).Frames(t.Context(), []eris.Ref{b.ReadCap.Root, secret.ReadCap.Root}, func(b []byte) error {
		sent += len(b)
		return nil
	})
	if err != nil || sent != frames {
		t.Errorf("as frames it has %d bytes, not %d; %v", sent, frames, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Each(ctx, func(block.Shared) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	stop := errors.New("stop")
	if err := l.Each(t.Context(), func(block.Shared) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("visit failed: %v", err)
	}
}

// What is evicted leaves the library; who has it open reads to
// the end, and what was read in the last minute is not evicted.
func TestLibraryEviction(t *testing.T) {
	clock := newClock()
	s := open(t, t.TempDir(), Options{Now: clock.now})
	defer closing(t, s)
	a, b := makeThing(t, 1, 100_000), makeThing(t, 2, 100_000)
	put(t, s, a)
	put(t, s, b)
	l := s.Library(nil, "")
	if got := listed(t, l); len(got) != 2 {
		t.Fatalf("%d items", len(got))
	}
	c, err := l.Open(t.Context(), a.ReadCap.Root)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, c)
	there := func(x *thing) bool { _, err := s.Get(x.Path.Hash); return err == nil }

	clock.add(time.Hour)
	if _, _, err := c.Block(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	gone := l.Changed()
	s.want, s.quota = 1, 1
	s.trim()
	if !there(a) || there(b) {
		t.Errorf("that which is read is there: %v; the other: %v", there(a), there(b))
	}
	if !changed(gone) {
		t.Error("not told that an item is gone")
	}
	clock.add(time.Hour)
	s.trim()
	if there(a) {
		t.Error("nobody has read it for an hour, and it is kept over the quota")
	}
	for i := range c.Len() {
		if _, _, err := c.Block(t.Context(), i); err != nil {
			t.Fatalf("block %d of what was open: %v", i, err)
		}
	}
	if _, err := l.Open(t.Context(), a.ReadCap.Root); !errors.Is(err, eris.ErrNotFound) {
		t.Errorf("opened what is gone: %v", err)
	}
	if got := listed(t, l); len(got) != 0 {
		t.Errorf("listed %v", got)
	}
}

// What was said of which items there are is not asked again, neither by another
// process, until another one judges, or the item is another one. Blocks are given by
// what this process says.
func TestVerdictsStay(t *testing.T) {
	dir := memory(t)
	s := open(t, dir, Options{})
	a, b, secret := makeThing(t, 1, 40_000), makeThing(t, 2, 5000), makeThing(t, 3, 5000)
	for _, x := range []*thing{a, b, secret} {
		put(t, s, x)
	}
	asked := 0
	judge := func(i Item) (string, bool) {
		asked++
		return "magnet:" + i.Path.Hash, i.Path != secret.Path
	}
	list := func(l block.Library, want int, things ...*thing) {
		t.Helper()
		asked = 0
		var all []block.Shared
		err := l.Each(t.Context(), func(x block.Shared) error { all = append(all, x); return nil })
		if err != nil || len(all) != len(things) || asked != want {
			t.Fatalf("%d items, asked %d times, not %d; %v", len(all), asked, want, err)
		}
		for k, x := range things {
			if want := (block.Shared{ReadCap: x.ReadCap, Length: int64(len(x.file)), Magnet: "magnet:" + x.Path.Hash}); all[k] != want {
				t.Errorf("%+v, want %+v", all[k], want)
			}
		}
	}
	list(s.Library(judge, "one"), 3, a, b)
	list(s.Library(judge, "one"), 0, a, b)
	closing(t, s)
	s = open(t, dir, Options{})
	defer closing(t, s)
	list(s.Library(judge, "one"), 0, a, b)
	put(t, s, b) // again
	list(s.Library(judge, "one"), 1, a, b)
	list(s.Library(judge, ""), 3, a, b)
	list(s.Library(judge, "two"), 3, a, b)
	list(s.Library(judge, "two"), 0, a, b)
	none := s.Library(func(Item) (string, bool) { return "", false }, "two")
	if _, err := none.Get(t.Context(), a.ReadCap.Root); !errors.Is(err, eris.ErrNotFound) {
		t.Errorf("a block that this process does not give: %v", err)
	}
	if err := s.Remove(t.Context(), a.Path.Hash); err != nil {
		t.Fatal(err)
	}
	list(s.Library(judge, "two"), 0, b)
	var n int
	if err := s.cards.db.QueryRow(`SELECT count(*) FROM verdicts`).Scan(&n); err != nil || n != 2 {
		t.Errorf("%d verdicts of two items, %v", n, err)
	}
	if _, err := s.cards.db.Exec(`UPDATE verdicts SET cap = x'00' WHERE cap IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
	list(s.Library(judge, "two"), 1, b)
}
