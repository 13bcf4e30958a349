package keep

import (
	"context"
	"errors"
	"io"
	"sync"
)

// partReader follows the front of a part.
type partReader struct {
	ctx    context.Context // io.Reader has no place for it
	p      *Part
	resets int
	off    int64
	once   sync.Once
	open   bool
	err    error
}

// Reader returns a reader of the content that waits for what is not there yet.
// It ends with io.EOF at the length that Finish gave, or with ctx's error, or,
// behind all that is there, with that of Fail or Close. Commit, and Close
// after Finish, leave it going. Close the reader. It is not safe for
// concurrent use.
func (p *Part) Reader(ctx context.Context) io.ReadCloser {
	r := &partReader{ctx: ctx, p: p, open: p.retain()}
	p.mu.Lock()
	r.resets = p.resets
	p.mu.Unlock()
	return r
}

func (r *partReader) Read(b []byte) (int, error) {
	if !r.open {
		return 0, ErrClosed
	}
	if r.err != nil || len(b) == 0 {
		return 0, r.err
	}
	n, err := r.read(b)
	r.off += int64(n)
	r.err = err
	return n, err
}

func (r *partReader) read(b []byte) (int, error) {
	there, err := r.wait()
	if err != nil {
		return 0, err
	}
	n, err := r.p.content.ReadAt(b[:min(int64(len(b)), there)], r.off)
	if errors.Is(err, io.EOF) && int64(n) == min(int64(len(b)), there) {
		err = nil
	}
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if r.p.resets != r.resets {
		return 0, ErrReset // what was read may be what is written anew
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// wait returns how many bytes are there behind those that were read, at least
// one.
func (r *partReader) wait() (int64, error) {
	for {
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		r.p.mu.Lock()
		there, end, reset := r.p.frontLocked()-r.off, r.p.end, r.p.resets != r.resets
		if reset || there > 0 || end != nil {
			r.p.mu.Unlock()
			switch {
			case reset:
				return 0, ErrReset
			case there > 0:
				return there, nil
			}
			return 0, end
		}
		if r.p.changed == nil {
			r.p.changed = make(chan struct{})
		}
		changed := r.p.changed
		r.p.mu.Unlock()
		select {
		case <-changed:
		case <-r.ctx.Done():
		}
	}
}

// Close ends the use of the part's files.
func (r *partReader) Close() error {
	var err error
	r.once.Do(func() {
		if r.open {
			r.open = false
			err = r.p.release()
		}
	})
	return err
}
