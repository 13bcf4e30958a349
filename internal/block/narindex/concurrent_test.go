package narindex

import (
	"bytes"
	"os"
	"sync"
	"testing"

	"ersatz/eris"
)

// Reading goes on, and gives nothing wrong, while items come, change and go.
func TestConcurrent(t *testing.T) {
	x := open(t)
	content := [2][]byte{randomBytes(1, 200_000), randomBytes(2, 200_000)}
	var blocks [2]*testItem
	for i := range blocks {
		blocks[i] = add(t, x, i, content[i], eris.Size1KiB)
	}
	stay := add(t, x, 2, randomBytes(3, 100_000), eris.Size1KiB)
	done := make(chan struct{})
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				refs := append(append(blocks[0].refs[:40:40], stay.refs[:40]...), blocks[1].refs[:40]...)
				err := x.Batch(t.Context(), refs, func(i int, b []byte) error {
					if b != nil && eris.BlockRef(b) != refs[i] {
						t.Error("wrong bytes")
					}
					if b == nil && i >= 40 && i < 80 {
						t.Error("a block of an item that stays is missing")
					}
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 30 {
		n := i % 2
		if i%3 == 0 {
			if err := x.Remove(t.Context(), blocks[n].path.Hash); err != nil {
				t.Error(err)
			}
		}
		// In turn as it was, and with the other's content under its name.
		w, err := x.NewWriter(blocks[n].path)
		if err != nil {
			t.Fatal(err)
		}
		c, length, err := eris.Encode(bytes.NewReader(content[(n+i)%2]), eris.Size1KiB, eris.Secret{}, w.Add)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(t.Context(), c, length, blocks[n].nar); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	work.Wait()
}

// No file stays open between calls, so that what is removed is freed.
func TestFilesClosed(t *testing.T) {
	x := open(t)
	opened := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("no /proc/self/fd: ", err)
		}
		return len(names)
	}
	first := add(t, x, 0, randomBytes(0, 50_000), eris.Size1KiB)
	found(t, x, first, first.refs)
	before := opened()
	for i := range 20 {
		it := add(t, x, i, randomBytes(byte(i), 50_000), eris.Size1KiB)
		if n := found(t, x, it, it.refs); n != len(it.refs) {
			t.Errorf("%d blocks of %d", n, len(it.refs))
		}
		if _, err := x.Get(t.Context(), it.refs[0]); err != nil {
			t.Error(err)
		}
		if i%2 == 0 {
			if err := x.Remove(t.Context(), it.path.Hash); err != nil {
				t.Error(err)
			}
		}
	}
	if after := opened(); after > before {
		t.Errorf("%d files open, before %d", after, before)
	}
}
