package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/fetch"
	"ersatz/internal/upstream"
)

// weave is a network, or a server of blocks, in the time of synctest.
type weave struct {
	start time.Duration // of a session, until it gives something
	pace  time.Duration // per block, of all calls together
	has   blocks        // nil: nothing, which it says after start
	hang  bool          // it says nothing at all
	fails error         // what it says instead
	lies  bool
	not   bool          // it cannot have the content
	ends  time.Duration // how long Close takes

	mu     sync.Mutex
	free   time.Time // when the line is
	opened []time.Time
	wanted []block.Wanted
	closed int
}

func (n *weave) Open(w block.Wanted) block.Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.opened, n.wanted = append(n.opened, time.Now()), append(n.wanted, w)
	if n.not {
		return nil
	}
	return &thread{n, time.Now().Add(n.start)}
}

// did returns how often the network was asked, and after how long first.
func (n *weave) did(since time.Time) (times int, first time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.opened) == 0 {
		return 0, 0
	}
	return len(n.opened), n.opened[0].Sub(since)
}

type thread struct {
	*weave
	ready time.Time
}

func (s *thread) Close() error {
	after(s.ends)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	return nil
}

func (s *thread) Fetch(ctx context.Context, _ eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	if s.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := wait(ctx, time.Until(s.ready)); err != nil {
		return err
	}
	if s.fails != nil {
		return s.fails
	}
	for i, ref := range refs {
		b, ok := s.has[ref]
		if !ok {
			continue
		}
		if err := wait(ctx, s.turn()); err != nil {
			return err
		}
		if b = bytes.Clone(b); s.lies {
			b[0] ^= 1
		}
		if err := got(i, b); err != nil {
			return err
		}
	}
	return nil
}

// turn returns how long the next block takes: all share the line.
func (n *weave) turn() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := time.Now(); n.free.Before(now) {
		n.free = now
	}
	n.free = n.free.Add(n.pace)
	return time.Until(n.free)
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stage is an origin, of blocks and of nars, and a node that asks networks too.
type stage struct {
	*servers
	blocks *weave // of the origin; nil: it has none
	trans  *Transfers
	book   *fetch.Book
	began  time.Time
}

func (s *stage) Blocks(sv *upstream.Server) (fetch.Source, bool) {
	if s.blocks == nil {
		return fetch.Source{}, false
	}
	return fetch.Source{Name: sv.String(), Fetcher: s.blocks.Open(block.Wanted{})}, true
}

func newStage(t *testing.T, o Options, blocks *weave, nars ...*thing) *stage {
	s := &stage{servers: newServers(nars...), blocks: blocks}
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s.trans, _, s.book = bubbled(t, s, o)
	s.began = time.Now()
	return s
}

// get gets an item and wants it to be right; it returns how long that took.
func (s *stage) get(t *testing.T, x *thing) time.Duration {
	t.Helper()
	began := time.Now()
	gotten(t, s.trans, x)
	return time.Since(began)
}

// over waits until no transfer runs, and wants each session to be closed.
func (s *stage) over(t *testing.T, networks ...*weave) {
	t.Helper()
	synctest.Wait()
	for _, n := range networks {
		n.mu.Lock()
		if want := len(n.opened); n.closed != want && !n.not {
			t.Errorf("%d of %d sessions are closed", n.closed, want)
		}
		n.mu.Unlock()
	}
}

func network(name string, n *weave) fetch.Network {
	return fetch.Network{Name: name, Kind: name, Network: n, Start: n.start}
}

// hung is an origin that answers nothing.
func hung(s *stage) {
	s.set(func(ctx context.Context, _ upstream.Offer) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(upstream.DefaultStall):
			return &lateError{upstream.DefaultStall}
		}
	})
}

func between(t *testing.T, what string, d, least, most time.Duration) {
	t.Helper()
	if d < least || d > most {
		t.Errorf("%s: %v, want %v to %v", what, d, least, most)
	}
}

// An origin that says nothing costs a second, of a large item as of a small one,
// and then nothing as long as it is known to.
func TestHungOrigin(t *testing.T) {
	for _, size := range []int{100_000, 3 << 20} {
		synctest.Test(t, func(t *testing.T) {
			x, y := newThing(t, 1, size, "none"), newThing(t, 2, size, "none")
			n := &weave{start: 3 * time.Second, pace: time.Millisecond, has: x.blocks}
			s := newStage(t, Options{Networks: []fetch.Network{network("bittorrent", n)}}, &weave{hang: true}, x, y)
			hung(s)
			took := s.get(t, x)
			times, first := n.did(s.began)
			if times != 1 {
				t.Errorf("asked %d times", times)
			}
			between(t, "asked", first, time.Second, time.Second)
			between(t, "all", took, 4*time.Second, 4500*time.Millisecond)
			if size > small {
				s.over(t, n)
				return
			}
			synctest.Wait() // the session of the first item is closed behind it
			n.mu.Lock()
			n.has, n.opened, n.closed = y.blocks, nil, 0
			n.mu.Unlock()
			again := time.Now()
			between(t, "the next item", s.get(t, y), 3*time.Second, 3500*time.Millisecond)
			if _, first := n.did(again); first != 0 {
				t.Errorf("asked after %v", first)
			}
			s.over(t, n)
		})
	}
}

