package eris

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// ReaderOptions are the limits of a Reader. The zero value works.
type ReaderOptions struct {
	// MaxLength bounds the content's length in bytes: repeated nodes can make
	// a small tree claim a huge content. No block is asked for that could
	// only lie beyond it. Default: what the read capability's level can hold.
	MaxLength int64

	// Batch is how many blocks one call of the Fetcher asks for. Default 64, of
	// 1 KiB 512.
	Batch int

	// Ahead is how many blocks are asked for ahead of the reader; Ahead/Batch
	// calls of the Fetcher run at once. It bounds the memory that the Reader
	// holds, about (Ahead + 2*Batch) times the block size. Default 256, of 1 KiB
	// 2048.
	Ahead int
}

func (o ReaderOptions) defaults(size BlockSize) ReaderOptions {
	more := 1
	if size == Size1KiB {
		more = 8
	}
	if o.Batch <= 0 {
		o.Batch = 64 * more
	}
	if o.Ahead <= 0 {
		o.Ahead = 256 * more
	}
	o.Ahead = max(o.Ahead, o.Batch)
	return o
}

// ErrClosed means that the Reader was closed.
var ErrClosed = errors.New("eris: reader is closed")

// Reader decodes a content. Read, WriteTo, Seek and Close share a position and
// are not safe for concurrent use; ReadAt and Length are, also beside them.
// Errors match ErrNotFound, ErrCorrupt or ErrTooLong, or are the Fetcher's.
//
// A tree must be as the encoder makes it: every node but the last of its level
// is full, and a root has two children at least. So the content of a tree is
// the same whether it is read in order or at random.
type Reader struct {
	ctx context.Context // io.Reader has no place for it; ended by Close
	end context.CancelCauseFunc
	c   ReadCap
	f   Fetcher
	o   ReaderOptions

	refused error // the capability cannot be read; set once
	pos     int64 // of the next Read
	stream  *stream
	err     error // that the stream ended with; stays until the position changes

	mu     sync.Mutex
	path   []pathNode // by level: the internal node that was used last
	length int64      // of the content; -1 until known
}

// NewReader returns a Reader of c's content that gets its blocks from f until
// ctx ends. Nothing is asked for before the first read. Close it.
func NewReader(ctx context.Context, c ReadCap, f Fetcher, o ReaderOptions) *Reader {
	r := &Reader{c: c, f: f, length: -1, path: make([]pathNode, int(c.Level)+1)}
	r.ctx, r.end = context.WithCancelCause(ctx)
	r.o = o.defaults(c.Size)
	r.o.MaxLength, r.refused = c.bound(o.MaxLength)
	return r
}

// Close ends all requests and returns when their goroutines have ended.
func (r *Reader) Close() error {
	r.end(ErrClosed)
	r.stop()
	return nil
}

// unusable returns the error that every call returns: the capability was
// refused, the Reader is closed, or its context has ended.
func (r *Reader) unusable() error {
	if r.refused != nil {
		return r.refused
	}
	return context.Cause(r.ctx)
}

// Read decodes in order, with blocks asked for ahead.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	chunk, err := r.chunk()
	if err != nil {
		return 0, err
	}
	n := copy(p, chunk)
	r.consume(n)
	return n, nil
}

// WriteTo decodes from the position to the end into w, without a copy.
func (r *Reader) WriteTo(w io.Writer) (n int64, err error) {
	for {
		chunk, err := r.chunk()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		m, err := w.Write(chunk)
		r.consume(m)
		n += int64(m)
		if err != nil {
			return n, err
		}
	}
}

// chunk returns the content that is at hand from the position on, at least one
// byte, or the error that the stream ended with.
func (r *Reader) chunk() ([]byte, error) {
	if err := r.unusable(); err != nil {
		r.stop()
		return nil, err
	}
	if r.err != nil {
		return nil, r.err
	}
	var chunk []byte
	if r.stream == nil {
		r.stream, r.err = r.start()
	}
	if r.err == nil {
		chunk, r.err = r.stream.chunk()
	}
	if r.err != nil {
		r.stop()
	}
	return chunk, r.err
}

