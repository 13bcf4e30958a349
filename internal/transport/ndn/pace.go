package ndn

import (
	"context"
	"sync"
	"time"
)

// Bounds of what is under way, in segments, and of the time after which an
// Interest is sent again. The least time is above the delay of answers that
// there is no such block.
const (
	firstWindow = 64
	leastWindow = 16
	firstRepeat = time.Second
	leastRepeat = 500 * time.Millisecond
)

// pace bounds the segments that are under way: one more for each round trip
// that loses nothing, half as many after a loss.
type pace struct {
	most int

	mu      sync.Mutex
	limit   float64
	used    int
	waiting []*turn
	cutAt   time.Time
	srtt    time.Duration // smoothed round trip, 0 if none is known (RFC 6298)
	varies  time.Duration
}

// turn is somebody who waits for room.
type turn struct {
	n    int
	come chan struct{} // closed when it has it
}

func newPace(most int) *pace {
	return &pace{most: most, limit: float64(min(firstWindow, most))}
}

// acquire waits for room for all n segments of a block: who had it for some
// only would keep it while waiting for others who do the same.
func (p *pace) acquire(ctx context.Context, lost <-chan struct{}, n int) error {
	p.mu.Lock()
	if len(p.waiting) == 0 && p.fits(n) {
		p.used += n
		p.mu.Unlock()
		return nil
	}
	t := &turn{n, make(chan struct{})}
	p.waiting = append(p.waiting, t)
	p.mu.Unlock()
	var err error
	select {
	case <-t.come:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-lost:
		err = errLost
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.waiting {
		if other == t {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			p.admit()
			return err
		}
	}
	p.used -= n // it came at last
	p.admit()
	return err
}

// fits reports whether n more may be under way. If nothing is, they may.
func (p *pace) fits(n int) bool { return p.used == 0 || p.used+n <= int(p.limit) }

func (p *pace) admit() {
	for len(p.waiting) > 0 && p.fits(p.waiting[0].n) {
		p.used += p.waiting[0].n
		close(p.waiting[0].come)
		p.waiting = p.waiting[1:]
	}
}

// release gives room back that is not used any more.
func (p *pace) release(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used -= n
	p.admit()
}

// arrived says that a segment came, and how long after it was asked for; 0 if
// that is not known.
func (p *pace) arrived(after time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = min(p.limit+1/p.limit, float64(p.most))
	switch {
	case after <= 0:
	case p.srtt == 0:
		p.srtt, p.varies = after, after/2
	default:
		p.varies += ((p.srtt - after).Abs() - p.varies) / 4
		p.srtt += (after - p.srtt) / 8
	}
	p.used--
	p.admit()
}

// lost says that something was lost, or that there is congestion. It counts
// once in a round trip.
func (p *pace) lost() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.cutAt) > p.srtt {
		p.cutAt = now
		p.limit = max(p.limit/2, float64(min(leastWindow, p.most)))
	}
}

// repeat returns after what time an Interest is to be sent again.
func (p *pace) repeat() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.srtt == 0 {
		return firstRepeat
	}
	return max(p.srtt+4*p.varies, leastRepeat)
}
