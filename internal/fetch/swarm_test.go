package fetch_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/fetch"
)

const (
	swarmBlocks = 8000
	swarmPace   = 2 * ms // the origin's, per block, for all together
	swarmPoll   = time.Second
	swarmBatch  = 64
	swarmCalls  = 64
)

// node is a machine of a swarm: it fetches blocks, and gives those it has.
type node struct {
	line *fake // it gives over

	all *tally // of the swarm

	mu    sync.Mutex
	has   map[eris.Ref]bool
	known []map[eris.Ref]bool // of the others, as of the last time it looked
}

// tally is what all nodes of a swarm have together.
type tally struct {
	mu  sync.Mutex
	has map[eris.Ref]bool
}

func newTally() *tally { return &tally{has: map[eris.Ref]bool{}} }

func (l *tally) add(ref eris.Ref) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.has[ref] = true
}

func (l *tally) whole() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.has) == swarmBlocks
}

func (n *node) holds(ref eris.Ref) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.has[ref]
}

func (n *node) source(of int, from *node) fetch.Source {
	return fetch.Source{Name: fmt.Sprint("node ", of), Near: true, Fetcher: from.line, Has: func(ref eris.Ref) bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.known[of][ref]
	}}
}

// look asks the others what they have, as often as a node does, and tells m.
func (n *node) look(ctx context.Context, all []*node, m *fetch.Mix) {
	for sleep(ctx, swarmPoll) == nil {
		grown := false
		for i, other := range all {
			if other == n {
				continue
			}
			other.mu.Lock()
			has := maps.Clone(other.has)
			other.mu.Unlock()
			n.mu.Lock()
			grown = grown || len(has) > len(n.known[i])
			n.known[i] = has
			n.mu.Unlock()
		}
		if grown {
			m.Changed()
		}
	}
}

// fetch gets all blocks as an eris.Filler with its default options does: calls
// of so many blocks at once.
func (n *node) fetch(ctx context.Context, m *fetch.Mix) error {
	jobs := make(chan int, swarmBlocks)
	for i := 0; i < swarmBlocks; i += swarmBatch {
		jobs <- i
	}
	close(jobs)
	errs := make(chan error, swarmCalls)
	for range cap(errs) {
		go func() {
			var err error
			for from := range jobs {
				var refs []eris.Ref
				for i := from; i < min(from+swarmBatch, swarmBlocks); i++ {
					refs = append(refs, ref(i))
				}
				err = errors.Join(err, m.Fetch(ctx, eris.Size1KiB, refs, func(i int, b []byte) error {
					if eris.Ref(b[:32]) != refs[i] {
						return &eris.CorruptError{Ref: refs[i]}
					}
					n.mu.Lock()
					defer n.mu.Unlock()
					n.has[refs[i]] = true
					n.all.add(refs[i])
					return nil
				}))
			}
			errs <- err
		}()
	}
	var err error
	for range cap(errs) {
		err = errors.Join(err, <-errs)
	}
	return err
}

// swarm runs size nodes that fetch the same from each other and one origin, which
// may be on their network. It returns how many blocks the origin gave and how
// long it took.
func swarm(t *testing.T, size int, origin *fake, near bool, together *tally, late time.Duration) (given int, took time.Duration) {
	all := make([]*node, size)
	for i := range all {
		n := &node{line: newFake(ms, ms/10), all: together, has: map[eris.Ref]bool{}, known: make([]map[eris.Ref]bool, size)}
		n.line.lacks = func(r eris.Ref) bool { return !n.holds(r) }
		all[i] = n
	}
	start := time.Now()
	var work sync.WaitGroup
	for i, n := range all {
		work.Go(func() {
			if err := sleep(t.Context(), time.Duration(i)*late); err != nil {
				t.Error(err)
			}
			var sources []fetch.Source
			for k, other := range all {
				if other != n {
					sources = append(sources, n.source(k, other))
				}
			}
			sources = append(sources, fetch.Source{Name: "origin", Fetcher: origin, Near: near})
			m := fetch.New(sources, fetch.Options{})
			m.Spread(true)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			work.Go(func() { n.look(ctx, all, m) })
			if err := n.fetch(t.Context(), m); err != nil {
				t.Errorf("node %d: %v; %+v", i, err, m.Stats())
			}
			if len(n.has) != swarmBlocks {
				t.Errorf("node %d has %d blocks", i, len(n.has))
			}
		})
	}
	work.Wait()
	return origin.sent, time.Since(start)
}

// TestSwarm has four machines fetch the same at the same time. The origin gives
// little more than one copy, and all end at about the time of one.
func TestSwarm(t *testing.T) {
	for _, c := range []struct {
		near bool
		late time.Duration
	}{{false, 0}, {false, 100 * ms}, {false, 3 * time.Second}, {true, 0}, {true, 100 * ms}} {
		late := c.late
		t.Run(fmt.Sprintf("near %v, %v apart", c.near, late), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				given, took := swarm(t, 4, newFake(20*ms, swarmPace), c.near, newTally(), late)
				alone := swarmBlocks * swarmPace
				t.Logf("the origin gave %.2f copies; %v, alone %v", float64(given)/swarmBlocks, took, alone)
				if given > swarmBlocks*5/4 || took > alone*5/4+3*late {
					t.Errorf("the origin gave %d blocks of %d; %v, alone %v", given, swarmBlocks, took, alone)
				}
			})
		})
	}
}

// TestSwarmWithoutOrigin has the origin die when the swarm together has all.
func TestSwarmWithoutOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		origin, together := newFake(20*ms, swarmPace), newTally()
		origin.fault = func(int, int) error { return when(together.whole(), errBroken) }
		_, took := swarm(t, 4, origin, false, together, 0)
		if alone := swarmBlocks * swarmPace; took > alone*3/2 {
			t.Errorf("%v, alone %v", took, alone)
		}
	})
}

// TestSpreadFront has one slow far source and looks at how long who reads in
// order is left without anything new.
func TestSpreadFront(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		m := fetch.New([]fetch.Source{{Name: "far", Fetcher: newFake(20*ms, 40*ms)}}, fetch.Options{})
		m.Spread(true)
		var mu sync.Mutex
		var gap time.Duration
		came, front, moved := map[int]bool{}, 0, time.Now()
		err := m.Fetch(t.Context(), eris.Size1KiB, take(t, 0, n).refs, func(i int, _ []byte) error {
			mu.Lock()
			defer mu.Unlock()
			came[i] = true
			for ; came[front]; front++ {
				gap, moved = max(gap, time.Since(moved)), time.Now()
			}
			return nil
		})
		if err != nil || front != n {
			t.Fatalf("%d blocks, %v", front, err)
		}
		if gap > 6*time.Second {
			t.Errorf("nothing new for %v", gap)
		}
	})
}
