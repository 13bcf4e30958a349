package transfer

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// Who reads a large nar is waited for to find it right, for as long as the nar is
// worth it; what nobody reads, or a reader gives up, is checked.
func TestJudged(t *testing.T) {
	const large = 64 << 20
	for _, c := range []struct {
		name string
		size int
		asks bool
		do   func(i *item, t *try)
		want bool
		took time.Duration
	}{
		{"ahead", large, false, func(*item, *try) {}, false, 0},
		{"small", small, true, func(*item, *try) {}, false, 0},
		{"nobody begins", large, true, func(*item, *try) {}, false, boarding},
		{"right", large, true, func(i *item, t *try) {
			i.found(t, large)
			i.done(t)
		}, true, 0},
		{"another length", large, true, func(i *item, t *try) {
			i.found(t, large-1)
			i.done(t)
		}, false, 0},
		{"given up", large, true, func(i *item, t *try) { i.done(t) }, false, 0},
		{"one of two given up", large, true, func(i *item, t *try) {
			i.mu.Lock()
			t.readers++
			i.mu.Unlock()
			i.done(t)
			time.Sleep(time.Minute)
			i.found(t, large)
		}, true, time.Minute},
		{"slow", large, true, func(_ *item, t *try) {
			time.Sleep(time.Minute)
			close(t.filled)
		}, false, time.Minute + 3*time.Second},
		{"slow, but not too slow", large, true, func(i *item, t *try) {
			close(t.filled)
			time.Sleep(2 * time.Second)
			i.found(t, large)
		}, true, 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newThing(t, 1, 100, "none")
				trans, _, _ := bubbled(t, newServers(x), Options{})
				i := planned(t, trans, x, "http://server.example")
				i.changed, i.asked = make(chan struct{}), c.asks
				i.build.Signed.NarSize = uint64(c.size)
				way := &try{filled: make(chan struct{})}
				if c.name != "nobody begins" && c.asks {
					way.readers = 1
				}
				go func() {
					synctest.Wait() // until judged waits
					c.do(i, way)
				}()
				begin := time.Now()
				if got := i.judged(t.Context(), way); got != c.want || time.Since(begin) != c.took {
					t.Errorf("%v after %v, want %v after %v", got, time.Since(begin), c.want, c.took)
				}
			})
		})
	}
}

// A reader that stands still keeps no item from being kept, and one that goes away
// does not either.
func TestKeptInSpiteOfReader(t *testing.T) {
	for name, c := range map[string]struct {
		leaves bool
		early  bool // kept before a reader is given up
	}{"stands still": {false, false}, "goes away": {true, true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newThing(t, 1, 4<<20, "none")
				trans, store, _ := bubbled(t, newServers(x), Options{})
				n, err := trans.Get(t.Context(), x.want(t, "http://server.example"))
				must(t, err)
				got := make([]byte, 100_000)
				_, err = io.ReadFull(n, got)
				must(t, err)
				if c.leaves {
					closing(t, n)
				}
				kept := func() bool {
					_, err := store.Get(x.fields.StorePath.Hash)
					return err == nil
				}
				after(behind)
				if kept() != c.early {
					t.Errorf("kept after %v: %v", behind, kept())
				}
				after(time.Second)
				if !kept() {
					t.Error("the item is not kept")
				}
				if c.leaves {
					return
				}
				rest, err := io.ReadAll(n)
				if must(t, err); !bytes.Equal(append(got, rest...), x.nar) {
					t.Errorf("%d bytes are given", len(got)+len(rest))
				}
				closing(t, n)
			})
		})
	}
}
