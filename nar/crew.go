package nar

import (
	"runtime"
	"sync"
	"sync/atomic"
)

const (
	// maxCrew bounds the goroutines that make files: more would mostly wait
	// for each other, since entries of one directory are made one by one.
	maxCrew = 3

	// maxBatch bounds the jobs of a batch, and so the directories that stay
	// open for it.
	maxBatch = 32

	// maxOpen bounds the descriptors of a restore: the directories around an
	// entry, those that only wait for their last file in a batch of each
	// goroutine of the crew, one for each that is queued, two of the caller,
	// and a file for each.
	maxOpen = MaxDepth + 1 + (2*maxCrew+2)*maxBatch + maxCrew + 1
)

// batch is some jobs whose data is in one chunk, which is in use for them.
type batch struct {
	seq   int // of the batches of an archive
	chunk *chunk
	jobs  []job
}

// batches keeps them, as *batch, for the next one.
var batches = sync.Pool{New: func() any { return new(batch) }}

// crew makes entries by several goroutines, in batches, and if these have
// enough to do or there is one processor only, by the caller's.
type crew struct {
	maker       // of the caller
	ring  *ring // where the chunks come from
	size  int   // goroutines at most
	begun int   // goroutines
	queue chan *batch
	work  sync.WaitGroup
	cur   *batch // not yet dispatched, or nil
	seq   int    // of the next one

	bad   atomic.Bool // first is not nil
	mu    sync.Mutex
	first error // of the first batch that has failed, in the archive's order
	at    int   // that batch's seq
}

func newCrew(ring *ring, item string, dedup *Dedup) *crew {
	n := min(runtime.GOMAXPROCS(0)-1, maxCrew)
	return &crew{maker: maker{item: item, dedup: dedup}, ring: ring, size: n, queue: make(chan *batch, n)}
}

// add adds a job, whose data is in c.
func (w *crew) add(j job, c *chunk) {
	if w.cur != nil && (w.cur.chunk != c || len(w.cur.jobs) == maxBatch) {
		w.dispatch()
	}
	if w.cur == nil {
		w.cur = batches.Get().(*batch)
		w.cur.seq, w.cur.chunk = w.seq, c
		w.seq++
		c.users.Add(1)
	}
	j.dir.todo.Add(1)
	w.cur.jobs = append(w.cur.jobs, j)
}

// dispatch has the jobs done that were added.
func (w *crew) dispatch() {
	b := w.cur
	if b == nil {
		return
	}
	w.cur = nil
	select {
	case w.queue <- b:
		if w.begun < w.size {
			w.begun++
			w.work.Go(w.run)
		}
	default:
		w.doBatch(&w.maker, b)
	}
}

func (w *crew) run() {
	m := maker{item: w.item, dedup: w.dedup}
	for b := range w.queue {
		w.doBatch(&m, b)
	}
}

// doBatch does the jobs of b, unless a batch before it has failed.
func (w *crew) doBatch(m *maker, b *batch) {
	ok := !w.failedBefore(b.seq)
	for i := range b.jobs {
		j := &b.jobs[i]
		var err error
		if ok {
			err = m.do(j)
		}
		if doneErr := m.done(j.dir); err == nil {
			err = doneErr
		}
		if err != nil && ok {
			w.fail(b.seq, err)
			ok = false
		}
	}
	w.ring.put(b.chunk)
	clear(b.jobs)
	b.jobs, b.chunk = b.jobs[:0], nil
	batches.Put(b)
}

func (w *crew) fail(seq int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.first == nil || seq < w.at {
		w.first, w.at = err, seq
		w.bad.Store(true)
	}
}

func (w *crew) failedBefore(seq int) bool {
	if !w.bad.Load() {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at < seq
}

// hasFailed reports whether any job has failed so far.
func (w *crew) hasFailed() bool { return w.bad.Load() }

// finish waits until all jobs are done and returns the error of the first that
// has failed, in the archive's order. No more can be added.
func (w *crew) finish() error {
	w.dispatch()
	if w.queue != nil {
		close(w.queue)
		w.work.Wait()
		w.queue = nil
	}
	return w.first
}
