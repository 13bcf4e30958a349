package substitute

import (
	"errors"
	"io"
)

// errTooLong means that a source sends more than a nar of the signed size can
// have.
var errTooLong = errors.New("more bytes than a nar of the signed size has")

// limited reads at most left bytes and tells add of each piece. What is beyond
// is an error: the length of a nar's container is known only roughly.
type limited struct {
	r    io.Reader
	left int64
	add  func(n int)
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		if _, err := io.ReadFull(l.r, make([]byte, 1)); err != nil {
			return 0, err
		}
		return 0, errTooLong
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.r.Read(p)
	l.left -= int64(n)
	l.add(n)
	return n, err
}

// faults remembers the error that a stream ended with, io.EOF aside.
type faults struct {
	r   io.Reader
	err error
}

func (f *faults) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !isEOF(err) {
		f.err = err
	}
	return n, err
}

// isEOF reports whether a Reader says that it has ended. A wrapped io.EOF is
// something else: that of a connection that was lost.
func isEOF(err error) bool { return err == io.EOF }
