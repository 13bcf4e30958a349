package coap

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"ersatz/eris"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/memstore"
)

// ends waits until the server closes a connection.
func (c *raw) ends() error {
	_, err := io.Copy(io.Discard, c)
	return err
}

// TestHostileStreams: connections of those who do not keep to the protocol end,
// soon.
func TestHostileStreams(t *testing.T) {
	at := serveTCP(t, newServer(t, ServerOptions{Stall: 200 * time.Millisecond, Idle: 400 * time.Millisecond}))
	for name, b := range map[string][]byte{
		"nothing":          nil,
		"half a head":      {0xe0, 0xff},
		"half a message":   {0xd0, 50, 1, 2, 3},
		"too long":         {0xf0, 0, 0, 0, 0, 1},
		"too long by some": {0xe0, 0xff, 0xff, 1},
		"bad token":        {0x09, 1},
		"bad option":       {0x10, 1, 0xf0},
		"http":             []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, "tcp", at)
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
			if err := c.ends(); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("connection goes on: %v", err)
			}
		})
	}
}

// TestAbort says why a connection ends.
func TestAbort(t *testing.T) {
	c := connect(t, "tcp", serveTCP(t, newServer(t, ServerOptions{})))
	c.next() // its greeting
	c.Write([]byte{0xe0, 0xff, 0xff, 1})
	if m, err := c.next(); err != nil || m.Code != codes.Abort || len(m.Payload) == 0 {
		t.Errorf("%v, %v", m, err)
	}
}

// TestNobodyReads has a client that asks for ever and reads nothing: the server
// keeps few blocks for it, and cuts it off.
func TestNobodyReads(t *testing.T) {
	ref, b := blocktest.Make(eris.Size32KiB, 1)
	var asked atomic.Int32
	s := newServer(t, ServerOptions{PerClient: 3, Stall: 300 * time.Millisecond}, Resource{Path: WellKnown, Blocks: getter(func(context.Context, eris.Ref) ([]byte, error) {
		asked.Add(1)
		return b, nil
	})})
	c := connect(t, "tcp", serveTCP(t, s))
	c.Conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	c.send(t, csm())
	req, err := appendFrame(nil, want(ref))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; err == nil; n++ {
		_, err = c.Write(req)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("not cut off: %v", err)
	}
	// What the system buffers, 3 beyond, and no more: 6 MiB are the most that
	// it gives a socket by itself.
	if got := asked.Load(); got > 6<<20/(32<<10)*2+3 {
		t.Errorf("%d blocks for a client that reads none", got)
	}
}

// TestConnectionLimits: one address may have so many connections, all together
// so many.
func TestConnectionLimits(t *testing.T) {
	for name, o := range map[string]ServerOptions{"of one": {PerClient: 2}, "of all": {Connections: 2}} {
		at := serveTCP(t, newServer(t, o))
		var conns []*raw
		for range 2 {
			c := connect(t, "tcp", at)
			if m, err := c.next(); err != nil || m.Code != codes.CSM {
				t.Fatalf("%s: %v, %v", name, m.Code, err)
			}
			conns = append(conns, c)
		}
		if m, err := connect(t, "tcp", at).next(); err == nil {
			t.Errorf("%s: third connection is greeted: %v", name, m.Code)
		}
		// When one ends, another may come.
		conns[0].send(t, message.Message{Code: codes.Release})
		if err := conns[0].ends(); err != nil {
			t.Error(err)
		}
		for deadline := time.Now().Add(10 * time.Second); ; {
			if _, err := connect(t, "tcp", at).next(); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: no new connection", name)
			}
		}
	}
}

// halfShake is a socket of a client that begins a handshake and never ends it.
type halfShake struct {
	net.Conn
	once sync.Once
	seen chan struct{} // closed when the server has answered
	end  chan struct{}
}

func (h *halfShake) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	h.once.Do(func() { close(h.seen) })
	if err == nil {
		<-h.end
		err = net.ErrClosed
	}
	return n, err
}

