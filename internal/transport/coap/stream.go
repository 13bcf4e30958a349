package coap

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
)

// stream is a TCP connection of a client. Any number of requests may be under
// way; answers come in any order.
type stream struct {
	pending[*waiter]
	idle time.Duration // how long the peer may leave all requests unanswered

	// Guarded by mu.
	next  uint64        // token
	max   int           // the largest message that the peer takes
	known chan struct{} // closed when the peer has said so

	write chan []byte // of one buffer: who holds it may write
}

// newStream greets the peer. read must run then.
func newStream(conn net.Conn, idle time.Duration) (*stream, error) {
	s := &stream{
		pending: newPending[*waiter](conn), idle: idle, max: defaultMax,
		known: make(chan struct{}), write: make(chan []byte, 1),
	}
	s.write <- make([]byte, 0, 256)
	if err := s.send(context.Background(), csm()); err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

// send writes a message. If ctx ends within, the connection ends too: half a
// message cannot be taken back.
func (s *stream) send(ctx context.Context, m message.Message) error {
	var buf []byte
	select {
	case buf = <-s.write:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { s.write <- buf }()
	b, err := appendFrame(buf, m)
	if err != nil {
		return err
	}
	buf = b[:0]
	stop := context.AfterFunc(ctx, func() { s.fail(errLost) })
	defer stop()
	s.conn.SetWriteDeadline(time.Now().Add(s.idle))
	if _, err := s.conn.Write(b); err != nil {
		err = fmt.Errorf("%w: %w", errLost, err)
		s.fail(err)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return nil
}

func (s *stream) do(ctx context.Context, req message.Message, buf []byte) (answer, error) {
	w := &waiter{buf: buf, done: make(chan struct{})}
	s.mu.Lock()
	if s.err != nil || s.retired {
		s.mu.Unlock()
		return answer{}, errLost
	}
	s.next++
	token := s.next
	s.waiting[token] = w
	if len(s.waiting) == 1 {
		s.conn.SetReadDeadline(time.Now().Add(s.idle))
	}
	s.mu.Unlock()

	req.Token = newToken(token)
	if err := s.send(ctx, req); err != nil {
		s.forget(token)
		return answer{}, err
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		if s.forget(token) {
			return answer{}, context.Cause(ctx)
		}
		<-w.done // it is being answered just now
	}
	return w.ans, w.err
}

// forget takes a request out, and reports whether it was there.
func (s *stream) forget(token uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.waiting[token]
	delete(s.waiting, token)
	s.rest()
	return ok
}

// rest is called under mu when a request is no longer under way. If it was the
// last one, the peer may be silent; and the connection ends if no other one will
// come.
func (s *stream) rest() {
	switch {
	case len(s.waiting) > 0:
	case s.retired:
		s.conn.Close()
	default:
		s.conn.SetReadDeadline(time.Time{})
	}
}

func (s *stream) room(ctx context.Context, options message.Options) (int, error) {
	select {
	case <-s.known:
	case <-s.ended:
	case <-time.After(s.idle):
		return 0, fmt.Errorf("server does not say how long messages may be: %w", os.ErrDeadlineExceeded)
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	return roomFor(s.max, options), nil
}

// read takes what the peer sends until the connection ends.
func (s *stream) read() {
	r := bufio.NewReaderSize(s.conn, 64<<10)
	buf := make([]byte, maxMessage)
	for {
		frame, err := readFrame(r, buf)
		var m message.Message
		if err == nil {
			err = parseFrame(frame, &m)
		}
		if err == nil {
			err = s.take(&m)
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = fmt.Errorf("no answer in %v: %w", s.idle, err)
		case !errors.Is(err, errMessage):
			err = fmt.Errorf("%w: %w", errLost, err)
		}
		s.fail(err)
		return
	}
}

func (s *stream) take(m *message.Message) error {
	switch m.Code {
	case codes.CSM:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.max = peerMax(m, s.max)
		select {
		case <-s.known:
		default:
			close(s.known)
		}
	case codes.Ping:
		return s.send(context.Background(), message.Message{Code: codes.Pong, Token: m.Token})
	case codes.Release:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.retired = true
		s.rest()
	case codes.Abort:
		return fmt.Errorf("server gives up: %.100q", m.Payload)
	default:
		if m.Code >= codes.Created {
			s.answer(m)
		}
	}
	return nil
}

// answer gives a message to who waits for it. What nobody waits for any more is
// dropped, and does not count as a sign of life.
func (s *stream) answer(m *message.Message) {
	token, ok := readToken(m.Token)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiting[token]
	if w == nil {
		return
	}
	w.ans = w.take(m)
	s.finish(token, w, nil)
	s.conn.SetReadDeadline(time.Now().Add(s.idle))
	s.rest()
}

// take copies out of a message what an answer has.
func (w *waiter) take(m *message.Message) answer {
	a := answer{code: m.Code, payload: append(w.buf[:0:len(w.buf)], m.Payload[:min(len(m.Payload), len(w.buf))]...)}
	for _, id := range []message.OptionID{message.Block2, message.Block1} {
		if v, ok := findUint(m, id); ok {
			a.block = &v
			break
		}
	}
	a.echo = bytes.Clone(findEcho(m))
	return a
}
