package nar

import (
	"fmt"
	"io"
	"math"
)

// errEnd is peek's error where the stream ends, so that it cannot be mistaken
// for an io.ErrUnexpectedEOF that the stream itself returned.
var errEnd = fmt.Errorf("archive ends too early: %w", io.ErrUnexpectedEOF)

// source is a stream seen through a buffer: it hashes what it reads, and reads
// no more than its bound allows.
type source struct {
	r      io.Reader
	hasher *Hasher
	buf    *[bufSize]byte
	lo, hi int   // buf[lo:hi] is read and not consumed
	max    int64 // bound on all that is read
}

func newSource(r io.Reader, max int64) *source {
	if max <= 0 {
		max = math.MaxInt64
	}
	return &source{r: r, hasher: NewHasher(), buf: buffers.Get().(*[bufSize]byte), max: max}
}

// release gives the buffer back; nothing that points into it may be used then.
func (s *source) release() {
	buffers.Put(s.buf)
	s.buf = nil
}

// offset returns the offset in the stream of the next byte.
func (s *source) offset() int64 { return s.hasher.size - int64(s.hi-s.lo) }

// peek returns what is buffered, at least n bytes of it, n being at most half
// of bufSize. The bytes are valid until the next call. At the end of the
// stream it returns errEnd, at the bound ErrTooLarge.
func (s *source) peek(n int) ([]byte, error) {
	for s.hi-s.lo < n {
		if err := s.fill(n); err != nil {
			return nil, err
		}
	}
	return s.buf[s.lo:s.hi], nil
}

// fill reads once, having made room for n bytes.
func (s *source) fill(n int) error {
	if s.lo == s.hi {
		s.lo, s.hi = 0, 0
	} else if s.lo+n > len(s.buf) {
		s.hi = copy(s.buf[:], s.buf[s.lo:s.hi])
		s.lo = 0
	}
	room := min(int64(len(s.buf)-s.hi), s.max-s.hasher.size)
	if room <= 0 {
		return ErrTooLarge
	}
	m, err := read(s.r, s.buf[s.hi:s.hi+int(room)])
	s.hasher.Write(s.buf[s.hi : s.hi+m])
	s.hi += m
	if m > 0 {
		return nil // an error that came with bytes comes again
	}
	if isEOF(err) {
		return errEnd
	}
	return err
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
