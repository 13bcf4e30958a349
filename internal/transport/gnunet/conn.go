package gnunet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"ersatz/eris"
)

var (
	// errLost says that a connection to the service ended, for a reason that need
	// not hold for the next one.
	errLost = errors.New("connection to the DHT service is lost")

	// errSilent says that the service takes what is sent and answers nothing.
	errSilent = errors.New("DHT service does not answer")

	// errIdle says that what was waited for did not come in time.
	errIdle = errors.New("nothing came")
)

// conn is a connection to the DHT service, which requests share.
type conn struct {
	net  net.Conn
	idle time.Duration // how long the service may be silent

	write sync.Mutex // held while a message is sent and noted in fences

	mu     sync.Mutex
	wants  map[uint64]*want
	fences []chan struct{} // who waits for the answer to each Hello, in order; nil: nobody
	heard  time.Time       // when the last message came; zero: none has
	err    error           // why it has ended

	done chan struct{} // closed when err is set
}

// want is a block that is looked for.
type want struct {
	ref   eris.Ref
	key   key
	size  eris.BlockSize
	block []byte        // before found is closed
	found chan struct{} // closed when the block is there
}

// newConn returns a connection; who owns it calls read.
func newConn(c net.Conn, idle time.Duration) *conn {
	return &conn{net: c, idle: idle, wants: map[uint64]*want{}, done: make(chan struct{})}
}

// end closes the connection. The first reason counts, and is returned.
func (c *conn) end(reason error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = reason
		close(c.done)
		_ = c.net.Close() // nothing is to be saved
	}
	return c.err
}

// read takes messages until the connection ends.
func (c *conn) read() {
	r, buf := bufio.NewReaderSize(c.net, maxMessage), make([]byte, maxMessage)
	for {
		kind, body, err := readMessage(r, buf)
		if err != nil && !errors.Is(err, errMessage) {
			err = fmt.Errorf("%w: %w", errLost, err)
		}
		if err == nil {
			err = c.take(kind, body)
		}
		if err != nil {
			_ = c.end(err) // it is kept
			return
		}
	}
}

// take deals with a message. Other types than these are not for us.
func (c *conn) take(kind uint16, body []byte) error {
	c.mu.Lock()
	c.heard = time.Now()
	c.mu.Unlock()
	switch kind {
	case typeURL:
		return c.pass()
	case typeResult:
		r, err := parseResult(body)
		if err == nil {
			c.deliver(r)
		}
		return err
	}
	return nil
}

// pass tells who waits that the service has dealt with all that was sent before
// its Hello.
func (c *conn) pass() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.fences) == 0 {
		return fmt.Errorf("%w: a HELLO that was not asked for", errMessage)
	}
	if f := c.fences[0]; f != nil {
		close(f)
	}
	c.fences = c.fences[1:]
	return nil
}

// deliver hands a block to who wants it. Anybody may put anything under its key:
// what is not the block is passed over, and another result may follow.
func (c *conn) deliver(r result) {
	c.mu.Lock()
	w := c.wants[r.id]
	c.mu.Unlock()
	if w == nil || r.kind != blockType || r.key != w.key || len(r.data) != int(w.size) || eris.BlockRef(r.data) != w.ref {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wants[r.id] == w { // else it has been given up meanwhile
		delete(c.wants, r.id)
		w.block = bytes.Clone(r.data)
		close(w.found)
	}
}

// send sends messages, and a Hello after them if fence is not nil, which is
// closed when the service has dealt with them; or if beat, and no answer is due
// that would show that the service lives.
func (c *conn) send(b []byte, fence chan struct{}, beat bool) error {
	c.write.Lock()
	defer c.write.Unlock()
	c.mu.Lock()
	if fence != nil || beat && len(c.fences) == 0 {
		b = appendHello(b)
		c.fences = append(c.fences, fence)
	}
	c.mu.Unlock()
	err := c.net.SetWriteDeadline(time.Now().Add(c.idle))
	if err == nil {
		_, err = c.net.Write(b)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.end(errSilent)
	}
	return c.end(fmt.Errorf("%w: %w", errLost, err))
}

// put sends messages and waits until the service has dealt with them.
func (c *conn) put(ctx context.Context, messages []byte) error {
	fence := make(chan struct{})
	if err := c.send(messages, fence, false); err != nil {
		return err
	}
	err := c.await(ctx, fence, c.lastHeard)
	if errors.Is(err, errIdle) {
		err = c.end(errSilent)
	}
	return err
}

// get looks for a block. It returns nil if that does not come within idle, and of
// the other blocks for which last stands none does either.
func (c *conn) get(ctx context.Context, ref eris.Ref, size eris.BlockSize, replication uint32, last *moment) ([]byte, error) {
	w := &want{ref: ref, key: keyOf(ref), size: size, found: make(chan struct{})}
	id := rand.Uint64() // as dht_api.c has it, so that no two clients have the same
	c.mu.Lock()
	c.wants[id] = w
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.wants, id)
	}()
	asked := time.Now()
	if err := c.send(appendGet(make([]byte, 0, getLen+headerLen), w.key, replication, id), nil, true); err != nil {
		return nil, err
	}
	err := c.await(ctx, w.found, last.get)
	if errors.Is(err, errIdle) && c.lastHeard().Before(asked) {
		return nil, c.end(errSilent)
	}
	// If this fails, the connection has ended, as others will see.
	_ = c.send(appendStop(make([]byte, 0, stopLen), w.key, id), nil, false)
	switch {
	case err == nil:
		last.set(time.Now())
		return w.block, nil
	case errors.Is(err, errIdle):
		return nil, nil
	}
	return nil, err
}

// await waits until done is closed, but not for longer than idle since the call
// and since what last returns then.
func (c *conn) await(ctx context.Context, done <-chan struct{}, last func() time.Time) error {
	start := time.Now()
	for wait := c.idle; wait > 0; wait = c.idle - min(time.Since(start), time.Since(last())) {
		timer := time.NewTimer(wait)
		select {
		case <-done:
			timer.Stop()
			return nil
		case <-c.done:
			timer.Stop()
			return c.reason()
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
	return errIdle
}

// reason returns why the connection has ended, nil if it has not.
func (c *conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *conn) lastHeard() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heard
}

// moment is a time that several goroutines set.
type moment struct {
	mu sync.Mutex
	at time.Time
}

func (m *moment) get() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at
}

func (m *moment) set(t time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = t
}
