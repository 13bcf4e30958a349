package coap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
)

const (
	// maxDatagram is what is read of one, in bytes: parts have 1 KiB.
	maxDatagram = 2 << 10

	// maxSent is how many messages a socket sends. Peers keep the numbers of
	// messages for 247 s (RFC 7252, "Message Deduplication"); one that came
	// again within would get the answer to another request. The next socket
	// has numbers of its own.
	maxSent = 1<<16 - 1<<10

	// firstTimeout, leastTimeout and mostTimeout bound how long the
	// acknowledgement of a message is waited for before it is sent again, as
	// RFC 8961 has it: the first is RFC 7252's ACK_TIMEOUT, later ones follow
	// the round trips that were seen, and each repetition doubles it.
	firstTimeout = 2 * time.Second
	leastTimeout = 100 * time.Millisecond
	mostTimeout  = 10 * time.Second

	// maxRetransmit is how often a message is sent again.
	maxRetransmit = 5
)

// datagram is a UDP socket or a DTLS connection of a client.
type datagram struct {
	pending[*sent]
	idle time.Duration // how long one request may take

	// Guarded by mu.
	count int // of messages
	rtt   estimator
}

// sent is a request under way.
type sent struct {
	waiter
	mid   uint16
	acked chan struct{} // closed when the answer follows in a message of its own
	start time.Time
	again bool // sent again: says nothing of round trips
}

func newDatagram(conn net.Conn, idle time.Duration) *datagram {
	return &datagram{pending: newPending[*sent](conn), idle: idle, count: rand.IntN(1 << 10)}
}

func (d *datagram) do(ctx context.Context, req message.Message, buf []byte) (answer, error) {
	caller := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, d.idle, fmt.Errorf("no answer in %v: %w", d.idle, os.ErrDeadlineExceeded))
	defer cancel()
	w := &sent{waiter: waiter{buf: buf, done: make(chan struct{})}, acked: make(chan struct{}), start: time.Now()}
	token := rand.Uint64() // nobody else knows it
	d.mu.Lock()
	if d.err != nil {
		d.mu.Unlock()
		return answer{}, errLost
	}
	d.count++
	if d.count >= maxSent {
		d.retired = true
	}
	w.mid = uint16(d.count)
	d.waiting[token] = w
	timeout := d.rtt.timeout()
	d.mu.Unlock()
	defer d.forget(token)

	req.Token, req.MessageID, req.Type = newToken(token), int32(w.mid), message.Confirmable
	b, err := appendDatagram(make([]byte, 0, len(req.Payload)+overhead+256), req)
	if err != nil {
		return answer{}, err
	}
	for range 1 + maxRetransmit {
		if _, err := d.conn.Write(b); err != nil {
			// DTLS: the server may have closed it long ago.
			err = fmt.Errorf("%w: %w", errLost, err)
			d.fail(err)
			return answer{}, err
		}
		// Some chance keeps many clients from sending at the same time.
		switch ok, err := d.wait(ctx, token, w, timeout+rand.N(timeout/2)); {
		case err != nil:
			if caller.Err() == nil {
				d.retire()
			}
			return answer{}, err
		case ok:
			return w.ans, w.err
		}
		d.mu.Lock()
		w.again = true
		d.mu.Unlock()
		timeout = min(2*timeout, mostTimeout)
	}
	d.retire()
	return answer{}, fmt.Errorf("no answer after %d messages: %w", 1+maxRetransmit, os.ErrDeadlineExceeded)
}

// retire has the next block asked for by another socket: a server that has
// started again knows nothing of a DTLS connection, and says nothing to it.
func (d *datagram) retire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.retired = true
}

