package fetch

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"ersatz/eris"
)

const (
	// late is what a call may be quiet beyond what its source is used to,
	// before another is asked for the same blocks.
	late = 20 * time.Millisecond

	// probe is how often a source that is too slow to be of use is tried.
	probe = 5 * time.Second

	// crawl is how many times slower than a far source a near one may be and
	// still go before it.
	crawl = 10

	// With spread, a far source gives the first frontBlocks that are wanted every
	// frontEvery: who reads the content is not to be left without bytes.
	frontEvery  = 2 * time.Second
	frontBlocks = 4

	// recheck is how often parts are looked at that may have grown.
	recheck = time.Second
)

// assign starts the calls that can run now, those of near sources first. Of
// several, those of about the best pace work from the front, on what is needed
// first. Slower ones work from the back, so that what they hold is not needed
// before they are likely to have given it.
func (m *Mix) assign(now time.Time) {
	if len(m.jobs) == 0 || m.live == 0 {
		return
	}
	r := round{m: m, now: now, room: m.inFlight}
	near, far := m.tiers(now)
	for _, s := range append(near, far...) {
		for _, c := range s.calls {
			r.room -= int64(c.owed) * int64(c.j.size)
		}
	}
	r.assign(near)
	r.near = near
	r.assign(far)
}

// tiers returns the living sources: the near ones that do what is expected of
// them, and the others.
func (m *Mix) tiers(now time.Time) (near, far []*source) {
	best := time.Duration(0) // pace of a far one
	for _, s := range m.sources {
		if s.dropped == nil && !s.Near && s.measured() && (best == 0 || s.pace() < best) {
			best = s.pace()
		}
	}
	for _, s := range m.sources {
		switch {
		case s.dropped != nil:
		case s.Near && !s.stuck(now) && (best == 0 || !s.measured() || s.pace() <= crawl*best):
			near = append(near, s)
		default:
			far = append(far, s)
		}
	}
	return near, far
}

// assign starts the calls of one tier.
func (r *round) assign(tier []*source) {
	r.order = tier
	slices.SortStableFunc(r.order, func(a, b *source) int {
		return cmp.Compare(r.rank(a), r.rank(b))
	})
	for again := len(tier) > 0; again; {
		again = false
		r.plan()
		for _, s := range r.order {
			if j, index := r.pick(s); len(index) > 0 {
				begin(s, j, index, r.now)
				r.room -= int64(len(index)) * int64(j.size)
				again = true
			}
		}
	}
}

