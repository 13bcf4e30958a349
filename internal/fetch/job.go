package fetch

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"ersatz/eris"
)

// job is one call of Fetch. All fields but the first group are guarded by the
// lock of the Mix.
type job struct {
	size  eris.BlockSize
	refs  []eris.Ref
	got   eris.GotMany
	start func(*call)   // runs a call, in a goroutine that Fetch waits for
	wake  chan struct{} // told when wait must look at the clock anew
	done  chan struct{} // closed when nothing is open, or err is set

	began time.Time
	wants []want  // one for each reference
	queue []int   // of open wants that no call asks for, ascending
	open  int     // wants that are
	calls []*call // that run, oldest first
	err   error
}

// maxAsked is how many sources are asked for one block at a time at most.
const maxAsked = 4

// want is a reference that a job asks for.
type want struct {
	calls  [maxAsked]*call // that ask for it: one, one more when that is late, more when these are stuck
	lacks  uint64          // bits of the sources that answered that they lack it
	closed bool            // it came, or all sources lack it
}

// asked returns how many calls ask for the want.
func (w *want) asked() int {
	if n := slices.Index(w.calls[:], nil); n >= 0 {
		return n
	}
	return maxAsked
}

// hedges reports whether s is to be asked for the want though c, the last that was,
// asks for it: those that were asked before that are stuck too.
func (w *want) hedges(c *call, s *source, now time.Time) bool {
	n := w.asked()
	if w.closed || n == 0 || n == maxAsked || w.calls[n-1] != c || w.lacks&s.bit != 0 {
		return false
	}
	return n == 1 || !slices.ContainsFunc(w.calls[:n], func(o *call) bool { return o.s == s || !o.s.stuck(now) })
}

// call is one call of a source's Fetcher.
type call struct {
	s      *source
	j      *job
	refs   []eris.Ref
	index  []int // of refs in the job
	cancel context.CancelFunc
	ended  atomic.Bool // cut off: what it gives is not wanted any more
	hedge  bool        // others are asked for some of it too, since before

	owed  int // references that it has not given
	open  int // of those, the ones that no other call has given either
	given int
	start time.Time
	first time.Duration // until the first block, 0 before
	last  time.Time     // start, or when the last block came
}

// notes is memory that one job after another uses.
type notes struct {
	wants []want
	queue []int
}

func newJob(size eris.BlockSize, refs []eris.Ref, got eris.GotMany, n *notes) *job {
	n.wants = slices.Grow(n.wants[:0], len(refs))[:len(refs)]
	clear(n.wants)
	n.queue = n.queue[:0]
	for i := range refs {
		n.queue = append(n.queue, i)
	}
	return &job{
		size: size, refs: refs, got: got, began: time.Now(), wants: n.wants, open: len(refs),
		queue: n.queue, wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

// fail ends the job, unless it has ended.
func (j *job) fail(err error) {
	if j.err == nil && j.open > 0 {
		j.err = err
		j.queue = nil
		close(j.done)
	}
}

// came notes that c has given a want which is open. Calls that are left without one
// end.
func (j *job) came(c *call, w *want, now time.Time) {
	for _, other := range w.calls {
		if other == nil {
			break
		}
		if other.open--; other.open == 0 && other != c {
			other.cut(now)
		}
	}
}

// close counts want i as done with.
func (j *job) close(i int) {
	w := &j.wants[i]
	w.closed = true
	if w.calls[0] == nil {
		if k, found := slices.BinarySearch(j.queue, i); found {
			j.queue = slices.Delete(j.queue, k, k+1)
		}
	}
	if j.open--; j.open == 0 && j.err == nil {
		close(j.done)
	}
}

// take removes up to n wants that may be taken from the queue: those from a
// place on, in order, or the last ones.
func (j *job) take(n, from int, back bool, may func(i int) bool) []int {
	first, _ := slices.BinarySearch(j.queue, from)
	queue := j.queue[first:]
	taken := make([]int, 0, min(n, len(queue)))
	for k := range queue {
		if len(taken) == n {
			break
		}
		i := queue[k]
		if back {
			i = queue[len(queue)-1-k]
		}
		if may(i) {
			taken = append(taken, i)
		}
	}
	if back {
		slices.Reverse(taken)
	}
	rest := taken
	j.queue = slices.DeleteFunc(j.queue, func(i int) bool {
		found := len(rest) > 0 && rest[0] == i
		if found {
			rest = rest[1:]
		}
		return found
	})
	return taken
}

// release notes that c does not ask for reference i any more; if no call
// does, it is queued again. It reports whether c did ask.
func (j *job) release(c *call, i int) bool {
	w := &j.wants[i]
	n, k := w.asked(), slices.Index(w.calls[:], c)
	if k < 0 {
		return false
	}
	copy(w.calls[k:n], w.calls[k+1:n])
	w.calls[n-1] = nil
	if w.calls[0] == nil && !w.closed && j.err == nil {
		k, _ := slices.BinarySearch(j.queue, i)
		j.queue = slices.Insert(j.queue, k, i)
	}
	return true
}

// cut cancels a call.
func (c *call) cut(now time.Time) {
	if now.Sub(c.last) > c.s.overdue() {
		c.s.wasted = c.s.quiet(now)
	}
	c.s.progress = now
	c.ended.Store(true)
	c.cancel()
}

// remove returns list without x, in order.
func remove[T comparable](list []T, x T) []T {
	if i := slices.Index(list, x); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}
