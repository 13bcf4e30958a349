package ndn

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/block/blocktest"
)

// asked is an Interest as a script of a forwarder gets it, with the answers that
// it may give.
type asked struct {
	place
	name  []byte
	again int // how often it came before
	send  func(packet []byte)
}

func (a asked) segment(b []byte) {
	n := segments(len(b))
	part := len(b) / n
	a.send(appendBlock(nil, a.name, nil, b[int(a.seg)*part:][:part], n))
}

// nack gives the Interest back.
func (a asked) nack(reason uint64) {
	frame := appendElement(nil, typeNack, appendUint(nil, typeNackReason, reason))
	frame = appendElement(frame, typeFragment, appendInterest(nil, a.name, 1, defaultLifetime))
	a.send(appendElement(nil, typeLink, frame))
}

// scripted returns a client whose forwarder is a function, called for one
// Interest after the other. Real forwarders cannot be made to lose packets or to
// send Nacks, and know no fake clock. It is to be used within synctest.Test.
func scripted(t *testing.T, o Options, forwarder func(asked)) *Client {
	t.Helper()
	var work sync.WaitGroup
	o.Dial = func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		f := face{conn: theirs}
		out := make(chan []byte, 1000)
		work.Go(func() {
			for p := range out {
				// The client may have gone.
				_ = f.send(p)
			}
		})
		work.Go(func() {
			defer close(out)
			ns, seen := testSpace(t, DefaultPrefix), map[place]int{}
			_ = f.read(func(p packet) {
				at, ok := ns.parse(p.name)
				if !ok || p.data {
					t.Errorf("not an Interest in a block: %x", p.name)
				}
				forwarder(asked{at, bytes.Clone(p.name), seen[at], func(b []byte) { out <- b }})
				seen[at]++
			})
			theirs.Close()
		})
		return ours, nil
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		work.Wait()
	})
	return c
}

// fetch fetches blocks and verifies them. It returns how many came, and how long
// that took.
func fetch(ctx context.Context, c *Client, size eris.BlockSize, refs ...eris.Ref) (n int, took time.Duration, err error) {
	start := time.Now()
	var mu sync.Mutex
	err = c.Fetch(ctx, size, refs, func(i int, b []byte) error {
		if len(b) != int(size) || eris.BlockRef(b) != refs[i] {
			return eris.ErrCorrupt
		}
		mu.Lock()
		defer mu.Unlock()
		n++
		return nil
	})
	return n, time.Since(start), err
}

