package nar

import (
	"fmt"
	"io"
	"math"
)

// errEnd is peek's error where the stream ends, so that it cannot be mistaken
// for an io.ErrUnexpectedEOF that the stream itself returned.
var errEnd = fmt.Errorf("archive ends too early: %w", io.ErrUnexpectedEOF)

// minRead is the room that is worth a Read, in bytes, if there is a choice.
const minRead = 32 << 10

// source is a stream seen through chunks: it hashes what it reads, and reads
// no more than its bound allows.
type source struct {
	r      io.Reader
	ring   *ring
	hash   hashing
	cur    *chunk
	lo, hi int   // cur.buf[lo:hi] is read and not consumed
	hashed int   // cur.buf[hashed:hi] is to be hashed
	n      int64 // bytes read
	max    int64 // bound on n
}

func newSource(r io.Reader, max int64) *source {
	if max <= 0 {
		max = math.MaxInt64
	}
	ring := newRing()
	return &source{r: r, ring: ring, hash: hashing{Hasher: NewHasher(), ring: ring}, cur: ring.get(), max: max}
}

// release gives the chunks back; nobody may use any of them then.
func (s *source) release() {
	s.hash.finish()
	s.ring.put(s.cur)
	s.ring.release()
}

// info returns the hash and size of all that was read.
func (s *source) info() Info {
	s.hash.finish()
	s.hash.Write(s.cur.buf[s.hashed:s.hi])
	s.hashed = s.hi
	return s.hash.Info()
}

// offset returns the offset in the stream of the next byte.
func (s *source) offset() int64 { return s.n - int64(s.hi-s.lo) }

// peek returns what is buffered, at least n bytes of it, n being at most half
// of bufSize. The bytes are valid until the next call, and for a user of cur as
// long as it has that. At the end of the stream it returns errEnd, at the bound
// ErrTooLarge.
func (s *source) peek(n int) ([]byte, error) {
	for s.hi-s.lo < n {
		if err := s.fill(n); err != nil {
			return nil, err
		}
	}
	return s.cur.buf[s.lo:s.hi], nil
}

// fill reads once, having made room for n bytes.
func (s *source) fill(n int) error {
	if s.n >= s.max {
		return ErrTooLarge
	}
	if s.lo+n > bufSize || s.lo == s.hi && s.lo+minRead > bufSize {
		s.turn()
	}
	room := int(min(int64(bufSize-s.hi), s.max-s.n))
	m, err := read(s.r, s.cur.buf[s.hi:s.hi+room])
	s.hi += m
	s.n += int64(m)
	if m > 0 {
		return nil // an error that came with bytes comes again
	}
	if isEOF(err) {
		return errEnd
	}
	return err
}

// turn takes what is not consumed to the beginning of a chunk, the same one if
// nobody else uses it.
func (s *source) turn() {
	s.hash.add(s.cur, s.hashed, s.hi)
	old := s.cur
	if old.users.Load() > 1 {
		s.cur = s.ring.get()
	}
	s.hi = copy(s.cur.buf[:], old.buf[s.lo:s.hi])
	s.lo, s.hashed = 0, s.hi
	if s.cur != old {
		s.ring.put(old)
	}
}

// skip consumes n bytes that peek has returned.
func (s *source) skip(n int) { s.lo += n }

// atEOF reports whether the stream ends here. It reads at most one byte.
func (s *source) atEOF() (bool, error) {
	if s.lo < s.hi {
		return false, nil
	}
	var b [1]byte
	n, err := read(s.r, b[:])
	if n > 0 {
		return false, nil
	}
	if isEOF(err) {
		return true, nil
	}
	return false, err
}

// isEOF reports whether a Read that returned err has come to the end. The
// comparison is io.Reader's contract: an error that wraps io.EOF is a broken
// stream, and no proof that this was all.
func isEOF(err error) bool { return err == io.EOF }

// read calls Read until it returns a byte or an error.
func read(r io.Reader, p []byte) (int, error) {
	for range 100 {
		if n, err := r.Read(p); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}
