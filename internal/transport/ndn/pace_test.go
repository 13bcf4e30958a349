package ndn

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestPaceIsBounded has many ask for room at once, of which some give up.
func TestPaceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(128)
		gone, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		for i := range 100 {
			work.Go(func() {
				ctx := t.Context()
				if i%3 == 0 {
					ctx = gone
				}
				err := p.acquire(ctx, nil, 4)
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				if err == nil {
					time.Sleep(time.Second)
					p.release(4)
				}
			})
		}
		synctest.Wait()
		if p.used != firstWindow || len(p.waiting) != 100-firstWindow/4 {
			t.Errorf("%d under way, %d wait", p.used, len(p.waiting))
		}
		cancel()
		work.Wait()
		if p.used != 0 || len(p.waiting) != 0 {
			t.Errorf("at the end %d under way, %d wait", p.used, len(p.waiting))
		}
	})
}

// TestPaceLost ends those who wait for a connection that is lost, and has one
// block go even where the room is less than its segments.
func TestPaceLost(t *testing.T) {
	lost := make(chan struct{})
	p := newPace(1)
	if err := p.acquire(t.Context(), lost, 4); err != nil {
		t.Fatal(err)
	}
	close(lost)
	if err := p.acquire(t.Context(), lost, 4); !errors.Is(err, errLost) {
		t.Errorf("got %v", err)
	}
	p.release(4)
	if p.used != 0 || len(p.waiting) != 0 {
		t.Errorf("%d under way, %d wait", p.used, len(p.waiting))
	}
}

// TestPaceAdapts wants half as many for a loss, once in a round trip, more with
// what arrives, and neither without end.
func TestPaceAdapts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(128)
		time.Sleep(time.Hour)
		if d := p.repeat(); d != firstRepeat {
			t.Errorf("at first it repeats after %v", d)
		}
		p.used = 1000
		for range 100 {
			p.arrived(time.Second)
		}
		if d := p.repeat(); d < time.Second || d > 2*time.Second {
			t.Errorf("with round trips of 1 s it repeats after %v", d)
		}
		p.limit = 100
		p.lost()
		p.lost()
		if p.limit != 50 {
			t.Errorf("after two losses at once %v", p.limit)
		}
		time.Sleep(2 * time.Second)
		p.lost()
		if p.limit != 25 {
			t.Errorf("after one more %v", p.limit)
		}
		for range 10 {
			time.Sleep(2 * time.Second)
			p.lost()
		}
		if p.limit != leastWindow {
			t.Errorf("after many %v", p.limit)
		}
		p.used = 1_000_000
		for range leastWindow {
			p.arrived(0)
		}
		if p.limit < leastWindow+0.9 || p.limit > leastWindow+1 {
			t.Errorf("after a round trip %v", p.limit)
		}
		for range 100_000 {
			p.arrived(time.Millisecond)
		}
		if d := p.repeat(); p.limit != 128 || d != leastRepeat {
			t.Errorf("after many %v, repeats after %v", p.limit, d)
		}
	})
}
