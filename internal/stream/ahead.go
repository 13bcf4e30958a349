package stream

import (
	"fmt"
	"io"
	"sync"
)

const (
	aheadSize = 128 << 10 // bytes of a piece
	aheadMax  = 8         // pieces
)

// Ahead reads a stream in a goroutine of its own, a few pieces ahead of who
// reads it, so that decompressing goes on while files are written and hashed.
type Ahead struct {
	full chan piece    // in order; closed after the last
	free chan []byte   // memory of pieces; bounds how many there are
	stop chan struct{} // closed when nobody reads any more
	work sync.WaitGroup

	cur  []byte // of buf, not yet read
	buf  []byte
	last error // what the stream ended with
}

// piece is what one Read gave.
type piece struct {
	buf []byte
	n   int
	err error
}

// ReadAhead begins to read r, at most 1 MiB ahead. Close ends that.
func ReadAhead(r io.Reader) *Ahead {
	a := &Ahead{full: make(chan piece, aheadMax), free: make(chan []byte, aheadMax), stop: make(chan struct{})}
	for range aheadMax {
		a.free <- nil
	}
	a.work.Go(func() { a.run(r) })
	return a
}

func (a *Ahead) run(r io.Reader) {
	defer close(a.full)
	for {
		var p piece
		select {
		case p.buf = <-a.free:
		case <-a.stop:
			return
		}
		if p.buf == nil {
			p.buf = make([]byte, aheadSize)
		}
		// Decoders give little at a time.
		for p.n < len(p.buf) && p.err == nil {
			var n int
			n, p.err = Safe{r}.Read(p.buf[p.n:])
			p.n += n
		}
		a.full <- p // there is room: there are no more pieces than that
		if p.err != nil {
			return
		}
	}
}

// Safe makes an error of a panic: decoders of other people read what anybody may
// have sent, and one bad nar must not end the process.
type Safe struct{ R io.Reader }

// Read implements io.Reader.
func (s Safe) Read(b []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, fmt.Errorf("decoder: %v", v)
		}
	}()
	return s.R.Read(b)
}

// Read implements io.Reader. Its error is r's own.
func (a *Ahead) Read(b []byte) (int, error) {
	for len(a.cur) == 0 {
		if a.last != nil {
			return 0, a.last
		}
		if a.buf != nil {
			a.free <- a.buf // there is room
			a.buf = nil
		}
		p := <-a.full
		a.buf, a.cur, a.last = p.buf, p.buf[:p.n], p.err
	}
	n := copy(b, a.cur)
	a.cur = a.cur[n:]
	return n, nil
}

// Close returns when r is not being read any more. A Read of r that is under
// way must be made to end by other means. The error is nil.
func (a *Ahead) Close() error {
	close(a.stop)
	a.work.Wait()
	return nil
}
