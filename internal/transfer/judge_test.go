package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/internal/upstream"
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
			i.done(t, false)
		}, true, 0},
		{"another length", large, true, func(i *item, t *try) {
			i.found(t, large-1)
			i.done(t, false)
		}, false, 0},
		{"given up", large, true, func(i *item, t *try) { i.done(t, false) }, false, 0},
		{"one of two finds it wrong", large, true, func(i *item, t *try) {
			i.mu.Lock()
			t.readers++
			i.mu.Unlock()
			i.done(t, true)
		}, false, 0},
		{"one of two given up", large, true, func(i *item, t *try) {
			i.mu.Lock()
			t.readers++
			i.mu.Unlock()
			i.done(t, false)
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

// endless are servers of which one gives a file, and then nothing more.
type endless struct {
	*servers
	liar string
	file []byte
}

func (e *endless) OpenNar(ctx context.Context, o upstream.Offer, b *upstream.Build) (*upstream.Body, error) {
	if o.Server.String() != e.liar {
		return e.servers.OpenNar(ctx, o, b)
	}
	closed := make(chan struct{})
	end := body{Reader: bytes.NewReader(e.file), gone: sync.OnceFunc(func() { close(closed) })}
	return &upstream.Body{ReadCloser: &stuck{body: &end, closed: closed}}, nil
}

// stuck has no end until it is closed.
type stuck struct {
	*body
	closed chan struct{}
}

func (s *stuck) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	if n == 0 {
		<-s.closed
		return 0, err
	}
	return n, nil
}

// What one reader has found wrong is given up at once, also while another one
// stands still and the source goes on: the nar comes from elsewhere.
func TestWrongBesideReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newThing(t, 1, 4<<20, "zstd").unsigned()
		const liar = "http://liar.example"
		file := slices.Concat(x.files["zstd"][:2<<20], []byte(strings.Repeat("wrong", 100_000)))
		trans, store, _ := bubbled(t, &endless{newServers(x), liar, file}, Options{})
		want := x.want(t, liar, "http://server.example")
		still, err := trans.Get(t.Context(), want)
		must(t, err)
		reads, err := trans.Get(t.Context(), want)
		must(t, err)
		// It has been given some of what is wrong.
		if b, err := io.ReadAll(reads); !errors.Is(err, errGiven) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		closing(t, reads)
		if b, err := io.ReadAll(still); err != nil || !bytes.Equal(b, x.nar) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		closing(t, still)
		after(time.Second)
		if _, err := store.Get(x.fields.StorePath.Hash); err != nil {
			t.Error(err)
		}
	})
}
