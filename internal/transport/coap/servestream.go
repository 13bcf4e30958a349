package coap

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
)

// serveStream answers one TCP connection until it ends: some requests at once,
// the next ones are not read before.
func (s *Server) serveStream(ctx context.Context, conn net.Conn) {
	defer s.uploads.leave(conn) // after the last request
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	c := &streamPeer{conn: conn, stall: s.opts.Stall, max: defaultMax}
	if c.send(csm()) != nil {
		return
	}
	r := bufio.NewReaderSize(conn, 4<<10)
	slots := make(chan struct{}, s.opts.PerClient)
	for {
		conn.SetReadDeadline(time.Now().Add(s.opts.Idle))
		if _, err := r.Peek(1); err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn.SetReadDeadline(time.Now().Add(s.opts.Stall))
		frame, err := readFrame(r, nil)
		var m message.Message
		if err == nil {
			err = parseFrame(frame, &m)
		}
		if err != nil {
			if errors.Is(err, errMessage) {
				c.send(message.Message{Code: codes.Abort, Payload: []byte(err.Error())})
			}
			return
		}
		if m.Code < codes.GET || m.Code >= codes.Created { // no request
			if !c.signal(&m) {
				return
			}
			<-slots
			continue
		}
		room := roomFor(c.max, nil)
		work.Go(func() {
			defer func() { <-slots }()
			if c.send(s.answer(ctx, conn, &m, room)) != nil {
				conn.Close()
			}
		})
	}
}

// streamPeer is the other side of a TCP connection.
type streamPeer struct {
	conn  net.Conn
	stall time.Duration
	max   int // the largest message that it takes

	mu  sync.Mutex
	buf []byte
}

func (c *streamPeer) send(m message.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := appendFrame(c.buf, m)
	if err != nil {
		return err
	}
	c.buf = b[:0]
	c.conn.SetWriteDeadline(time.Now().Add(c.stall))
	_, err = c.conn.Write(b)
	return err
}

// signal takes what is no request, and reports whether the connection goes on.
func (c *streamPeer) signal(m *message.Message) bool {
	switch m.Code {
	case codes.CSM:
		c.max = peerMax(m, c.max)
	case codes.Ping:
		return c.send(message.Message{Code: codes.Pong, Token: m.Token}) == nil
	case codes.Release, codes.Abort:
		return false
	}
	return true
}
