package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"ersatz/eris"
)

// errEnded is what a source is told that gives more than is wanted.
var errEnded = errors.New("fetch: block is not wanted any more")

// run asks c's source and deals with what it gives.
func (m *Mix) run(ctx context.Context, c *call) {
	err := eris.FetchMany(ctx, c.s.Fetcher, c.j.size, c.refs, func(is []int, blocks [][]byte) (int, error) {
		if c.ended.Load() {
			return 0, errEnded
		}
		in, ok := m.lists.Get().(*[]int)
		if !ok {
			in = new([]int)
		}
		defer m.lists.Put(in)
		*in = (*in)[:0]
		for _, i := range is {
			*in = append(*in, c.index[i])
		}
		n, err := c.j.got(*in, blocks)
		m.arrived(c, (*in)[:n])
		if err != nil {
			m.refused(ctx, c, c.j.refs[(*in)[n]], err)
		}
		return n, err
	})
	m.ended(ctx, c, err)
}

// refused deals with the caller's word that a block is wrong.
func (m *Mix) refused(ctx context.Context, c *call, ref eris.Ref, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if errors.Is(err, eris.ErrCorrupt) {
		m.drop(ctx, c.s, ref, err, now)
		m.assign(now)
	} else {
		c.j.fail(err)
	}
}

// arrived notes blocks that are right.
func (m *Mix) arrived(c *call, is []int) {
	if len(is) == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s, now := c.s, time.Now()
	c.last = now
	s.useful(now)
	s.gave(c, len(is), now)
	if c.given == 0 {
		c.first = now.Sub(c.start)
	}
	c.given += len(is)
	s.earned += len(is)
	if s.seeds() {
		m.took = c.j.refs[is[len(is)-1]]
	}
	for _, i := range is {
		if w := &c.j.wants[i]; !w.closed {
			s.blocks++
			s.bytes += int64(c.j.size)
			c.j.came(c, w, now)
			c.j.close(i)
		}
		if c.j.release(c, i) {
			c.owed--
		}
	}
}

// ended deals with the end of c's call.
func (m *Mix) ended(ctx context.Context, c *call, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	s := c.s
	s.calls, c.j.calls = remove(s.calls, c), remove(c.j.calls, c)
	s.idle = now
	answered := err == nil && !c.ended.Load()
	for _, i := range c.index {
		if !c.j.release(c, i) {
			continue
		}
		m.news++
		if answered {
			c.j.wants[i].lacks |= s.bit
		}
	}
	switch {
	case s.dropped != nil:
	case answered:
		s.useful(now)
		s.answered(c, now, m.stall)
		m.settle(c.j, now)
	case c.ended.Load():
		s.lost(c, now)
	case ctx.Err() != nil:
		c.j.fail(ctx.Err())
	case errors.Is(err, eris.ErrCorrupt) || s.quiet(now) >= m.stall*9/10 || !s.forgives(c, now):
		// That it waited for as long itself is no reason to ask again.
		m.drop(ctx, s, c.refs[min(c.given, len(c.refs)-1)], err, now)
	default:
		m.log.DebugContext(ctx, "source of blocks failed, is asked once more",
			slog.String("source", s.Name), slog.Any("error", err))
	}
	m.assign(now)
}

// drop gives a source up and takes back what it owes. ref is a block that it
// failed at.
func (m *Mix) drop(ctx context.Context, s *source, ref eris.Ref, err error, now time.Time) {
	if s.dropped != nil {
		return
	}
	s.dropped = fmt.Errorf("%s: %w", s.Name, err)
	m.live &^= s.bit
	m.log.WarnContext(ctx, "source of blocks dropped",
		slog.String("source", s.Name), slog.String("block", ref.String()), slog.Any("error", err))
	for _, c := range s.calls {
		c.cut(now)
		for _, i := range c.index {
			c.j.release(c, i)
		}
	}
	m.news++
	for _, j := range m.jobs {
		if m.live == 0 {
			j.fail(m.reasons())
		} else {
			m.settle(j, now)
		}
	}
}

// settle closes what no living source can give any more.
func (m *Mix) settle(j *job, now time.Time) {
	grows := now.Sub(m.grown) < m.stall || now.Sub(j.began) < m.stall
	for k := len(j.queue) - 1; k >= 0; k-- {
		i := j.queue[k]
		able := m.live &^ j.wants[i].lacks
		if able&^m.part != 0 || able != 0 && grows {
			continue
		}
		if !slices.ContainsFunc(m.sources, func(s *source) bool { return able&s.bit != 0 && s.has(j.refs[i]) }) {
			j.close(i)
		}
	}
}
