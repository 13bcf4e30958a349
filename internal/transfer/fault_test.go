package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/internal/keep"
	"ersatz/internal/node"
	"ersatz/internal/upstream"
)

// slow answers nars with the first n bytes, and the rest when gate is closed.
func slow(file []byte, n int, gate <-chan struct{}) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/nar/") || r.Header.Get("Range") != "" {
			return false
		}
		w.Header().Set("ETag", `"1"`)
		w.Write(file[:n])
		http.NewResponseController(w).Flush()
		select {
		case <-gate:
		case <-r.Context().Done():
		}
		w.Write(file[n:])
		return true
	}
}

func (c *counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// Who was given bytes of a wrong nar is cut off; the right one is kept, and not
// taken for a broken one.
func TestGivenWrong(t *testing.T) {
	x, y := newThing(t, 1, 3<<20, "zstd"), newThing(t, 2, 3<<20, "zstd")
	x.unsigned()
	bad, good := newOrigin(t), newOrigin(t, x)
	gate := make(chan struct{})
	bad.set(slow(y.files["zstd"], 1<<20, gate))
	m := newMachine(t).start()
	n, err := m.trans.Get(t.Context(), x.want(t, bad.url, good.url))
	must(t, err)
	defer closing(t, n)
	close(gate)
	b, err := io.ReadAll(n)
	if !errors.Is(err, errGiven) || len(b) > len(x.nar)-heldBack {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if k, err := n.Read(make([]byte, 1)); k > 0 || !errors.Is(err, errGiven) {
		t.Errorf("then %d bytes, %v", k, err)
	}
	m.keeps(x)
	if k, _ := good.gave("nar"); k > len(x.files["zstd"]) {
		t.Errorf("%d bytes were fetched for a file of %d", k, len(x.files["zstd"]))
	}
	good.down()
	m.gets(x, good.url)
}

// A reader may be slower than the fetch, come late, or go away: the others have
// the whole nar.
func TestReaders(t *testing.T) {
	x := newThing(t, 1, 4<<20, "zstd").unsigned()
	o := newOrigin(t, x)
	gate := make(chan struct{})
	o.set(slow(x.files["zstd"], 2<<20, gate))
	m := newMachine(t).start()
	w := x.want(t, o.url)
	reader := func(ctx context.Context) node.Nar {
		n, err := m.trans.Get(ctx, w)
		must(t, err)
		return n
	}
	idle := reader(t.Context())
	gone, cancel := context.WithCancel(t.Context())
	left := reader(gone)
	cancel()
	if _, err := io.ReadAll(left); !errors.Is(err, context.Canceled) {
		t.Errorf("who went away: %v", err)
	}
	must(t, left.Close())
	if _, err := m.trans.Get(gone, w); !errors.Is(err, context.Canceled) {
		t.Errorf("who comes when he has gone: %v", err)
	}
	close(gate)
	late := reader(t.Context())
	m.keeps(x)
	o.down()
	last := reader(t.Context())
	if late.Source() == fromKept || last.Source() != fromKept {
		t.Errorf("sources %q and %q", late.Source(), last.Source())
	}
	must(t, m.store.Remove(t.Context(), x.fields.StorePath.Hash)) // what is open can be read on
	for _, n := range []node.Nar{idle, late, last} {
		if b, err := io.ReadAll(n); err != nil || !bytes.Equal(b, x.nar) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		must(t, n.Close())
	}
}

// What is larger than the quota is given whole, to all who read it, and not kept.
func TestLargerThanQuota(t *testing.T) {
	for _, signed := range []bool{true, false} {
		x := newThing(t, 1, 3<<20, "zstd")
		if !signed {
			x.unsigned()
		}
		m := newMachine(t)
		m.quota = 1 << 20
		m.start()
		o := newOrigin(t, x)
		begin := make(chan struct{})
		o.set(func(http.ResponseWriter, *http.Request) bool { <-begin; return false })
		slow := make(chan node.Nar, 1)
		var work sync.WaitGroup
		work.Go(func() {
			n, err := m.trans.Get(t.Context(), x.want(t, o.url))
			if err != nil {
				t.Error(err)
			}
			slow <- n
		})
		work.Go(func() {
			if b, err := m.get(x.want(t, o.url)); err != nil || !bytes.Equal(b, x.nar) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
		m.joined(2) // who comes after the end has it fetched again
		close(begin)
		work.Wait()
		m.settled()
		if _, err := m.store.Get(x.fields.StorePath.Hash); !errors.Is(err, keep.ErrNone) {
			t.Errorf("kept: %v", err)
		}
		a, _ := o.gave("nar")
		b, _ := o.gave("eris")
		n := <-slow
		if b, err := io.ReadAll(n); err != nil || !bytes.Equal(b, x.nar) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		closing(t, n)
		if c, _ := o.gave("nar"); a+b > len(x.files["zstd"])*21/20 || c != a {
			t.Errorf("%d bytes for a file of %d", a+b+c, len(x.files["zstd"]))
		}
		m.gets(x, o.url) // once more
	}
}

// A transfer that nobody wants goes on for a while, and who comes in time has it.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newThing(t, 1, 1000, "zstd")
		s := newServers(x)
		gate := s.waiting()
		trans, _, _ := bubbled(t, s, Options{})
		get := func(d time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			_, err := trans.Get(ctx, x.want(t, "http://server.example"))
			return err
		}
		for range 2 { // the second comes while the first lingers
			if err := get(time.Second); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			after(linger - time.Millisecond)
			synctest.Wait()
			if asked, now, _ := s.did(); len(asked) != 1 || now != 1 {
				t.Fatalf("asked for %q, %d are open", asked, now)
			}
		}
		after(time.Millisecond)
		synctest.Wait()
		if _, now, _ := s.did(); now != 0 || len(trans.slots) != 0 {
			t.Errorf("%d are open", now)
		}
		close(gate)
		gotten(t, trans, x)
		if asked, _, _ := s.did(); len(asked) != 2 {
			t.Errorf("asked for %q", asked)
		}
	})
}

// Who joins a transfer that is just being given up has another one.
func TestJoinTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newThing(t, 1, 1000, "zstd")
		s := newServers(x)
		goOn := make(chan struct{})
		var once sync.Once
		s.set(func(ctx context.Context, _ upstream.Offer) (err error) {
			once.Do(func() {
				<-ctx.Done()
				<-goOn
				err = ctx.Err()
			})
			return err
		})
		trans, _, _ := bubbled(t, s, Options{})
		_, i, err := trans.open(x.want(t, "http://server.example"), false)
		must(t, err)
		synctest.Wait()
		i.leave()
		after(linger)
		synctest.Wait() // it is cancelled, and has not ended
		var work sync.WaitGroup
		work.Go(func() { gotten(t, trans, x) })
		synctest.Wait()
		close(goOn)
		work.Wait()
	})
}

// At most so many transfers run at once that somebody waits for.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var things []*thing
		for k := range maxAsked + 6 {
			things = append(things, newThing(t, byte(k), 1000, "none"))
		}
		s := newServers(things...)
		gate := s.waiting()
		trans, _, _ := bubbled(t, s, Options{})
		var work sync.WaitGroup
		for _, x := range things {
			work.Go(func() { gotten(t, trans, x) })
		}
		synctest.Wait()
		if _, now, _ := s.did(); now != maxAsked {
			t.Errorf("%d at once", now)
		}
		close(gate)
		work.Wait()
		synctest.Wait()
		if _, _, most := s.did(); most != maxAsked || len(trans.slots) != 0 {
			t.Errorf("%d at once, %d turns are not over", most, len(trans.slots))
		}
	})
}
