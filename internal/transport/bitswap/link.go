package bitswap

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ipfs/boxo/bitswap/message"
	pb "github.com/ipfs/boxo/bitswap/message/pb"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"ersatz/eris"
)

const (
	// perMessage is how many wants one message has.
	perMessage = 64

	// maxOpen is how many wants a peer is told of at once, by all who ask it.
	// Servers keep 1,024, and drop what goes beyond.
	maxOpen = 512

	// askAgain is after which silence all is asked for again, and then after twice
	// as long: servers of boxo forget a want that comes while they are about to
	// have done with an earlier one of the same block.
	askAgain = time.Second

	// maxAsked is how many of the references that were asked for last are
	// remembered, at least.
	maxAsked = 4096
)

var (
	errSilent = errors.New("no block in time")
	errGone   = errors.New("connection ended")
	errClosed = errors.New("bitswap: closed")
)

// answer is what became of an ask.
type answer struct {
	i     int // of the ask
	from  *link
	block []byte // nil: it lacks the block, or err
	err   error  // the peer failed
}

// ask is somebody who waits for a block. An answer is sent to the channel, which
// has room for it, unless the ask is dropped first.
type ask struct {
	i  int
	to chan<- answer
}

// want is a block that a peer is asked for.
type want struct {
	sent bool
	asks []ask
}

// link is what one peer is asked for, by all sessions together.
type link struct {
	id    peer.ID
	idle  time.Duration
	send  func(context.Context, peer.ID, message.BitSwapMessage, time.Duration) error
	begin func(func(context.Context)) bool // runs a function; false: the Host has ended
	wake  chan struct{}
	users int // sessions that have it; guarded by the Host

	mu      sync.Mutex
	running bool
	wants   map[eris.Ref]*want
	queue   []eris.Ref           // what may not have been sent yet, in order
	open    int                  // wants that were sent
	cancels []eris.Ref           // what the peer is to forget
	asked   [2]map[eris.Ref]bool // what was asked for lately, the latest first: may come, and more than once
	last    time.Time            // when it last gave something, or was asked for something after a rest
	again   time.Duration        // after which silence all is asked for again
}

// newLink returns a link of a Host to a peer.
func newLink(id peer.ID, h *Host) *link {
	return &link{
		id: id, idle: h.opts.Idle, send: h.wire.send, begin: h.begin, wake: make(chan struct{}, 1),
		wants: map[eris.Ref]*want{}, asked: [2]map[eris.Ref]bool{{}, {}},
	}
}

// ask has the peer asked for a block.
func (l *link) ask(ref eris.Ref, a ask) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.wants[ref]
	if w == nil {
		w = &want{}
		l.wants[ref] = w
		l.queue = append(l.queue, ref)
	}
	w.asks = append(w.asks, a)
	l.poke()
}