// TestForwarderErrs wants the time after which Fetch knows what it can know.
func TestForwarderErrs(t *testing.T) {
	ref, b := blocktest.Make(eris.Size32KiB, 1)
	for what, c := range map[string]struct {
		forwarder func(asked)
		n         int
		took      time.Duration
		err       error
	}{
		"answers":   {func(a asked) { a.segment(b) }, 1, 0, nil},
		"is silent": {func(asked) {}, 0, 4 * time.Second, nil},
		"loses the first": {func(a asked) {
			if a.again > 0 {
				a.segment(b)
			}
		}, 1, time.Second, nil},
		"loses two": {func(a asked) {
			if a.again > 1 {
				a.segment(b)
			}
		}, 1, 3 * time.Second, nil},
		"loses one segment": {func(a asked) {
			if a.seg == 2 && a.again == 0 {
				return
			}
			if a.seg != 2 && a.again > 0 {
				t.Errorf("segment %d is asked for again", a.seg)
			}
			a.segment(b)
		}, 1, time.Second, nil},
		"loses one for good": {func(a asked) {
			if a.seg != 2 {
				a.segment(b)
			}
		}, 0, 4 * time.Second, nil},
		"has no route":    {func(a asked) { a.nack(150) }, 0, 0, nil},
		"gives no reason": {func(a asked) { a.nack(0) }, 0, 0, nil},
		"is congested at first": {func(a asked) {
			if a.again == 0 {
				a.nack(nackCongestion)
				return
			}
			a.segment(b)
		}, 1, time.Second, nil},
		"has seen it": {func(a asked) {
			if a.again == 0 {
				a.nack(nackDuplicate)
				return
			}
			a.segment(b)
		}, 1, time.Second, nil},
		"says no": {func(a asked) { a.send(appendAbsent(nil, a.name, nil)) }, 0, 0, nil},
		"says no to the last": {func(a asked) {
			if a.seg == 3 {
				a.send(appendAbsent(nil, a.name, nil))
			} else {
				a.segment(b)
			}
		}, 0, 0, nil},
		"gives another block":  {func(a asked) { a.segment(bytes.Repeat([]byte{1}, len(b))) }, 0, 0, nil},
		"gives short segments": {func(a asked) { a.send(appendBlock(nil, a.name, nil, b[:8000], 4)) }, 0, 0, nil},
		"gives nothing":        {func(a asked) { a.send(appendBlock(nil, a.name, nil, nil, 4)) }, 0, 0, nil},
		"gives one that is wrong": {func(a asked) {
			if a.seg == 2 {
				a.segment(bytes.Repeat([]byte{1}, len(b)))
			} else {
				a.segment(b)
			}
		}, 0, 0, nil},
		"gives all twice": {func(a asked) { a.segment(b); a.segment(b) }, 1, 0, nil},
		"gives another's first": {func(a asked) {
			other := asked{place: place{eris.Ref{1}, a.seg}, send: a.send}
			other.name = testSpace(t, DefaultPrefix).appendName(nil, other.place)
			other.segment(b)
			other.seg, other.ref = 200, ref
			other.name = testSpace(t, DefaultPrefix).appendName(nil, other.place)
			other.send(appendAbsent(nil, other.name, nil))
			a.send([]byte{5, 0})
			a.segment(b)
		}, 1, 0, nil},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := scripted(t, Options{}, c.forwarder)
				n, took, err := fetch(t.Context(), client, eris.Size32KiB, ref)
				if n != c.n || took != c.took || !errors.Is(err, c.err) {
					t.Errorf("%d blocks in %v, %v", n, took, err)
				}
				if l := client.conn; l.pace.used != 0 || len(l.wants) != 0 {
					t.Errorf("%d segments under way, %d blocks", l.pace.used, len(l.wants))
				}
			})
		})
	}
}

// TestSilenceIsNotForAll: most blocks are missing, and those that are not come
// soon.
func TestSilenceIsNotForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refs []eris.Ref
		blocks := map[eris.Ref][]byte{}
		for i := range 100 {
			ref, b := blocktest.Make(eris.Size32KiB, uint64(i))
			if refs = append(refs, ref); i%10 == 0 {
				blocks[ref] = b
			}
		}
		c := scripted(t, Options{}, func(a asked) {
			if b := blocks[a.ref]; b != nil {
				a.segment(b)
			}
		})
		// With no answer there are 4 blocks under way at least.
		if n, took, err := fetch(t.Context(), c, eris.Size32KiB, refs...); n != 10 || err != nil || took > 90/4*4*time.Second {
			t.Errorf("%d blocks in %v, %v", n, took, err)
		}
	})
}

// TestNobodyAnswers gives up all blocks together when nothing comes for any of
// them, and asks anew the next time. What ends the call otherwise is its error.
func TestNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, b := blocktest.Make(eris.Size32KiB, 1)
		var speaks atomic.Bool
		c := scripted(t, Options{}, func(a asked) {
			if speaks.Load() && a.ref == ref {
				a.segment(b)
			}
		})
		refs := []eris.Ref{ref}
		for i := range 1000 {
			refs = append(refs, eris.Ref{byte(i), byte(i >> 8), 1})
		}
		if n, took, err := fetch(t.Context(), c, eris.Size32KiB, refs...); n != 0 || err != nil || took != 4*time.Second {
			t.Errorf("%d blocks in %v, %v", n, took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if n, took, err := fetch(ctx, c, eris.Size32KiB, refs...); n != 0 || !errors.Is(err, context.DeadlineExceeded) || took != 3*time.Second {
			t.Errorf("cancelled: %d blocks in %v, %v", n, took, err)
		}
		speaks.Store(true)
		if n, _, err := fetch(t.Context(), c, eris.Size32KiB, refs[:4]...); n != 1 || err != nil {
			t.Errorf("%d blocks, %v", n, err)
		}
	})
}