// A server that was put off because it is slow is asked again, and then it has all
// its time, when no network has the item.
func TestSlowOriginIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newThing(t, 1, 100_000, "none")
		n := &weave{start: 2 * time.Second}
		s := newStage(t, Options{Networks: []fetch.Network{network("ipfs", n)}}, nil, x)
		s.set(func(ctx context.Context, _ upstream.Offer) error { return wait(ctx, 4*time.Second) })
		took := s.get(t, x)
		between(t, "all", took, 7*time.Second, 7100*time.Millisecond) // put off, looked for, asked again
		s.over(t, n)
		if asked, _, _ := s.did(); len(asked) != 2 {
			t.Errorf("asked for %v", asked)
		}
	})
}

// A network is not asked for what a good server gives, however large it is, and is
// asked at once for what takes a slow one five times its start.
func TestWorth(t *testing.T) {
	for _, c := range []struct {
		name  string
		pace  time.Duration // of the origin, per block
		knows bool          // the node knows that
		size  int
		first time.Duration // -1: it is never asked
	}{
		{"fast", time.Millisecond, true, 8 << 20, -1},
		{"unknown, in time", 10 * time.Millisecond, false, 3 << 20, -1},
		{"unknown and large", 10 * time.Millisecond, false, 8 << 20, 0},
		{"slow", 200 * time.Millisecond, true, 2 << 20, 0},
		{"slower than is known", 200 * time.Millisecond, false, 2 << 20, time.Second},
		{"so slow that it is worth it only for a while", 100 * time.Millisecond, false, 3 << 19, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newThing(t, 1, c.size, "none")
				origin := &weave{pace: c.pace, has: x.blocks}
				n := &weave{start: time.Second, pace: time.Millisecond, has: x.blocks}
				s := newStage(t, Options{Networks: []fetch.Network{network("ipfs", n)}}, origin)
				if c.knows {
					s.book.Note(fetch.Stat{Name: "http://server.example", Blocks: 9, Learnt: fetch.Learnt{Latency: c.pace, Pace: c.pace}})
				}
				s.get(t, x)
				times, first := n.did(s.began)
				if times == 0 {
					first = -1
				}
				if first != c.first || times > 1 {
					t.Errorf("asked %d times, after %v; want %v", times, first, c.first)
				}
				s.over(t, n)
			})
		})
	}
}

// A network that failed of late is left alone as long as somebody gives something.
func TestFailedNetworkRests(t *testing.T) {
	for _, hang := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			x := newThing(t, 1, 2<<20, "none")
			n := &weave{start: time.Second, has: x.blocks}
			s := newStage(t, Options{Networks: []fetch.Network{network("ipfs", n)}}, &weave{pace: 100 * time.Millisecond, has: x.blocks, hang: hang})
			s.book.Note(fetch.Stat{Name: "ipfs", Err: errGiven})
			s.get(t, x)
			if times, _ := n.did(s.began); (times > 0) != hang {
				t.Errorf("asked %d times, of a server that hangs: %v", times, hang)
			}
			s.over(t, n)
		})
	}
}

// A server that stops in the middle is not waited for.
func TestStopsInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newThing(t, 1, 3<<20, "none")
		half, _ := x.without(func(level int, i int64) bool { return level == 0 && i >= 48 })
		origin := &fading{weave{pace: 10 * time.Millisecond, has: half}}
		n := &weave{start: 2 * time.Second, pace: time.Millisecond, has: x.blocks}
		s := newStage(t, Options{Networks: []fetch.Network{network("ipfs", n)}}, nil)
		s.trans.client = &other{s, origin}
		took := s.get(t, x)
		_, first := n.did(s.began)
		between(t, "asked", first, time.Second, 5*time.Second)
		between(t, "all", took, first+2*time.Second, first+3*time.Second)
		s.over(t, n)
	})
}

// fading hangs where it lacks something.
type fading struct{ weave }

func (f *fading) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	given := 0
	err := (&thread{&f.weave, time.Now()}).Fetch(ctx, size, refs, func(i int, b []byte) error {
		given++
		return got(i, b)
	})
	if err == nil && given < len(refs) {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

// other is a stage with another origin of blocks.
type other struct {
	*stage
	f eris.Fetcher
}

func (o *other) Blocks(sv *upstream.Server) (fetch.Source, bool) {
	return fetch.Source{Name: sv.String(), Fetcher: o.f}, true
}

// Where nobody is known to have an item, networks that begin at once go first, and
// the others follow when these have nothing, at once, or say nothing, a second
// later.
func TestAlone(t *testing.T) {
	for name, c := range map[string]struct {
		quick *weave
		least time.Duration
	}{
		"has it":       {&weave{}, -1},
		"has nothing":  {&weave{start: time.Millisecond}, 2 * time.Millisecond},
		"says nothing": {&weave{hang: true}, time.Second},
		"fails":        {&weave{fails: errGiven}, 0},
		"cannot":       {&weave{not: true}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newThing(t, 1, 200_000, "none")
				quick := c.quick
				if name == "has it" {
					quick.has = x.blocks
				}
				slow := &weave{start: 5 * time.Second, has: x.blocks}
				s := newStage(t, Options{Policy: P2POnly, Networks: []fetch.Network{network("gnunet", slow), network("file", quick)}}, nil)
				s.get(t, x)
				times, first := slow.did(s.began)
				if times == 0 {
					first = -1
				}
				if first > c.least || first < min(c.least, 0) {
					t.Errorf("the other was asked after %v, want %v", first, c.least)
				}
				if n, _ := quick.did(s.began); n != 1 {
					t.Errorf("asked %d times", n)
				}
				s.over(t, quick, slow)
			})
		})
	}
}

