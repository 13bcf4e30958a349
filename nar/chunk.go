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
	ringSize = 6

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
	free chan *chunk
	made int
}

func newRing() *ring { return &ring{free: make(chan *chunk, ringSize)} }

// get returns a chunk with one user, and waits for one if all are in use. It
// returns nil if stop is closed before. One goroutine calls it.
func (r *ring) get(stop <-chan struct{}) *chunk {
	var c *chunk
	select {
	case c = <-r.free:
	default:
		if r.made < ringSize {
			r.made++
			c = chunks.Get().(*chunk)
			break
		}
		select {
		case c = <-r.free:
		case <-stop:
			return nil
		}
	}
	c.users.Store(1)
	return c
}

// put ends one use of c.
func (r *ring) put(c *chunk) {
	if c.users.Add(-1) == 0 {
		r.free <- c // there is room for all
	}
}

// release keeps the chunks for others. None may be in use.
func (r *ring) release() {
	for range r.made {
		chunks.Put(<-r.free)
	}
	r.made = 0
}

// hashing hashes an archive in a goroutine of its own, if there is a processor
// for it and the archive is not small.
type hashing struct {
	Hasher
	ring *ring
	todo chan piece // nil: there is no such goroutine
	work sync.WaitGroup
}

// piece is a part of a chunk.
type piece struct {
	c      *chunk
	lo, hi int
}

// add hashes c.buf[lo:hi], which must not change while c is in use.
func (h *hashing) add(c *chunk, lo, hi int) {
	if h.todo == nil {
		if hi-lo <= aloneSize || runtime.GOMAXPROCS(0) == 1 {
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
