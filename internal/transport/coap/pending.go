package coap

import (
	"net"
	"sync"
)

// waiter is a request under way.
type waiter struct {
	buf  []byte        // for the payload
	ans  answer        // before done is closed
	err  error         // likewise
	done chan struct{} // closed once it has left waiting
}

func (w *waiter) waits() *waiter { return w }

// pending is what the connections of a client have in common: the requests that
// wait for answers, which are waiters and perhaps more.
type pending[R interface{ waits() *waiter }] struct {
	conn net.Conn

	mu      sync.Mutex
	waiting map[uint64]R  // by token
	retired bool          // no more requests
	err     error         // why it ended
	ended   chan struct{} // closed when err is set
}

func newPending[R interface{ waits() *waiter }](conn net.Conn) pending[R] {
	return pending[R]{conn: conn, waiting: map[uint64]R{}, ended: make(chan struct{})}
}

func (p *pending[R]) usable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err == nil && !p.retired
}

func (p *pending[R]) close() { p.fail(net.ErrClosed) }

// fail ends the connection and all that wait, once. Who reads from the connection
// fails when it is closed, so err is there before that.
func (p *pending[R]) fail(err error) {
	p.mu.Lock()
	first := p.err == nil
	if first {
		p.err = err
		close(p.ended)
		for token, r := range p.waiting {
			p.finish(token, r, err)
		}
	}
	p.mu.Unlock()
	if first {
		p.conn.Close()
	}
}

// finish tells a request that its answer is there, or why there is none. It is
// called under mu.
func (p *pending[R]) finish(token uint64, r R, err error) {
	delete(p.waiting, token)
	w := r.waits()
	w.err = err
	close(w.done)
}