// TestHandshakesApart: those who begin handshakes, in whose name ever, keep no
// connection from others.
func TestHandshakesApart(t *testing.T) {
	s := newServer(t, ServerOptions{Connections: 1})
	l, err := ListenDTLS("udp", "127.0.0.1:0", map[string][]byte{"me": []byte("secret")})
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(ctx context.Context) error { return s.ServeDTLS(ctx, l) })
	for range 2 {
		h := &halfShake{Conn: connect(t, "udp", l.Addr().String()), seen: make(chan struct{}), end: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		work.Go(func() {
			if _, err := clientDTLS(ctx, h, Key{"me", []byte("secret")}); err == nil {
				t.Error("the handshake ended")
			}
		})
		t.Cleanup(func() { cancel(); close(h.end); work.Wait() })
		<-h.seen
	}
	if m, err := connect(t, "tcp", serveTCP(t, s)).next(); err != nil || m.Code != codes.CSM {
		t.Errorf("%v, %v", m.Code, err)
	}
}

// TestCensus: the last of an address leaves nothing behind.
func TestCensus(t *testing.T) {
	c := census{each: 2, all: 3}
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for i, step := range []struct {
		addr netip.Addr
		want bool
	}{{one, true}, {one, true}, {one, false}, {two, true}, {two, false}} {
		if got := c.enter(step.addr); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	for _, a := range []netip.Addr{one, two, one} {
		c.leave(a)
	}
	if c.count != 0 || len(c.by) != 0 {
		t.Errorf("%d, %v", c.count, c.by)
	}
}

// TestDatagrams: pings, answers nobody asked for, garbage, and requests that
// come twice.
func TestDatagrams(t *testing.T) {
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	held := memstore.New()
	if err := held.Put(t.Context(), ref, b); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	gate := make(chan struct{})
	slow := eris.Ref{9}
	s := newServer(t, ServerOptions{PerClient: 2}, Resource{Path: WellKnown, Blocks: getter(func(ctx context.Context, r eris.Ref) ([]byte, error) {
		if r == slow {
			asked.Add(1)
			<-gate
		}
		return held.Get(ctx, r)
	})})
	at := serveUDP(t, s)
	loud, c := connect(t, "udp", at), connect(t, "udp", at)
	for _, garbage := range []string{"", "x", "GET / HTTP/1.1", string(make([]byte, 1500)), "\x49\x01\x00\x01", "\x40\x01\x00\x01\xff"} {
		loud.Write([]byte(garbage))
	}
	if a := c.datagram(t, message.Message{Type: message.Confirmable, MessageID: 5}); a.Type != message.Reset || a.MessageID != 5 {
		t.Errorf("ping: %+v", a)
	}
	if a := c.datagram(t, message.Message{Type: message.Confirmable, Code: codes.Content, MessageID: 6}); a.Type != message.Reset || a.MessageID != 6 {
		t.Errorf("an answer that nobody asked for: %+v", a)
	}
	prove(t, c)
	req := want(ref)
	req.Type, req.MessageID = message.Confirmable, 7
	for range 2 {
		if a := c.datagram(t, req); a.Type != message.Acknowledgement || a.MessageID != 7 || a.Code != codes.Content || string(a.Payload) != string(b) {
			t.Errorf("%v %v %v, %d bytes", a.Type, a.MessageID, a.Code, len(a.Payload))
		}
	}
	req.Type = message.NonConfirmable
	if a := c.datagram(t, req); a.Type != message.NonConfirmable || a.Code != codes.Content {
		t.Errorf("%v %v", a.Type, a.Code)
	}
	// The same request 10 times while it is being answered, and two others:
	// two are under way, the rest is dropped. Another client is none of that.
	for i := range 12 {
		req := want(slow)
		req.Type, req.MessageID = message.Confirmable, int32(100+max(0, i-9))
		out, err := appendDatagram(nil, req)
		if err != nil {
			t.Fatal(err)
		}
		c.Write(out)
	}
	other := connect(t, "udp", at)
	req.Type = message.Confirmable
	if a := other.datagram(t, req); a.Code != codes.Content {
		t.Errorf("another client: %v", a.Code)
	}
	close(gate)
	buf := make([]byte, maxDatagram)
	for range 2 {
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("store was asked %d times", n)
	}
}