// poke has run look what there is to do. The caller has l.mu.
func (l *link) poke() {
	if !l.running {
		if l.running = l.begin(l.run); !l.running {
			l.failLocked(errClosed)
			l.cancels = nil
		}
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// drop takes back an ask that was not answered.
func (l *link) drop(ref eris.Ref, to chan<- answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.wants[ref]
	if w == nil {
		return
	}
	for k, a := range w.asks {
		if a.to == to {
			w.asks = append(w.asks[:k], w.asks[k+1:]...)
			break
		}
	}
	if len(w.asks) == 0 {
		l.forget(ref, w)
		l.poke()
	}
}

// forget takes back a want. The caller has l.mu.
func (l *link) forget(ref eris.Ref, w *want) {
	delete(l.wants, ref)
	if !w.sent {
		return
	}
	l.open--
	l.cancels = append(l.cancels, ref)
}

// remember notes that a peer is asked for a block. One that was taken back, or has
// come, may come all the same. The caller has l.mu.
func (l *link) remember(ref eris.Ref) {
	if len(l.asked[0]) >= maxAsked {
		l.asked = [2]map[eris.Ref]bool{{}, l.asked[0]}
	}
	l.asked[0][ref] = true
}

// settle answers all who wait for a block. The caller has l.mu.
func (l *link) settle(ref eris.Ref, w *want, block []byte, err error) {
	delete(l.wants, ref)
	if w.sent {
		l.open--
	}
	for _, a := range w.asks {
		a.to <- answer{i: a.i, from: l, block: block, err: err}
	}
}

// receive takes what a message has. Each block's CID was computed from its bytes.
func (l *link) receive(got []blocks.Block, lacks []cid.Cid) {
	l.mu.Lock()
	defer l.mu.Unlock()
	strange, useful := false, false
	for _, b := range got {
		ref, ok := toRef(b.Cid())
		switch w := l.wants[ref]; {
		case ok && w != nil:
			l.settle(ref, w, b.RawData(), nil)
			useful = true
		case !ok || !l.asked[0][ref] && !l.asked[1][ref]:
			strange = true
		}
	}
	for _, c := range lacks {
		ref, ok := toRef(c)
		if w := l.wants[ref]; ok && w != nil && w.sent {
			l.settle(ref, w, nil, nil)
			l.cancels = append(l.cancels, ref) // the peer remembers what it lacks, and would send it once it has it
			useful = true
		}
	}
	if useful {
		l.last, l.again = time.Now(), askAgain
	}
	if strange && l.open > 0 {
		l.failLocked(fmt.Errorf("%w: a block that it was not asked for", eris.ErrCorrupt))
	}
	l.poke()
}

// fail answers all asks with an error.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failLocked(err)
}

func (l *link) failLocked(err error) {
	err = fmt.Errorf("bitswap: peer %s: %w", l.id, err)
	for ref, w := range l.wants {
		if w.sent {
			l.cancels = append(l.cancels, ref)
		}
		l.settle(ref, w, nil, err)
	}
	l.queue = nil
}

// broken is told that a connection has ended. What was asked for over it is asked
// for again if there is another one.
func (l *link) broken(connected bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !connected {
		l.failLocked(errGone)
		l.cancels = nil
		return
	}
	l.repeat()
	if len(l.queue) > 0 {
		l.poke()
	}
}

// repeat has all that was asked for asked for again. The caller has l.mu.
func (l *link) repeat() {
	for ref, w := range l.wants {
		if w.sent {
			w.sent = false
			l.queue = append(l.queue, ref)
		}
	}
	l.open = 0
}

// run sends what there is to send until nothing is wanted.
func (l *link) run(ctx context.Context) {
	timer := time.NewTimer(l.idle)
	defer timer.Stop()
	for {
		m, wait := l.next(time.Now())
		switch {
		case m != nil:
			if err := l.send(ctx, l.id, m, l.idle); err != nil {
				l.fail(err)
			}
			continue
		case wait <= 0:
			return
		}
		timer.Reset(wait)
		select {
		case <-l.wake:
		case <-timer.C:
		case <-ctx.Done():
			l.broken(false)
		}
	}
}

// next returns the next message, or how long to wait for something to happen; if
// that is 0, run is to end.
func (l *link) next(now time.Time) (message.BitSwapMessage, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch quiet := now.Sub(l.last); {
	case l.open == 0:
		l.last, l.again = now, askAgain
	case quiet >= l.idle:
		l.failLocked(errSilent)
	case quiet >= l.again:
		l.again *= 2
		l.repeat()
	}
	m := message.New(false)
	n := 0
	for len(l.queue) > 0 && n < perMessage && l.open < maxOpen {
		ref := l.queue[0]
		l.queue = l.queue[1:]
		if w := l.wants[ref]; w != nil && !w.sent {
			// What is asked for first goes first.
			m.AddEntry(toCID(ref), int32(perMessage-n), pb.Message_Wantlist_Block, true)
			w.sent = true
			l.open++
			l.remember(ref)
			n++
		}
	}
	for _, ref := range l.cancels {
		if l.wants[ref] == nil {
			m.Cancel(toCID(ref))
		}
	}
	l.cancels = nil
	switch {
	case !m.Empty():
		return m, 0
	case l.open > 0:
		return nil, max(min(l.idle, l.again)-now.Sub(l.last), time.Millisecond)
	}
	l.running = false
	return nil, 0
}
