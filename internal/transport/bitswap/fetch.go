package bitswap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ersatz/eris"
)

const (
	// perCall is how many blocks one Fetch has asked one peer for at once: a
	// message. Several calls run at once.
	perCall = perMessage

	// inFlight is how many blocks one Fetch has asked all peers for at once,
	// and may have to hold.
	inFlight = 256
)

// call is one Fetch.
type call struct {
	s    *session
	size eris.BlockSize
	refs []eris.Ref
	got  func(i int, block []byte) error

	todo    []int           // nobody is asked for, in order
	parked  []int           // all peers lack
	lacks   map[int][]*link // who lacks it
	asked   map[int]*link   // who is asked for it
	load    map[*link]int   // how many are asked of it
	answers chan answer     // has room for as many as are asked

	lost    bool // a connection was: it may have been dead for long
	revived bool // peers were looked for again, which is done once
}

// Fetch asks the peers of the content, each for other blocks. One that a peer
// lacks is asked of the others; if all lack it, or nobody is known who might have
// it, it is missing. A Host without the DHT, which has only named peers to ask,
// returns an error when none of them is left; it matches eris.ErrCorrupt if one
// gave something else. Fetch implements eris.Fetcher.
func (s *session) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(i int, block []byte) error) error {
	if len(refs) == 0 {
		return nil
	}
	s.revive()
	c := &call{
		s: s, size: size, refs: refs, got: got, todo: make([]int, len(refs)),
		lacks: map[int][]*link{}, asked: map[int]*link{}, load: map[*link]int{},
		answers: make(chan answer, min(inFlight, len(refs))),
	}
	for i := range c.todo {
		c.todo[i] = i
	}
	defer c.end()
	return c.run(ctx)
}

// end takes back what is asked.
func (c *call) end() {
	for i, l := range c.asked {
		l.drop(c.refs[i], c.answers)
	}
}

// run asks and takes answers until nothing is left that could come.
func (c *call) run(ctx context.Context) error {
	began, idle := time.Now(), c.s.h.opts.Idle
	timer := time.NewTimer(idle)
	defer timer.Stop()
	var seen <-chan struct{}
	for {
		st := c.s.look()
		if st.changed != seen {
			// Who is new may have what the others lack.
			c.todo, c.parked, seen = append(c.todo, c.parked...), nil, st.changed
		}
		c.assign(st.links)
		left := len(c.todo) + len(c.parked)
		hope := idle - max(time.Since(began), time.Since(st.since))
		switch {
		case len(c.asked) > 0:
		case left > 0 && st.busy && hope > 0:
			timer.Reset(hope)
		case left > 0 && len(st.links) == 0 && c.lost && !c.revived:
			c.revived = true
			c.s.revive()
			continue
		case left > 0 && len(st.links) == 0:
			return c.s.reasons()
		default:
			return nil
		}
		select {
		case a := <-c.answers:
			if err := c.take(a); err != nil {
				return err
			}
		case <-st.changed:
		case <-timer.C:
		case <-c.s.ended:
			return errClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// assign asks peers for what is to do, those first that are asked for least.
func (c *call) assign(links []*link) {
	left := c.todo[:0]
	for k, i := range c.todo {
		l, able := c.choose(i, links)
		switch {
		case l != nil && len(c.asked) < cap(c.answers):
			c.asked[i] = l
			c.load[l]++
			l.ask(c.refs[i], ask{i: i, to: c.answers})
		case able || len(links) == 0:
			left = append(left, i)
		default:
			c.parked = append(c.parked, i)
		}
		if c.full(links) {
			left = append(left, c.todo[k+1:]...)
			break
		}
	}
	c.todo = left
}

// choose returns a peer to ask for a block, nil if there is none now; able says
// whether there is one that may have it.
func (c *call) choose(i int, links []*link) (best *link, able bool) {
	for _, l := range links {
		if slices.Contains(c.lacks[i], l) {
			continue
		}
		able = true
		if c.load[l] < perCall && (best == nil || c.load[l] < c.load[best]) {
			best = l
		}
	}
	return best, able
}

// full reports whether no peer is to be asked for more now.
func (c *call) full(links []*link) bool {
	return len(c.asked) >= cap(c.answers) ||
		!slices.ContainsFunc(links, func(l *link) bool { return c.load[l] < perCall })
}

// take deals with an answer. It returns an error of got.
func (c *call) take(a answer) error {
	delete(c.asked, a.i)
	c.load[a.from]--
	switch {
	case a.err != nil:
		c.s.failed(a.from, a.err)
		c.lost = c.lost || !errors.Is(a.err, errSilent) && !errors.Is(a.err, eris.ErrCorrupt)
		c.todo = append(c.todo, a.i)
	case len(a.block) != int(c.size):
		// It lacks the block, or the reference is one of a block of the other size.
		c.lacks[a.i] = append(c.lacks[a.i], a.from)
		c.todo = append(c.todo, a.i)
	default:
		if err := c.got(a.i, a.block); err != nil {
			return fmt.Errorf("bitswap: peer %s: %w", a.from.id, err)
		}
	}
	return nil
}
