// Package stream wraps readers of what other machines send: it bounds them,
// reads them ahead, and keeps the error that a decoder hides.
package stream

import (
	"errors"
	"io"
	"sync/atomic"
)

// ErrTooLong means that a source sends more than a nar of the signed size can
// have.
var ErrTooLong = errors.New("more bytes than a nar of the signed size has")

// Limited reads at most Left bytes of R and tells Add of each piece. What is
// beyond is ErrTooLong: the length of a nar's container is known only roughly.
type Limited struct {
	R    io.Reader
	Left int64
	Add  func(n int) // nil: nobody is told
}

// Read implements io.Reader.
func (l *Limited) Read(p []byte) (int, error) {
	if l.Left <= 0 {
		if _, err := io.ReadFull(l.R, make([]byte, 1)); err != nil {
			return 0, err
		}
		return 0, ErrTooLong
	}
	if int64(len(p)) > l.Left {
		p = p[:l.Left]
	}
	n, err := l.R.Read(p)
	l.Left -= int64(n)
	if l.Add != nil {
		l.Add(n)
	}
	return n, err
}

// Faults remembers the error that R ended with, io.EOF aside. A decoder may read
// it in a goroutine of its own.
type Faults struct {
	R   io.Reader
	err atomic.Pointer[error]
}

// Read implements io.Reader.
func (f *Faults) Read(p []byte) (int, error) {
	n, err := f.R.Read(p)
	if err != nil && !isEOF(err) {
		f.err.Store(&err)
	}
	return n, err
}

// Err returns that error, nil if there was none so far.
func (f *Faults) Err() error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return nil
}

// isEOF reports whether a Reader says that it has ended. A wrapped io.EOF is
// something else: that of a connection that was lost.
func isEOF(err error) bool { return err == io.EOF }
