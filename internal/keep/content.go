package keep

import (
	"errors"
	"fmt"
	"io"

	"ersatz/eris"
)

// Size returns how many bytes of the content are there from its start on
// without a gap, verified or not. Of the last leaf, whose length is not known
// before Finish, none count.
func (p *Part) Size() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.frontLocked()
}

func (p *Part) frontLocked() int64 {
	f := &p.filled
	switch {
	case p.length >= 0:
		return p.length
	case p.size == 0:
		return f.front
	case f.top > f.front:
		return f.front * int64(p.size)
	}
	return max(0, f.front-1) * int64(p.size)
}

// Length returns what Finish said, or -1.
func (p *Part) Length() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.length
}

// Append adds bytes of a nar at its end. It may add some and fail; Size says
// where to go on. The error matches eris.ErrTooLong if there are more than a
// nar of NarSize bytes can have when it is compressed.
func (p *Part) Append(b []byte) (int, error) {
	p.mu.Lock()
	off, end := p.filled.front, p.end
	p.mu.Unlock()
	switch {
	case end != nil:
		return 0, end
	case p.size != 0:
		return 0, fmt.Errorf("keep: part of %s takes blocks", p.about.Item.Path)
	case int64(len(b)) > p.limit-off:
		return 0, fmt.Errorf("keep: nar of %s: %w of %d bytes", p.about.Item.Path, eris.ErrTooLong, p.limit)
	}
	n, err := p.content.WriteAt(b, off)
	p.mu.Lock()
	p.filled.front = off + int64(n)
	p.notify()
	p.mu.Unlock()
	p.grown(int64(n))
	if err != nil {
		err = fmt.Errorf("keep: nar of %s: %w", p.about.Item.Path, err)
	}
	return n, err
}

// Finish says that all is there and how long the content is. It does nothing
// after Fail or Finish.
func (p *Part) Finish(length int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end == nil {
		p.length, p.end = length, io.EOF
		p.notify()
	}
}

// Fail says that no more will come, and why: readers end with err. It does
// nothing after Fail or Finish.
func (p *Part) Fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end == nil {
		p.end = err
		p.notify()
	}
}

// notify wakes who waits. The caller has p.mu.
func (p *Part) notify() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// Reset forgets all bytes, and what Finish or Fail said. It ends the readers
// with ErrReset.
func (p *Part) Reset() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.gone {
		return ErrClosed
	}
	p.filled = filled{nodes: map[nodeID]int64{}, served: map[uint64]nodeID{}}
	p.length, p.end = -1, nil
	p.resets++
	p.notify()
	err := p.content.Truncate(0)
	if p.nodes != nil {
		err = errors.Join(err, p.nodes.Truncate(0))
	}
	p.s.mu.Lock()
	p.count(-p.bytes)
	p.s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("keep: part of %s: %w", p.about.Item.Path, err)
	}
	return nil
}
