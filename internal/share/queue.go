package share

import (
	"cmp"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
)

// queue is what a network has been given and is to be given.
type queue struct {
	Sink
	lib   block.Library
	log   *slog.Logger
	state *state // nil: nothing is remembered

	mu      sync.Mutex
	items   map[uint64]*item // by root, see key
	ready   items            // what can be done now, what matters most first
	later   items            // what is to wait, in the order of due
	listing uint32           // counts the times that the library was listed
	wake    chan struct{}    // closed when there is more to do; nil if nobody waits
	pause   time.Time        // until then nothing is done: the network failed
	delay   time.Duration    // the next pause
	full    bool             // it took no more contents when it was last asked to
	failed  error            // of the last attempt
}

// item is a content in a queue. It is in ready, in later, in the hands of a
// worker, or has nothing to wait for. There may be 100,000 of them for each
// network, so that it is small.
type item struct {
	c       *block.Shared // never changed; the queues share it
	given   *block.Shared // what the network was last given that has a magnet link, or nil
	offered int64         // when the network was last given it, in Unix seconds; 0: never
	due     int64         // before which nothing is done, in Unix milliseconds
	place   int32         // in the heap that it is in
	in      *items        // that heap, or nil
	seen    uint32        // the last listing that had it; 0: none yet
	came    uint32        // the listing that it came with
	order   uint32        // how many items there were before it
	tries   uint8         // attempts that failed since the last good one
	left    bool          // it is no longer in the library
	changed bool          // the library says something else of it than was offered
	busy    bool          // a worker has it
}

// key is what a content is found by: the first 8 bytes of its root, since a whole one
// takes 24 more of memory.
func key(c *block.Shared) uint64 { return binary.NativeEndian.Uint64(c.ReadCap.Root[:]) }

// news reports whether the network was not told of what the library says.
func (i *item) news() bool { return i.offered == 0 || i.changed }

func newQueue(s Sink, lib block.Library, log *slog.Logger) *queue {
	s.Parallel = max(s.Parallel, 1)
	return &queue{
		Sink: s, lib: lib, log: log.With(slog.String("network", s.Name)), items: map[uint64]*item{},
		ready: items{less: before}, later: items{less: func(a, b *item) bool { return a.due < b.due }}, delay: firstDelay,
	}
}

// before is the order of what can be done: what is to be taken back, then what
// was never offered, the newest first, since that is what others ask for soon,
// then what is renewed. What has failed keeps nothing else back.
func before(a, b *item) bool {
	kind := func(i *item) int {
		switch {
		case i.left:
			return 0
		case i.news():
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(kind(a), kind(b)), cmp.Compare(a.tries, b.tries),
		cmp.Compare(a.offered, b.offered), cmp.Compare(b.came, a.came), cmp.Compare(a.order, b.order)) < 0
}

// load reads what the network was given by other processes.
func (q *queue) load(ctx context.Context) error {
	if q.state == nil {
		return nil
	}
	return q.state.each(ctx, q.Name, func(s block.Shared, offered time.Time) {
		q.items[key(&s)] = &item{c: &s, offered: offered.Unix()}
	})
}

// begin begins a listing of the library.
func (q *queue) begin() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.listing++
}

// content returns the copy of s that the queue has, or else a new one.
func (q *queue) content(s block.Shared) *block.Shared {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := q.items[key(&s)]; i != nil && *i.c == s {
		return i.c
	}
	return &s
}

// see notes that a content is in the library. Of those with one root, or one key, the
// first counts.
func (q *queue) see(c *block.Shared) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := q.items[key(c)]
	if i == nil {
		i = &item{c: c, came: q.listing, order: uint32(len(q.items))}
		q.items[key(c)] = i
	}
	if i.seen == q.listing || i.c.ReadCap.Root != c.ReadCap.Root {
		return
	}
	same := *i.c == *c
	as := i.seen != 0 && same && !i.left // it was
	i.c, i.seen, i.left = c, q.listing, false
	i.changed = i.changed || !same
	if !as {
		i.tries, i.due = 0, 0
		q.plan(i)
	}
}

// sweep ends a listing: what was not seen has left the library.
func (q *queue) sweep() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, i := range q.items {
		if i.seen != q.listing && !i.left {
			i.left = true
			i.due = 0
			q.plan(i)
		}
	}
}

// plan puts an item where it belongs. The caller has q.mu.
func (q *queue) plan(i *item) {
	i.leave()
	switch {
	case i.busy:
		return // who has it plans then
	case i.left:
		if i.offered == 0 && i.tries == 0 { // there is nothing to take back
			delete(q.items, key(i.c))
			return
		}
	case !i.news() && q.Renew <= 0:
		return
	case !i.news():
		// A clock that was set back does not keep it from being renewed.
		last := min(i.offered, time.Now().Unix())
		i.due = max(i.due, 1000*last+q.Renew.Milliseconds())
	}
	if i.due <= time.Now().UnixMilli() {
		q.ready.add(i)
	} else {
		q.later.add(i)
	}
	if q.wake != nil {
		close(q.wake)
		q.wake = nil
	}
}