// When all else has failed, networks are asked that were not worth it; nars go
// before these.
func TestLast(t *testing.T) {
	for _, size := range []int{100_000, 2 << 20} {
		synctest.Test(t, func(t *testing.T) {
			x, y := newThing(t, 1, size, "none"), newThing(t, 2, size, "none")
			n := &weave{start: 5 * time.Second, has: x.blocks}
			s := newStage(t, Options{Networks: []fetch.Network{network("gnunet", n)}}, &weave{}, y)
			s.get(t, y)
			if times, _ := n.did(s.began); times != 0 {
				t.Errorf("asked %d times for what has a nar", times)
			}
			s.began = time.Now()
			between(t, "all", s.get(t, x), 5*time.Second, 6*time.Second)
			s.over(t, n)
			z := newThing(t, 3, size, "none")
			if _, err := get(t, s.trans, z); err == nil {
				t.Error("what nobody has came")
			}
			s.over(t, n)
		})
	}
}

func get(t *testing.T, trans *Transfers, x *thing) ([]byte, error) {
	n, err := trans.Get(t.Context(), x.want(t, "http://server.example"))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(n)
	return b, errors.Join(err, n.Close())
}

// With http-only, no network is asked for anything.
func TestHTTPOnlyAsksNoNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newThing(t, 1, 2<<20, "none")
		n := &weave{has: x.blocks}
		s := newStage(t, Options{Policy: HTTPOnly, Networks: []fetch.Network{network("file", n)}}, nil)
		if _, err := get(t, s.trans, x); err == nil {
			t.Error("it came all the same")
		}
		if times, _ := n.did(s.began); times != 0 {
			t.Errorf("asked %d times", times)
		}
	})
}

// A network where somebody lied is left alone for a while, and not for good.
func TestNetworkOfLiars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newThing(t, 1, 200_000, "none")
		bad, good := &weave{lies: true, has: x.blocks}, &weave{start: time.Second, has: x.blocks}
		s := newStage(t, Options{Policy: P2POnly, Networks: []fetch.Network{network("ndn", bad), network("ipfs", good)}}, nil)
		s.get(t, x)
		if e := s.book.Entry("ndn"); !e.Lied.IsZero() || e.Until.IsZero() || time.Until(e.Until) > time.Minute {
			t.Errorf("%+v", e)
		}
		s.over(t, bad, good)
	})
}

// What a network takes to begin is learnt of whole sessions, and not of each call;
// what it is not asked for teaches nothing.
func TestStartIsLearnt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newThing(t, 1, 2<<20, "none")
		n := &weave{start: 4 * time.Second, pace: time.Millisecond, has: x.blocks}
		network := network("ipfs", n)
		network.Start = time.Second
		s := newStage(t, Options{Policy: P2POnly, Networks: []fetch.Network{network}}, nil)
		if got := Start(s.book, network); got != time.Second {
			t.Errorf("start %v at first", got)
		}
		s.get(t, x)
		s.over(t, n)
		between(t, "start", Start(s.book, network), 4*time.Second, 4100*time.Millisecond)
		between(t, "latency", s.book.Prior("ipfs").Latency, 0, 3*time.Second)
		if _, err := get(t, s.trans, newThing(t, 2, 2<<20, "none")); err == nil {
			t.Error("what nobody has came")
		}
		between(t, "start", Start(s.book, network), 4*time.Second, 4100*time.Millisecond)
	})
}

// TestWanted: what networks are told of a content.
func TestWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newThing(t, 1, 6<<20, "none")
		x.fields.ERISMagnet = "magnet:?xt=urn:btih:0123456789012345678901234567890123456789"
		n := &weave{has: x.blocks, pace: time.Millisecond}
		s := newStage(t, Options{Networks: []fetch.Network{network("file", n)}}, &weave{})
		s.get(t, x)
		w := n.wanted[0]
		level, index, ok := w.Where(x.rc.Root)
		if w.ReadCap != x.rc || w.Magnet != x.fields.ERISMagnet || !slices.Equal(w.Servers, []string{"http://server.example"}) || !ok || level != int(x.rc.Level) || index != 0 {
			t.Errorf("%+v; root: %d %d %v", w, level, index, ok)
		}
		if _, _, ok := w.Where(x.refs[0]); ok {
			t.Error("a block that is not asked for has a place")
		}
	})
}