// begin starts one call.
func begin(s *source, j *job, index []int, now time.Time) {
	c := &call{s: s, j: j, index: index, owed: len(index), open: len(index), start: now, last: now}
	if first, last := index[0], index[len(index)-1]; last-first == len(index)-1 {
		c.refs = j.refs[first : last+1 : last+1] // they ascend; what lies behind is for others
	} else {
		c.refs = make([]eris.Ref, 0, len(index))
		for _, i := range index {
			c.refs = append(c.refs, j.refs[i])
		}
	}
	for _, i := range index {
		w := &j.wants[i]
		n := w.asked()
		w.calls[n] = c
		c.hedge = c.hedge || n > 0
	}
	if len(s.calls) == 0 {
		s.progress = now
	}
	s.calls, j.calls = append(s.calls, c), append(j.calls, c)
	j.start(c)
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// round is what one assign knows.
type round struct {
	m     *Mix
	now   time.Time
	room  int64     // bytes that may be asked for
	near  []*source // that go before those at hand
	order []*source // at hand, best first

	end time.Duration // until all that is wanted has come, if each does its share
}

// rank is what sources are ordered by: those that are not measured come last, and
// those that have given nothing since they were late.
func (r *round) rank(s *source) time.Duration {
	if !s.measured() || s.wasted > 0 {
		return math.MaxInt64
	}
	return s.latency() + s.pace()
}

// isFast reports whether s is about as fast as the best.
func (r *round) isFast(s *source) bool {
	best := r.order[0]
	return s == best || !best.measured() || s.measured() && s.pace() <= 3*best.pace()
}

// plan sets end: each source gives its first block after its latency and
// then one after the other, and all of them end together, without those whose
// first block would come later.
func (r *round) plan() {
	wanted := 0.0
	for _, j := range r.m.jobs {
		wanted += float64(len(j.queue))
	}
	byLatency := slices.Clone(r.order)
	for _, s := range byLatency {
		wanted += float64(s.owes())
	}
	slices.SortStableFunc(byLatency, func(a, b *source) int { return cmp.Compare(a.latency(), b.latency()) })
	blocks, rate := wanted, 0.0
	r.end = math.MaxInt64
	for _, s := range byLatency {
		if s.latency() >= r.end {
			break
		}
		rate += 1 / float64(s.pace())
		blocks += float64(s.latency()) / float64(s.pace())
		r.end = time.Duration(blocks / rate)
	}
}

// share is how many more blocks s can give until the end.
func (r *round) share(s *source) int {
	return int((r.end-s.latency()+s.pace()/2)/s.pace()) - s.owes()
}

// pick returns what s is to be asked for next.
func (r *round) pick(s *source) (*job, []int) {
	if len(s.calls) >= s.parallel(r.m.stall) {
		return nil, nil
	}
	n := min(s.size, r.share(s))
	if s == r.order[0] || !s.measured() || len(s.calls) == 0 && r.now.Sub(s.idle) > probe {
		n = max(n, 1)
	}
	fast, lacked := r.isFast(s), n < 1
	n = max(n, 1)
	may := func(j *job, i int) bool { return r.may(s, j, i, lacked) }
	take := func(j *job, from, most int, back bool) []int {
		n := min(int64(n), int64(s.most(j.size)), int64(most), r.room/int64(j.size))
		return j.take(max(0, int(n)), from, back, func(i int) bool { return may(j, i) })
	}
	if s.Has == nil || s.dry != r.m.news || r.now.Sub(s.looked) >= recheck {
		if j, index := r.choose(fast, s, may, take); len(index) > 0 {
			return j, index
		}
		if !lacked && r.room >= int64(eris.Size32KiB) {
			s.dry, s.looked = r.m.news, r.now
		}
	}
	for _, j := range r.m.jobs {
		if index := r.overtake(s, j); len(index) > 0 {
			return j, index
		}
	}
	return nil, nil
}

// choose takes what no call asks for.
func (r *round) choose(fast bool, s *source, may func(j *job, i int) bool, take func(j *job, from, most int, back bool) []int) (*job, []int) {
	front := func(most int) (*job, []int) {
		for _, j := range r.m.jobs {
			if index := take(j, 0, most, false); len(index) > 0 {
				return j, index
			}
		}
		return nil, nil
	}
	switch {
	case r.m.spread && s.seeds():
		if r.now.Sub(r.m.front) >= frontEvery {
			if j, index := front(frontBlocks); len(index) > 0 {
				r.m.front = r.now
				return j, index
			}
		}
		return r.scatter(may, func(j *job, from int) []int { return take(j, from, math.MaxInt, false) })
	case fast:
		return front(math.MaxInt)
	}
	for _, j := range slices.Backward(r.m.jobs) {
		if index := take(j, 0, math.MaxInt, true); len(index) > 0 {
			return j, index
		}
	}
	return nil, nil
}

// may reports whether s is to be asked for a want of j; with lacked, only if
// another one lacks it.
func (r *round) may(s *source, j *job, i int, lacked bool) bool {
	lacks, ref := j.wants[i].lacks, j.refs[i]
	if lacks&s.bit != 0 || !s.has(ref) {
		return false
	}
	for _, n := range r.near {
		if lacks&n.bit == 0 && n.has(ref) {
			return false
		}
	}
	return !lacked || lacks != 0 || slices.ContainsFunc(r.order, func(o *source) bool { return !o.has(ref) })
}

// overtake returns what s should be asked for although a call does already:
// the last references of one that is late.
func (r *round) overtake(s *source, j *job) []int {
	if j.err != nil {
		return nil
	}
	for _, c := range j.calls {
		if c.s == s || c.open == 0 || c.ended.Load() || r.now.Sub(c.last) < patience(c, s) {
			continue
		}
		var index []int
		for _, i := range slices.Backward(c.index) {
			if j.wants[i].hedges(c, s, r.now) && s.has(j.refs[i]) {
				index = append(index, i)
			}
			if len(index) >= min(s.size, s.most(j.size)) {
				break
			}
		}
		if len(index) > 0 {
			slices.Reverse(index)
			return index
		}
	}
	return nil
}

// patience is how long c may give nothing before s is asked for what c owes:
// not at all if s would be far sooner, else some usual times of either. A near
// source that is not known to be late has all the time that it is used to take
// before a far one is asked, and one that has given nothing since it was late has
// hardly any.
func patience(c *call, s *source) time.Duration {
	if c.s.wasted > 0 && s.wasted == 0 {
		return late
	}
	if c.s.Near && !s.Near && c.s.wasted == 0 {
		return c.s.overdue()
	}
	n := min(c.open, s.size)
	cost := max(s.latency(), time.Duration(n*(len(s.calls)+1))*s.pace())
	if c.s.measured() && time.Duration(c.open*len(c.s.calls))*c.s.pace() > 3*cost+late {
		return 0
	}
	return min(late+2*cost, c.s.overdue())
}

// review drops sources that have stalled, starts what has become due, and
// returns after how long j's owner is to call it again.
func (m *Mix) review(ctx context.Context, j *job) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	next := m.stall
	for _, s := range m.sources {
		if s.dropped != nil || len(s.calls) == 0 {
			continue
		}
		if quiet := s.quiet(now); quiet < m.stall {
			next = min(next, m.stall-quiet)
		} else {
			c := s.calls[0]
			ref := c.refs[min(c.given, len(c.refs)-1)]
			m.drop(ctx, s, ref, fmt.Errorf("block %s: %w", ref, ErrStalled), now)
		}
	}
	m.assign(now)
	if m.part&m.live != 0 && len(j.queue) > 0 {
		m.settle(j, now)
		next = min(next, recheck)
	}
	for _, c := range j.calls {
		if c.open == 0 || c.ended.Load() {
			continue
		}
		if d := c.s.overdue() - c.s.quiet(now); c.hedge && d >= 0 {
			next = min(next, d+1) // then it is stuck, and a third is asked
		}
		for _, s := range m.sources {
			if s.dropped != nil || s == c.s {
				continue // who is busy now may be free then
			}
			if d := patience(c, s) - now.Sub(c.last); d > 0 {
				next = min(next, d)
			}
		}
	}
	return max(next, time.Millisecond)
}
