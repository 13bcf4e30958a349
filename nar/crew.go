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

	// maxJobs bounds the jobs of a batch.
	maxJobs = 256

	// maxFolders bounds the directories that stay open for a batch.
	maxFolders = 32

	// maxOpen bounds the descriptors of a restore: the directories around an
	// entry, those that only wait for their last file in a batch of each
	// goroutine of the crew and of the caller, and a file for each.
	maxOpen = MaxDepth + 1 + (maxCrew+1)*(maxFolders+1)
)

// batch is some jobs whose data is in a few chunks, which are in use for them.
type batch struct {
	seq     int // of the batches of an archive
	chunks  []*chunk
	folders int // at most as many
	jobs    []job
}

// batches keeps them, as *batch, for the next one.
var batches = sync.Pool{New: func() any { return new(batch) }}

// crew makes entries by several goroutines, in batches, and if these are at
// work or there is one processor only, by the caller's.
type crew struct {
	maker             // of the caller
	ring  *ring       // where the chunks come from
	span  int         // chunks of a batch at most
	most  int         // what span grows to
	size  int         // goroutines at most
	begun int         // goroutines
	queue chan *batch // to a goroutine that has nothing to do
	work  sync.WaitGroup
	cur   *batch // not yet dispatched, or nil
	seq   int    // of the next one

	bad   atomic.Bool // first is not nil
	mu    sync.Mutex
	first error // of the first batch that has failed, in the archive's order
	at    int   // that batch's seq
}

// newCrew returns a crew that makes entries of item out of chunks of ring.
//
// A batch that is not dispatched keeps its chunks, so it must leave enough for
// ring.get to go on: the crew and who hashes give theirs back by themselves, but
// not so a batch, and the chunk that the caller fills.
func newCrew(ring *ring, item string, dedup *Dedup) *crew {
	return &crew{
		maker: maker{item: item, dedup: dedup}, ring: ring,
		span:  1,                             // it begins early
		most:  (ring.max - wakeSize - 1) / 2, // half of the rest is for the crew
		size:  min(runtime.GOMAXPROCS(0)-1, maxCrew),
		queue: make(chan *batch),
	}
}

// add adds a job, whose data is in c.
func (w *crew) add(j job, c *chunk) {
	if w.cur != nil && !w.cur.has(c) && len(w.cur.chunks) == w.span {
		w.dispatch()
	}
	if w.cur == nil {
		w.cur = batches.Get().(*batch)
		w.cur.seq = w.seq
		w.seq++
	}
	b := w.cur
	if !b.has(c) {
		c.users.Add(1)
		b.chunks = append(b.chunks, c)
	}
	if len(b.jobs) == 0 || b.jobs[len(b.jobs)-1].dir != j.dir {
		b.folders++
	}
	j.dir.todo.Add(1)
	b.jobs = append(b.jobs, j)
	if len(b.jobs) == maxJobs || b.folders == maxFolders {
		w.dispatch()
	}
}

// has reports whether c, which no earlier one than the last can be, is in use
// for b.
func (b *batch) has(c *chunk) bool {
	return len(b.chunks) > 0 && b.chunks[len(b.chunks)-1] == c
}

// dispatch has the jobs done that were added.
func (w *crew) dispatch() {
	b := w.cur
	if b == nil {
		return
	}
	w.cur = nil
	w.span = min(w.span+1, w.most)
	select {
	case w.queue <- b:
		return
	default:
	}
	if w.begun == w.size {
		w.doBatch(&w.maker, b)
		return
	}
	w.begun++
	w.work.Go(func() { w.run(b) })
}

// run does b and what is queued.
func (w *crew) run(b *batch) {
	m := maker{item: w.item, dedup: w.dedup}
	w.doBatch(&m, b)
	for b := range w.queue {
		w.doBatch(&m, b)
	}
}

// doBatch does the jobs of b, unless a batch before it has failed.
func (w *crew) doBatch(m *maker, b *batch) {
	ok := !w.failedBefore(b.seq)
	var err error
	if ok {
		err = m.do(b.jobs)
	}
	for i := range b.jobs {
		if doneErr := m.done(b.jobs[i].dir); err == nil {
			err = doneErr
		}
	}
	if err != nil && ok {
		w.fail(b.seq, err)
	}
	for _, c := range b.chunks {
		w.ring.put(c)
	}
	clear(b.jobs)
	clear(b.chunks)
	b.jobs, b.chunks, b.folders = b.jobs[:0], b.chunks[:0], 0
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
