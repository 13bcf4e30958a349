package n2r

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"ersatz/eris"
)

const (
	// maxFrames is how many bytes of frames are read before their blocks are handed
	// over: 8 blocks of 32 KiB, which is how many can be hashed at once.
	maxFrames = 8 * (frameHead + int(eris.Size32KiB))

	// soon is how fast blocks have to come for more of them to be waited for: a
	// source of blocks that gives none for 10 s is left.
	soon = 50 * time.Millisecond
)

// frameReader reads answers to batches, one after another.
type frameReader struct {
	buf    [maxFrames]byte
	is     []int    // blocks that were read,
	blocks [][]byte // which lie in buf
}

// read reads an answer: per reference, in order, a length and a block of that size.
// Blocks that come slowly are handed to got as they come, others by the buffer. p is
// what the answers before have shown.
func (f *frameReader) read(r io.Reader, size eris.BlockSize, refs []eris.Ref, p *pace, got eris.GotMany) error {
	one := frameHead + int(size)
	most := maxFrames / one
	next, have := 0, 0 // reference; bytes in the buffer
	ask := p.first(one, most)
	for next < len(refs) {
		begin := time.Now()
		want := min(ask, len(refs)-next) * one // fewer are lengths of 0
		n, readErr := readSoon(r, f.buf[have:want], begin)
		took := time.Since(begin)
		have += n
		p.note(have, took)
		used, after, err := f.parse(f.buf[:have], size, refs, next)
		next = after
		if len(f.is) > 0 {
			if _, err := got(f.is, f.blocks); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
		have = copy(f.buf[:], f.buf[used:have])
		switch {
		case next == len(refs):
		case readErr != nil && have >= frameHead:
			return fmt.Errorf("batch ends within block %d of %d, %s: %w", next+1, len(refs), refs[next], unexpected(readErr))
		case readErr != nil:
			return fmt.Errorf("batch ends before block %d of %d, %s: %w", next+1, len(refs), refs[next], unexpected(readErr))
		case took > soon:
			ask = 1
		default:
			ask = min(2*ask, most)
		}
	}
	return nil
}

// pace is how many bytes of a server's answers have come soon, as far as that is
// known: so many are waited for in the beginning of the next answer. The zero value is
// that of a server which is not known.
type pace struct{ bytes atomic.Int64 }

// first returns for how many frames to wait at first.
func (p *pace) first(one, most int) int { return max(1, min(int(p.bytes.Load())/one, most)) }

// note notes how long some bytes took.
func (p *pace) note(n int, took time.Duration) {
	switch {
	case took > soon:
		p.bytes.Store(0)
	case int64(n) > p.bytes.Load():
		p.bytes.Store(int64(n))
	}
}

// readSoon reads until b is full, or more than soon has passed since begin.
func readSoon(r io.Reader, b []byte, begin time.Time) (n int, err error) {
	for n < len(b) && err == nil && time.Since(begin) <= soon {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}

// parse takes the frames apart that are whole, from the one of reference next on.
// It returns how many bytes they have, and the reference of the frame after them.
func (f *frameReader) parse(b []byte, size eris.BlockSize, refs []eris.Ref, next int) (used, after int, err error) {
	f.is, f.blocks = f.is[:0], f.blocks[:0]
	for ; next < len(refs) && len(b)-used >= frameHead; next++ {
		block := b[used+frameHead:]
		switch length := binary.BigEndian.Uint32(b[used:]); {
		case length == 0:
			used += frameHead
			continue
		case length != uint32(size):
			return used, next, fmt.Errorf("batch: block %d of %d, %s, has %d bytes, not %d: %w",
				next+1, len(refs), refs[next], length, int(size), eris.ErrCorrupt)
		case len(block) < int(size):
			return used, next, nil
		}
		f.is, f.blocks = append(f.is, next), append(f.blocks, block[:size])
		used += frameHead + int(size)
	}
	return used, next, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
