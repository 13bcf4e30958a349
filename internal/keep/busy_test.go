package keep

import (
	"runtime"
	"sync"
	"testing"
	"time"
	"weak"

	"ersatz/eris"
	"ersatz/internal/durable"
)

// What is remembered of a part that was asked about is not the part.
func TestPartIsFreed(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	b := s.Blocks(func(Item) bool { return true })
	x := makeThing(t, 1, 100_000)
	gone := func() weak.Pointer[Part] {
		p := part(t, s, x)
		defer closing(t, p)
		fill(t, p, x)
		if served(t, b, x) == 0 {
			t.Fatal("a part gives nothing")
		}
		return weak.Make(p)
	}()
	runtime.GC()
	if gone.Value() != nil {
		t.Error("a part that was closed is in memory still")
	}
	runtime.KeepAlive(b)
}

// TestCommitsTogether: while the tree of one item is made, which takes as long as the
// item is large, another one comes.
func TestCommitsTogether(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	x, y := makeThing(t, 1, 100_000), makeThing(t, 2, 1000)
	p := part(t, s, x)
	defer closing(t, p)
	fill(t, p, x)
	_, err := p.Commit(t.Context(), x.Item, func(emit func(eris.Block) error) error {
		if !s.change.TryLock() {
			t.Fatal("nothing can come or go")
		}
		s.change.Unlock()
		put(t, s, y)
		return x.tree(emit)
	})
	if err != nil {
		t.Fatal(err)
	}
	kept(t, s, x)
	kept(t, s, y)
}

// TestPartWhileItGoes: a part that is being evicted is not in use. Who wants it begins
// it anew.
func TestPartWhileItGoes(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	x := makeThing(t, 1, 1000)
	closing(t, part(t, s, x))
	got := make(chan error, 1)
	var once sync.Once
	restore := durable.SetFaultForTest(func(op, _ string) error {
		if op == "remove" {
			once.Do(func() {
				begun := make(chan struct{})
				go func() {
					close(begun)
					p, err := s.Part(BlocksID(x.ReadCap), x.about())
					if err == nil {
						err = p.Close()
					}
					got <- err
				}()
				<-begun
				for range 100 {
					runtime.Gosched()
				}
			})
		}
		return nil
	})
	defer restore()
	if err := s.dropStale(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
}