// task is what a worker does.
type task struct {
	i    *item
	c    *block.Shared
	back bool // to be taken back, not offered
}

// next waits for something to do. ok is false when ctx has ended.
func (q *queue) next(ctx context.Context) (t task, ok bool) {
	for ctx.Err() == nil {
		t, wait, wake := q.take(time.Now())
		if t.i != nil {
			return t, true
		}
		timer := time.NewTimer(wait)
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return task{}, false
}

// idle is how long is waited for what will be told anyway.
const idle = time.Hour

// take returns a task if there is one now, or else how long to wait for one, or
// for wake.
func (q *queue) take(now time.Time) (t task, wait time.Duration, wake <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.later.Len() > 0 && q.later.all[0].due <= now.UnixMilli() {
		i := q.later.all[0]
		i.leave()
		q.ready.add(i)
	}
	wait = idle
	switch {
	case now.Before(q.pause):
		wait = q.pause.Sub(now)
	case q.ready.Len() > 0:
		i := q.ready.all[0]
		i.leave()
		i.busy = true
		t := task{i, i.c, i.left}
		if t.back && i.given != nil {
			t.c = i.given // the library may have lost the link before the item
		}
		return t, 0, nil
	case q.later.Len() > 0:
		wait = time.UnixMilli(q.later.all[0].due).Sub(now)
	}
	if q.wake == nil {
		q.wake = make(chan struct{})
	}
	return task{}, wait, q.wake
}

// succeed ends a task.
func (q *queue) succeed(t task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := t.i
	i.busy, i.tries, i.due = false, 0, 0
	if t.back {
		i.offered, i.given = 0, nil
	} else {
		i.offered = time.Now().Unix()
		i.changed = *i.c != *t.c
		if t.c.Magnet != "" {
			i.given = t.c
		}
	}
	q.failed, q.delay = nil, firstDelay
	q.full = q.full && t.back
	q.plan(i)
}

// fail ends a task that can be tried again, and returns when. If it is the
// network that failed, all others wait too; news is false if it has been seen
// already that the network fails, or that it is full.
func (q *queue) fail(t task, err error, network bool) (after time.Duration, news bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	i := t.i
	i.busy = false
	i.tries = min(i.tries+1, 100)
	after = min(firstDelay<<min(i.tries-1, 10), lastDelay)
	if !errors.Is(err, eris.ErrNotFound) { // else it has just left the library
		q.failed = err
	}
	news = !network || !now.Before(q.pause)
	if errors.Is(err, block.ErrFull) {
		after = lastDelay
		news, q.full = !q.full, true
	}
	if network && news {
		after = max(after, q.delay)
		q.pause = now.Add(q.delay)
		q.delay = min(2*q.delay, lastDelay)
	}
	i.due = now.Add(after).UnixMilli()
	switch {
	case t.back && i.offered == 0:
		i.tries = 0 // what was given in part is not worth more
	case i.left && !t.back:
		i.due = 0
	}
	q.plan(i)
	return after, news
}

// drop ends a task because all ends.
func (q *queue) drop(t task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t.i.busy = false
}

func (q *queue) status() Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Status{Name: q.Name, Kind: q.Kind}
	for _, i := range q.items {
		if i.offered != 0 {
			s.Offered++
		}
		if i.left || i.seen != 0 && i.news() {
			s.Waiting++
		}
		if i.tries != 0 {
			s.Failed++
		}
	}
	if q.failed != nil {
		s.Error = q.failed.Error()
	}
	return s
}

// items is a heap of items, which know where they are. It implements
// heap.Interface.
type items struct {
	all  []*item
	less func(a, b *item) bool
}

func (h *items) add(i *item) {
	i.in = h
	heap.Push(h, i)
}

// leave takes an item out of the heap that it is in.
func (i *item) leave() {
	if i.in != nil {
		heap.Remove(i.in, int(i.place))
		i.in = nil
	}
}

func (h *items) Len() int           { return len(h.all) }
func (h *items) Less(i, j int) bool { return h.less(h.all[i], h.all[j]) }

func (h *items) Swap(i, j int) {
	h.all[i], h.all[j] = h.all[j], h.all[i]
	h.all[i].place, h.all[j].place = int32(i), int32(j)
}

// Push implements heap.Interface.
func (h *items) Push(x any) {
	i := x.(*item)
	i.place = int32(len(h.all))
	h.all = append(h.all, i)
}

// Pop implements heap.Interface.
func (h *items) Pop() any {
	last := len(h.all) - 1
	i := h.all[last]
	h.all[last] = nil
	h.all = h.all[:last]
	return i
}
