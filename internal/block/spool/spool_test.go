package spool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/torrent"
)

// fill returns a Spool of a content, not finished, and what was added.
func fill(t *testing.T, data []byte) (*Spool, block.Shared, []eris.Block) {
	t.Helper()
	s, err := New(eris.Size1KiB)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	var blocks []eris.Block
	c, n, err := eris.Encode(bytes.NewReader(data), eris.Size1KiB, eris.Secret{}, func(b eris.Block) error {
		blocks = append(blocks, eris.Block{Ref: b.Ref, Level: b.Level, Data: slices.Clone(b.Data)})
		return s.Add(b)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, block.Shared{ReadCap: c, Length: n}, blocks
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// TestOrder wants all blocks, leaves first, level by level, also where many are
// the same.
func TestOrder(t *testing.T) {
	for name, data := range map[string][]byte{
		"empty": {}, "one leaf": random(100), "three levels": random(300 << 10), "zeros": make([]byte, 300<<10),
	} {
		t.Run(name, func(t *testing.T) {
			s, shared, blocks := fill(t, data)
			s.Finish(shared)
			slices.SortStableFunc(blocks, func(a, b eris.Block) int { return a.Level - b.Level })
			c, err := s.Open(t.Context(), shared.ReadCap.Root)
			if err != nil {
				t.Fatal(err)
			}
			shape := eris.NewShape(eris.Size1KiB, int64(len(data)))
			if c.Len() != shape.Nodes() || c.Len() != int64(len(blocks)) {
				t.Fatalf("%d blocks, want %d", c.Len(), shape.Nodes())
			}
			for i, want := range blocks {
				ref, b, err := c.Block(t.Context(), int64(i))
				if err != nil || ref != want.Ref || !bytes.Equal(b, want.Data) {
					t.Fatalf("block %d: %s, %v", i, ref, err)
				}
			}
			if _, _, err := c.Block(t.Context(), c.Len()); !errors.Is(err, eris.ErrNotFound) {
				t.Errorf("one block more: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTorrent wants the torrent of the blocks in order, and them to be read once.
func TestTorrent(t *testing.T) {
	s, shared, _ := fill(t, random(300<<10))
	s.Finish(shared)
	c, err := s.Open(t.Context(), shared.ReadCap.Root)
	if err != nil {
		t.Fatal(err)
	}
	want := torrent.NewBuilder()
	for i := range c.Len() {
		_, b, err := c.Block(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		want.Write(b)
	}
	hash := want.Finish(shared.ReadCap.Root).Hash()
	for range 2 {
		info, err := c.(*content).Torrent(t.Context())
		if err != nil || info.Hash() != hash {
			t.Errorf("another torrent, or %v", err)
		}
		if err := s.file.Truncate(0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDecode reads the content back, with many at once.
func TestDecode(t *testing.T) {
	data := random(100 << 10)
	s, shared, _ := fill(t, data)
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			r := eris.NewReader(t.Context(), shared.ReadCap, block.Fetcher(s, 4), eris.ReaderOptions{})
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	work.Wait()
	if _, err := s.Get(t.Context(), eris.Ref{}); !errors.Is(err, eris.ErrNotFound) {
		t.Errorf("a block that is not there: %v", err)
	}
}

// TestLibrary wants nothing to be offered before the content is whole.
func TestLibrary(t *testing.T) {
	s, shared, _ := fill(t, random(10))
	var seen []block.Shared
	visit := func(c block.Shared) error {
		seen = append(seen, c)
		return nil
	}
	changed := s.Changed()
	if err := s.Each(t.Context(), visit); err != nil || len(seen) > 0 {
		t.Errorf("before: %v, %v", seen, err)
	}
	if _, err := s.Open(t.Context(), shared.ReadCap.Root); !errors.Is(err, eris.ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	s.Finish(shared)
	<-changed
	if err := s.Each(t.Context(), visit); err != nil || len(seen) != 1 || seen[0] != shared {
		t.Errorf("afterwards: %v, %v", seen, err)
	}
	broken := errors.New("broken")
	if err := s.Each(t.Context(), func(block.Shared) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("the error of visit: %v", err)
	}
	if _, err := s.Open(t.Context(), eris.Ref{1}); !errors.Is(err, eris.ErrNotFound) {
		t.Errorf("another content: %v", err)
	}
}

// TestDamage wants a file that has changed to be noticed.
func TestDamage(t *testing.T) {
	s, shared, blocks := fill(t, random(3<<10))
	s.Finish(shared)
	if _, err := s.file.WriteAt([]byte("damage"), 1<<10); err != nil { // the second block
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), blocks[1].Ref); !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("Get: %v", err)
	}
	c, err := s.Open(t.Context(), shared.ReadCap.Root)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Block(t.Context(), 1); !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("Block: %v", err)
	}
	if _, _, err := c.Block(t.Context(), 0); err != nil {
		t.Errorf("another block: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, blocks[0].Ref); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
