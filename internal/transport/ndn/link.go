package ndn

import (
	"context"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ersatz/eris"
)

// link is a face, and the blocks that are asked for over it.
type link struct {
	face *face
	ns   namespace
	pace *pace
	lost chan struct{} // closed when the connection has ended
	err  error         // why, once it has

	producer atomic.Pointer[producer] // nil if nothing is served over it

	mu    sync.Mutex
	wants map[eris.Ref][]*want
	heard time.Time // when the last answer to any Interest came
}

// want is a block that is asked for. Its fields are under the link's lock.
type want struct {
	ref     eris.Ref
	size    int    // of the block
	buf     []byte // the block, and a byte more
	missing uint   // a bit for each segment that has not come
	absent  bool   // somebody said that there is no such block, or gave what is none
	asked   time.Time
	again   bool          // some Interests were sent twice
	news    chan struct{} // something has changed; its room is one
}

func newLink(f *face, ns namespace, most int) *link {
	return &link{face: f, ns: ns, pace: newPace(most), lost: make(chan struct{}), wants: map[eris.Ref][]*want{}}
}

// read takes what comes until the connection ends.
func (l *link) read() {
	l.err = fmt.Errorf("%w: %w", errLost, l.face.read(l.take))
	l.face.close()
	close(l.lost)
}

// get asks for a block until nothing of it has come for idle. It returns nil if
// it is missing. What it returns is as long as the block, and not verified.
func (l *link) get(ctx context.Context, ref eris.Ref, buf []byte, idle time.Duration) ([]byte, error) {
	size := len(buf) - 1
	n := segments(size)
	if err := l.pace.acquire(ctx, l.lost, n); err != nil {
		return nil, err
	}
	w := &want{ref: ref, size: size, buf: buf, missing: 1<<n - 1, asked: time.Now(), news: make(chan struct{}, 1)}
	l.mu.Lock()
	l.wants[ref] = append(l.wants[ref], w)
	l.mu.Unlock()
	defer l.forget(w)
	if err := l.ask(w, idle, false); err != nil {
		return nil, errLost
	}
	heard, repeat := w.asked, l.pace.repeat()
	timer := time.NewTimer(min(repeat, idle))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-l.lost:
			return nil, errLost
		case <-w.news:
			if b, done := l.result(w); done {
				return b, nil
			}
			heard = time.Now()
		case <-timer.C:
			silent := time.Since(heard)
			if silent >= idle {
				return nil, nil
			}
			l.pace.lost()
			if err := l.ask(w, idle, true); err != nil {
				return nil, errLost
			}
			repeat *= 2
			timer.Reset(min(repeat, idle-silent))
		}
	}
}

// heardSince reports whether any Interest was answered at a time or later.
func (l *link) heardSince(t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.heard.Before(t)
}

// ask sends an Interest for each segment that is missing, perhaps again.
func (l *link) ask(w *want, idle time.Duration, again bool) error {
	l.mu.Lock()
	missing := w.missing
	w.again = again
	l.mu.Unlock()
	packets := make([]byte, 0, 4*(len(l.ns)+80))
	var name []byte
	for seg := range uint8(segments(w.size)) {
		if missing&(1<<seg) == 0 {
			continue
		}
		name = l.ns.appendName(name[:0], place{w.ref, seg})
		packets = appendInterest(packets, name, rand.Uint32(), min(idle, defaultLifetime))
	}
	if len(packets) == 0 {
		return nil
	}
	return l.face.send(packets)
}

// result returns what get returns, once that is known.
func (l *link) result(w *want) (b []byte, done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.absent {
		return nil, true
	}
	return w.buf[:w.size], w.missing == 0
}

// forget takes nothing any more for w.
func (l *link) forget(w *want) {
	l.mu.Lock()
	rest := slices.DeleteFunc(l.wants[w.ref], func(other *want) bool { return other == w })
	if len(rest) == 0 {
		delete(l.wants, w.ref)
	} else {
		l.wants[w.ref] = rest
	}
	left := bits.OnesCount(w.missing)
	l.mu.Unlock()
	l.pace.release(left)
}

// take hands a packet to the consumer, whose Interest it answers, or to the
// producer.
func (l *link) take(p packet) {
	at, named := l.ns.parse(p.name)
	producer := l.producer.Load()
	switch {
	case p.nacked, p.data && named:
		l.answered(p, at, named)
	case producer == nil:
	case p.data:
		producer.told(p)
	case named:
		producer.asked(p, at)
	}
}

// answered takes a segment, word that there is none, or an Interest that comes
// back.
func (l *link) answered(p packet, at place, named bool) {
	congested := p.nacked && p.reason == nackCongestion
	if p.marked || congested {
		l.pace.lost()
	}
	if !named || congested || p.nacked && p.reason == nackDuplicate {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = time.Now()
	for _, w := range l.wants[at.ref] {
		if w.missing&(1<<at.seg) == 0 {
			continue
		}
		switch part := w.size / segments(w.size); {
		case !p.data || p.contentType == contentNack || len(p.content) != part:
			w.absent = true
		default:
			copy(w.buf[int(at.seg)*part:], p.content)
			w.missing &^= 1 << at.seg
			after := time.Since(w.asked)
			if w.again {
				after = 0
			}
			l.pace.arrived(after)
		}
		select {
		case w.news <- struct{}{}:
		default:
		}
	}
}
