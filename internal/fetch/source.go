package fetch

import (
	"cmp"
	"time"

	"ersatz/eris"
)

const (
	// callTime is how long a call should last after its first block: long
	// enough to make its latency small, short enough to be taken over.
	callTime = 500 * time.Millisecond

	// grow is how many times more blocks the next call may ask for.
	grow = 16

	// memory is how many blocks the measured pace goes back.
	memory = 32

	// guess is the latency of sources while none has been measured.
	guess = 250 * time.Millisecond

	// credit is how many blocks earn a source the forgiveness of one failure
	// after the first.
	credit = 64
)

// source is the state of a Source, guarded by the lock of the Mix.
type source struct {
	Source
	bit     uint64
	calls   []*call // that run
	dropped error

	blocks, bytes int64

	progress time.Time     // of the last useful answer, or when it became busy
	wasted   time.Duration // before progress, on calls that were cut when overdue
	idle     time.Time     // when the last call ended
	failed   time.Time     // when the last forgiven failure was
	earned   int           // blocks since then

	dry    int       // Mix.news when it had nothing that is wanted
	looked time.Time // when that was found

	size  int           // blocks that its next call may ask for
	first time.Duration // usual time to a call's first answer, 0 if not measured
	lag   time.Duration // longest that it gave nothing when it was overtaken, since then
	spent time.Duration // between recent blocks, but for the first ones of calls
	count int           // of those blocks
	came  time.Time     // last block
}

func newSource(s Source, i int) *source {
	if s.Parallel <= 0 {
		s.Parallel = defaultParallel
	}
	n := &source{Source: s, bit: 1 << i, size: 1, earned: credit}
	if s.Prior.Latency > 0 {
		n.first, n.size = s.Prior.Latency, cmp.Or(s.Prior.Blocks, 4)
	}
	if s.Prior.Latency > 0 && s.Prior.Pace > 0 {
		n.spent, n.count = s.Prior.Pace, 1
	}
	return n
}

// learnt is what is known of the source now.
func (s *source) learnt() (l Learnt) {
	l.Latency = s.first
	if s.first > 0 {
		l.Blocks = s.size
	}
	if s.count > 0 {
		l.Pace = s.pace()
	}
	return l
}

// has reports whether the source is to be asked for a block.
func (s *source) has(ref eris.Ref) bool { return s.Has == nil || s.Has(ref) }

// seeds reports whether the source is one that, with spread, gives from places
// of chance: far ones, and near ones that have all.
func (s *source) seeds() bool { return !s.Near || s.Has == nil }

func (s *source) measured() bool { return s.first > 0 || s.lag > 0 }

// pace is the time per block of the source's line, latency left out.
func (s *source) pace() time.Duration {
	if s.count == 0 {
		return s.latency()
	}
	return max(s.spent/time.Duration(s.count), 1)
}

// owes returns the blocks that are asked of the source.
func (s *source) owes() (n int) {
	for _, c := range s.calls {
		n += c.open
	}
	return n
}

// latency is what to expect until the first block of a call.
func (s *source) latency() time.Duration {
	if !s.measured() {
		return guess
	}
	return max(s.first, s.lag)
}

// overdue is how long a call gives nothing only if something is wrong.
func (s *source) overdue() time.Duration {
	if s.first == 0 {
		return late + 4*guess
	}
	return late + 4*max(s.first, s.pace()*time.Duration(len(s.calls)))
}

// useful notes an answer that proves the source alive.
func (s *source) useful(now time.Time) { s.progress, s.wasted = now, 0 }

// quiet is how long the source has been asked in vain. That faster sources
// overtook its calls does not count, unless it was overdue.
func (s *source) quiet(now time.Time) time.Duration { return s.wasted + now.Sub(s.progress) }

// stuck reports whether the source has been quiet for longer than it is used
// to.
func (s *source) stuck(now time.Time) bool {
	return s.wasted > 0 || len(s.calls) > 0 && s.quiet(now) > s.overdue()
}

// parallel is how many calls may run now. Calls share the source's line: on a
// slow one, many at once would have none give a block in time.
func (s *source) parallel(stall time.Duration) int {
	if !s.measured() {
		return 1
	}
	return max(1, min(s.Parallel, int(stall/4/s.latency())))
}

// answered learns from a call that ended well.
func (s *source) answered(c *call, now time.Time, stall time.Duration) {
	took := now.Sub(c.start)
	first := c.first
	if c.given == 0 {
		first = took
	}
	first = max(first, 1)
	if s.first > 0 {
		first = (3*s.first + first) / 4
	}
	s.first, s.lag = first, 0
	switch rest := took - c.first; {
	case s.first > stall/4:
		s.size = 1
	case len(c.refs) < s.size:
	case len(c.refs) == 1:
		s.size = 2
	case rest < callTime/2:
		s.size *= int(min(callTime/2/max(rest, 1), grow-1)) + 1
	case rest > 2*callTime:
		s.size /= 2
	}
	s.size = max(1, min(s.size, s.most(c.j.size)))
}

// most is how many blocks one call may ask for.
func (s *source) most(size eris.BlockSize) int {
	if s.Batch > 0 {
		return s.Batch
	}
	return min(maxBatch, defaultBatch/int(size))
}

// lost learns from a call that another source overtook.
func (s *source) lost(c *call, now time.Time) {
	if c.given == 0 {
		s.lag = max(s.lag, now.Sub(c.start), 1)
	}
	s.size = max(1, s.size/2)
}

// gave notes n blocks of c that came together: each has its part of the time since
// those before. The first one of a call has none, since that is its latency.
func (s *source) gave(c *call, n int, now time.Time) {
	took := now.Sub(s.came)
	if c.given == 0 {
		n, took = n-1, 0
	}
	if counts := min(n, memory); counts > 0 {
		if kept := min(s.count, memory-counts); kept < s.count {
			s.spent = s.spent * time.Duration(kept) / time.Duration(s.count)
			s.count = kept
		}
		s.spent += took * time.Duration(counts) / time.Duration(n)
		s.count += counts
	}
	s.came = now
}

// forgives reports whether a plain failure of c leaves the source in use: the
// first does, and one per credit of blocks; calls that were under way at a
// failure share it.
func (s *source) forgives(c *call, now time.Time) bool {
	switch {
	case c.start.Before(s.failed):
	case s.earned < credit:
		return false
	default:
		s.earned, s.failed = 0, now
	}
	s.size = 1
	return true
}