// TestMarked wants less under way where a forwarder marks congestion.
func TestMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, b := blocktest.Make(eris.Size1KiB, 1)
		c := scripted(t, Options{}, func(a asked) {
			frame := appendUint(nil, typeCongestionMark, 1)
			a.send(appendElement(nil, typeLink, appendElement(frame, typeFragment, appendBlock(nil, a.name, nil, b, 1))))
		})
		if n, _, err := fetch(t.Context(), c, eris.Size1KiB, ref); n != 1 || err != nil {
			t.Fatalf("%d blocks, %v", n, err)
		}
		if l := c.conn.pace.limit; l > firstWindow/2+1 {
			t.Errorf("%v may be under way", l)
		}
	})
}

// TestCloseEnds ends a request that waits, and refuses the next.
func TestCloseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := scripted(t, Options{}, func(asked) {})
		done := make(chan error)
		go func() {
			_, _, err := fetch(t.Context(), c, eris.Size1KiB, eris.Ref{1})
			done <- err
		}()
		synctest.Wait()
		c.Close()
		if err := <-done; err == nil {
			t.Error("a request outlives the client")
		}
		if _, _, err := fetch(t.Context(), c, eris.Size1KiB, eris.Ref{1}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// TestNotRead has a forwarder read nothing of what it is sent.
func TestNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Options{Dial: func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			t.Cleanup(func() { theirs.Close() })
			return ours, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		n, took, err := fetch(t.Context(), c, eris.Size1KiB, eris.Ref{1})
		if n != 0 || took != 5*time.Second || !errors.Is(err, errLost) {
			t.Errorf("%d blocks in %v, %v", n, took, err)
		}
	})
}

// TestDialOnce: those who wait for a connection that cannot be made learn it
// together.
func TestDialOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		c, err := New(Options{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials++
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		if err != nil {
			t.Fatal(err)
		}
		_, took, err := fetch(t.Context(), c, eris.Size1KiB, make([]eris.Ref, 30)...)
		if dials != 1 || took != 4*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%d dials in %v, %v", dials, took, err)
		}
	})
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{InFlight: -1}, {Idle: -1}, {Prefix: "eris"}, {Face: "udp://127.0.0.1"}, {Face: "unix://host/path"}, {Face: "unix:path"},
		{Face: "tcp://"}, {Face: "tcp://h/path"}, {Face: "tcp://u@h"}, {Face: "tcp://h:6363?x"}, {Face: "%"},
	} {
		if c, err := New(o); err == nil {
			t.Errorf("%+v: %s", o, c)
		}
	}
	if c, err := New(Options{}); err != nil || c.String() != "/eris by unix:///run/nfd/nfd.sock" {
		t.Errorf("%s, %v", c, err)
	}
	for s, want := range map[string]endpoint{
		"":                       {network: "unix", address: "/run/nfd/nfd.sock", local: true},
		"tcp://ndn.example":      {network: "tcp", address: "ndn.example:6363"},
		"tcp://[::1]:7000":       {network: "tcp", address: "[::1]:7000", local: true},
		"tcp://localhost/":       {network: "tcp", address: "localhost:6363", local: true},
		"unix:///run/a%20b.sock": {network: "unix", address: "/run/a b.sock", local: true},
	} {
		at, err := parseFace(s, nil)
		if err != nil || at.network != want.network || at.address != want.address || at.local != want.local {
			t.Errorf("%q: %+v, %v", s, at, err)
		}
	}
}