// wait waits for an answer, for timeout only if the request has not been
// acknowledged. ok is false if there is none and it should be sent again.
func (d *datagram) wait(ctx context.Context, token uint64, w *sent, timeout time.Duration) (ok bool, err error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	after, acked := timer.C, w.acked
	for {
		select {
		case <-w.done:
			return true, nil
		case <-acked:
			after, acked = nil, nil
		case <-after:
			return false, nil
		case <-ctx.Done():
			if d.forget(token) {
				return false, context.Cause(ctx)
			}
			<-w.done // it is being answered just now
			return true, nil
		}
	}
}

// forget takes a request out, and reports whether it was there. A socket that
// no new block will use ends then; one that is in the middle of a block gets it
// anew from the next socket.
func (d *datagram) forget(token uint64) bool {
	d.mu.Lock()
	_, ok := d.waiting[token]
	delete(d.waiting, token)
	last := d.retired && len(d.waiting) == 0
	d.mu.Unlock()
	if last {
		d.fail(errLost)
	}
	return ok
}

func (d *datagram) room(context.Context, message.Options) (int, error) { return maxPart, nil }

// read takes what the peer sends until the socket ends. What is malformed is
// dropped: anybody may have sent it.
func (d *datagram) read() {
	buf := make([]byte, maxDatagram)
	for {
		n, err := d.conn.Read(buf)
		if err != nil {
			err = fmt.Errorf("receive: %w", err) // that nobody listens, for one
			if errors.Is(err, io.EOF) {          // DTLS: the server has closed it
				err = fmt.Errorf("%w: %w", errLost, err)
			}
			d.fail(err)
			return
		}
		var m message.Message
		if parseDatagram(buf[:n], &m) == nil {
			d.take(&m)
		}
	}
}

func (d *datagram) take(m *message.Message) {
	known := false
	switch {
	case m.Type == message.Reset || m.Code == codes.Empty && m.Type == message.Acknowledgement:
		d.byNumber(m)
		return
	case m.Code >= codes.Created && m.Code < codes.CSM:
		known = d.answer(m)
	}
	if m.Type != message.Confirmable {
		return
	}
	reply := message.Message{Code: codes.Empty, Type: message.Reset, MessageID: m.MessageID}
	if known {
		reply.Type = message.Acknowledgement
	}
	if b, err := appendDatagram(nil, reply); err == nil {
		d.conn.Write(b) // if it is lost, the peer asks again
	}
}

// byNumber takes a message without a token: it names the request by its number.
func (d *datagram) byNumber(m *message.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for token, w := range d.waiting {
		if int32(w.mid) != m.MessageID {
			continue
		}
		if m.Type == message.Reset {
			d.finish(token, w, errors.New("server refuses the message"))
			return
		}
		select {
		case <-w.acked:
		default:
			close(w.acked)
		}
		return
	}
}

// answer gives a message to who waits for it, if anybody does.
func (d *datagram) answer(m *message.Message) bool {
	token, ok := readToken(m.Token)
	if !ok {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.waiting[token]
	if w == nil || m.Type == message.Acknowledgement && m.MessageID != int32(w.mid) {
		return false
	}
	if !w.again {
		d.rtt.saw(time.Since(w.start))
	}
	w.ans = w.take(m)
	d.finish(token, w, nil)
	return true
}

// estimator follows the round trips of one peer (RFC 6298, section 2).
type estimator struct {
	smooth, vary time.Duration
}

func (e *estimator) saw(r time.Duration) {
	if e.smooth == 0 {
		e.smooth, e.vary = r, r/2
		return
	}
	e.vary += ((e.smooth - r).Abs() - e.vary) / 4
	e.smooth += (r - e.smooth) / 8
}

// timeout is how long an acknowledgement may take.
func (e *estimator) timeout() time.Duration {
	if e.smooth == 0 {
		return firstTimeout
	}
	return min(max(e.smooth+4*e.vary, leastTimeout), firstTimeout)
}

func newToken(n uint64) message.Token { return binary.BigEndian.AppendUint64(nil, n) }

func readToken(t message.Token) (uint64, bool) {
	if len(t) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(t), true
}
