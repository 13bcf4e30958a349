package nar

import (
	"runtime"
	"sync"
	"sync/atomic"
)

const (
	// bufSize is the size of a chunk, in bytes: it fits a core's second-level
	// cache, where hashing finds the bytes again that a system call has just
	// put there.
	bufSize = 256 << 10

	// ringSize is the most chunks that one dump or reading holds.
	ringSize = 8

	// wideRing is that of a restore which hashes many files at once: some 40
	// of the usual size are in a batch.
	wideRing = 16

	// minRing is the least with which a restore goes on: newCrew.
	minRing = wakeSize + 3

	// wakeSize is how many chunks are free when a goroutine that waits for one
	// goes on. All but two come back while it waits: one that it fills itself,
	// and one that it has not handed over.
	wakeSize = 3

	// aloneSize is the size of a piece that is hashed sooner than a goroutine
	// for it has begun, in bytes.
	aloneSize = 64 << 10
)

// chunk is a buffer that one goroutine fills and several read.
type chunk struct {
	buf   [bufSize]byte
	users atomic.Int32 // that have it; the last one gives it back
}

// chunks keeps them, as *chunk, for the next one.
var chunks = sync.Pool{New: func() any { return new(chunk) }}

// ring is the stock of chunks of one dump or reading, which bounds it.
type ring struct {
	mu      sync.Mutex
	more    sync.Cond // waited for by get, with mu
	free    []*chunk  // the last one was used last: a cache may have it
	made    int
	max     int // of made
	waiting bool
	stopped bool
}

func newRing() *ring {
	r := &ring{free: make([]*chunk, 0, ringSize), max: ringSize}
	r.more.L = &r.mu
	return r
}

// get returns a chunk with one user. If all are in use, it waits until some are
// not, since waking up for each would cost more than it brings. It returns nil
// after a call of stop. One goroutine calls it.
func (r *ring) get() *chunk {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.free) == 0 && r.made < r.max {
		r.made++
		r.free = append(r.free, chunks.Get().(*chunk))
	}
	for r.waiting = len(r.free) == 0; r.waiting && !r.stopped; {
		r.more.Wait()
	}
	if r.stopped {
		return nil
	}
	last := len(r.free) - 1
	c := r.free[last]
	r.free = r.free[:last]
	c.users.Store(1)
	return c
}

// put ends one use of c.
func (r *ring) put(c *chunk) {
	if c.users.Add(-1) > 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = append(r.free, c)
	if r.waiting && len(r.free) >= wakeSize {
		r.waiting = false
		r.more.Signal()
	}
}

// stop ends a get that is waiting, and all that come.
func (r *ring) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	r.more.Signal()
}

// release keeps the chunks for others. None may be in use.
func (r *ring) release() {
	for _, c := range r.free {
		chunks.Put(c)
	}
	r.free = nil
}

// hashing hashes an archive in a goroutine of its own, if there is a processor
// for it and the archive is not small.
type hashing struct {
	*Hasher
	ring  *ring
	alone bool       // there is to be none
	todo  chan piece // nil: there is no such goroutine
	work  sync.WaitGroup
}

// piece is a part of a chunk.
type piece struct {
	c      *chunk
	lo, hi int
}

// add hashes c.buf[lo:hi], which must not change while c is in use.
func (h *hashing) add(c *chunk, lo, hi int) {
	if h.todo == nil {
		if h.alone || hi-lo <= aloneSize || runtime.GOMAXPROCS(0) == 1 {
			h.Write(c.buf[lo:hi])
			return
		}
		h.todo = make(chan piece, ringSize)
		h.work.Go(h.run)
	}
	c.users.Add(1)
	h.todo <- piece{c, lo, hi}
}

func (h *hashing) run() {
	for p := range h.todo {
		h.Write(p.c.buf[p.lo:p.hi])
		h.ring.put(p.c)
	}
}

// finish waits until all that was added is hashed.
func (h *hashing) finish() {
	if h.todo != nil {
		close(h.todo)
		h.work.Wait()
		h.todo = nil
	}
}