func (r *Reader) consume(n int) {
	r.pos += int64(n)
	r.stream.used += n
}

// start begins a stream at the position.
func (r *Reader) start() (*stream, error) {
	if r.pos > 0 {
		// Where the content ends must be known, to tell a position beyond
		// it from a tree that lacks nodes.
		n, err := r.Length()
		if err != nil {
			return nil, err
		}
		if r.pos >= n {
			return nil, io.EOF
		}
	}
	return newStream(r.ctx, r.c, r.f, r.o, r.pos), nil
}

func (r *Reader) stop() {
	if r.stream != nil {
		r.stream.close()
		r.stream = nil
	}
}

// Seek sets the position of the next Read. Seeking from the end has to learn
// the content's length, which fetches one block per level.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	if err := r.unusable(); err != nil {
		return r.pos, err
	}
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		n, err := r.Length()
		if err != nil {
			return r.pos, err
		}
		offset += n
	default:
		return r.pos, fmt.Errorf("eris: seek: unknown whence %d", whence)
	}
	if offset < 0 {
		return r.pos, errors.New("eris: seek before the content's start")
	}
	if offset != r.pos {
		r.stop()
		r.pos, r.err = offset, nil
	}
	return r.pos, nil
}

// stream reads the leaves in order from some position on.
type stream struct {
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	leaves *stage
	size   int
	bound  int64
	at     int64 // content offset of cur's first leaf
	skip   int   // bytes before the position, in the first leaf

	cur, next *batch // next is set once it was received
	used, end int    // cur.nodes[used:end] can be handed out
	last      bool   // nothing follows end
}

func newStream(ctx context.Context, c ReadCap, f Fetcher, o ReaderOptions, pos int64) *stream {
	leaf := pos / int64(c.Size)
	s := &stream{size: int(c.Size), bound: o.MaxLength, at: leaf * int64(c.Size), skip: int(pos % int64(c.Size))}
	s.ctx, s.cancel = context.WithCancel(ctx)
	for _, st := range newStages(c, f, o, leaf) {
		s.leaves = st
		s.work.Add(1)
		go func() {
			defer s.work.Done()
			st.run(s.ctx)
		}()
	}
	return s
}

func (s *stream) close() {
	s.cancel()
	s.work.Wait()
}

// chunk returns what of the current batch can be handed out, after moving on
// if that is nothing.
func (s *stream) chunk() ([]byte, error) {
	for s.used == s.end {
		if err := s.advance(); err != nil {
			return nil, err
		}
		n := min(s.skip, s.end-s.used)
		s.used += n
		s.skip -= n
	}
	return s.cur.nodes[s.used:s.end], nil
}

// advance makes more of the current batch available or the next one current.
// The last leaf of a batch is held back until it is known whether it is the
// last of all, which is padded.
func (s *stream) advance() error {
	switch {
	case s.last:
		return io.EOF
	case s.cur == nil:
		return s.begin(s.receive())
	case s.next != nil:
		s.at += int64(len(s.cur.nodes))
		s.leaves.release(s.cur)
		return s.begin(s.next)
	}
	if s.next = s.receive(); s.next != nil {
		s.end = len(s.cur.nodes)
		return nil
	}
	return s.finish()
}

// begin makes b the current batch.
func (s *stream) begin(b *batch) error {
	s.cur, s.next = b, nil
	if b == nil {
		return s.ctx.Err()
	}
	if <-b.done; b.err != nil {
		return b.err
	}
	s.used, s.end = 0, len(b.nodes)-s.size
	return nil
}

// finish makes the last leaf of all available.
func (s *stream) finish() error {
	if err := s.ctx.Err(); err != nil {
		return err // which is why nothing follows
	}
	n := len(s.cur.pairs) - 1
	length, err := unpad(s.cur.nodes[n*s.size:], s.cur.pairs[n].ref)
	if err != nil {
		return err
	}
	s.last, s.end = true, n*s.size+length
	if s.at+int64(s.end) > s.bound {
		return tooLong(s.bound)
	}
	return nil
}

// receive returns the next batch, nil if none follows or the context ended.
func (s *stream) receive() *batch { return <-s.leaves.out }
