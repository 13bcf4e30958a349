package coap

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
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

// peer runs a server of one connection after the other, which a test scripts,
// and returns its address.
func peer(t *testing.T, talk func(c *raw)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			talk(newRaw(conn))
			conn.Close()
		}
	})
	t.Cleanup(func() { l.Close(); work.Wait() })
	return l.Addr().String()
}

func newClient(t *testing.T, url string, o Options) *Client {
	t.Helper()
	if o.Idle == 0 {
		o.Idle = 500 * time.Millisecond
	}
	c, err := New(url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// get asks for one block and reports whether it came.
func get(ctx context.Context, c *Client, size eris.BlockSize, ref eris.Ref) (came bool, err error) {
	err = c.Fetch(ctx, size, []eris.Ref{ref}, func(_ int, b []byte) error {
		if len(b) != int(size) || eris.BlockRef(b) != ref {
			return eris.ErrCorrupt
		}
		came = true
		return nil
	})
	return came, err
}

// request reads the next request, past the client's greeting.
func (c *raw) request() (message.Message, error) {
	for {
		m, err := c.next()
		if err != nil || m.Code != codes.CSM {
			return m, err
		}
	}
}

// TestHostileServers wants an error of the right kind, soon, and no block.
func TestHostileServers(t *testing.T) {
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	answer := func(o message.Options, payload []byte) func(*testing.T, *raw) {
		return func(t *testing.T, c *raw) {
			for {
				m, err := c.request()
				if err != nil {
					return
				}
				c.send(t, message.Message{Code: codes.Content, Token: m.Token, Options: o, Payload: payload})
			}
		}
	}
	part2 := func(num uint32, more bool, szx uint8) message.Options {
		return message.Options{part{num: num, more: more, szx: szx}.option(message.Block2)}
	}
	bytes2 := func(s string) func(*testing.T, *raw) {
		return func(_ *testing.T, c *raw) {
			c.request()
			c.Write([]byte(s))
			io.Copy(io.Discard, c)
		}
	}
	for name, c := range map[string]struct {
		talk func(*testing.T, *raw)
		want error  // nil: any
		text string // in the error
	}{
		"good":                {answer(nil, b), nil, ""},
		"other block":         {answer(nil, make([]byte, 1024)), eris.ErrCorrupt, ""},
		"short":               {answer(nil, b[:1023]), eris.ErrCorrupt, ""},
		"long":                {answer(nil, make([]byte, 32<<10)), eris.ErrCorrupt, ""},
		"empty":               {answer(nil, nil), eris.ErrCorrupt, ""},
		"parts without end":   {answer(part2(0, true, 6), b), nil, "part 0xe"},
		"parts of nothing":    {answer(part2(0, true, 6), nil), nil, "has 0 bytes"},
		"tiny parts":          {answer(part2(0, true, 0), b[:16]), nil, "part 0x8"},
		"another part":        {answer(part2(1, false, 6), b), nil, "asked for from 0 on"},
		"too long a part":     {answer(part2(0, false, 4), b), nil, "has 1024 bytes"},
		"uneven parts":        {answer(part2(0, true, 7), b[:1000]), nil, "has 1000 bytes"},
		"endless message":     {bytes2("\xf0\xff\xff\xff\xff\x45"), errMessage, ""},
		"bad token":           {bytes2("\x0f\x45"), errMessage, ""},
		"cut":                 {bytes2("\xe8\x03"), os.ErrDeadlineExceeded, "no answer"},
		"other tokens":        {bytes2(strings.Repeat("\x08\x4512345678", 100)), os.ErrDeadlineExceeded, "no answer"},
		"silence":             {bytes2(""), os.ErrDeadlineExceeded, "no answer in 500ms"},
		"abort":               {bytes2("\x60\xe5\xffgoing"), nil, `gives up: "going"`},
		"bad option":          {func(t *testing.T, c *raw) { c.status(t, codes.BadOption) }, nil, "4.02"},
		"internal error":      {func(t *testing.T, c *raw) { c.status(t, codes.InternalServerError) }, nil, "5.00"},
		"closed at once":      {func(*testing.T, *raw) {}, errLost, ""},
		"closed at a request": {func(_ *testing.T, c *raw) { c.request() }, errLost, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := newClient(t, "coap+tcp://"+peer(t, func(r *raw) { c.talk(t, r) }), Options{})
			start := time.Now()
			came, err := get(t.Context(), client, eris.Size1KiB, ref)
			if name == "good" {
				if !came || err != nil {
					t.Errorf("%v, %v", came, err)
				}
				return
			}
			if came || err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("came %v, %v, want %v %q", came, err, c.want, c.text)
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

// status answers the next request by a code alone.
func (c *raw) status(t *testing.T, code codes.Code) {
	m, err := c.request()
	if err != nil {
		return
	}
	c.send(t, message.Message{Code: code, Token: m.Token, Payload: []byte("no")})
	io.Copy(io.Discard, c)
}

// TestConnectionIsKept: one for all requests, and a new one when the server has
// closed it, or wants no more requests, without an error.
func TestConnectionIsKept(t *testing.T) {
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	var conns, asked atomic.Int32
	at := peer(t, func(c *raw) {
		conns.Add(1)
		c.send(t, csm())
		for i := 1; ; i++ {
			m, err := c.request()
			if err != nil {
				return
			}
			if i == 11 && conns.Load() == 1 {
				return // closed just when a request was sent
			}
			asked.Add(1)
			c.send(t, message.Message{Code: codes.Ping, Token: newToken(3)})
			last := i == 10 && conns.Load() == 2
			if last {
				c.send(t, message.Message{Code: codes.Release})
			}
			c.send(t, message.Message{Code: codes.Content, Token: m.Token, Payload: b})
			if pong, err := c.next(); err != nil || pong.Code != codes.Pong {
				t.Errorf("%v, %v", pong.Code, err)
			}
			if last {
				if _, err := c.next(); !errors.Is(err, io.EOF) {
					t.Errorf("after release: %v", err)
				}
				return
			}
		}
	})
	c := newClient(t, "coap+tcp://"+at, Options{Idle: 10 * time.Second})
	for range 30 {
		if came, err := get(t.Context(), c, eris.Size1KiB, ref); err != nil || !came {
			t.Fatalf("%v, %v", came, err)
		}
	}
	if conns.Load() != 3 || asked.Load() != 30 {
		t.Errorf("%d connections, %d requests", conns.Load(), asked.Load())
	}
}

// TestCloseAll: Close ends what waits on a connection that others do not use any
// more, too.
func TestCloseAll(t *testing.T) {
	released := make(chan struct{})
	first := true
	c := newClient(t, "coap+tcp://"+peer(t, func(c *raw) {
		if first {
			first = false
			c.send(t, csm())
			c.request()
			c.send(t, message.Message{Code: codes.Release})
			close(released)
		}
		c.ends()
	}), Options{Idle: 10 * time.Second})
	got := make(chan error, 1)
	go func() {
		_, err := get(t.Context(), c, eris.Size1KiB, eris.Ref{1})
		got <- err
	}()
	<-released
	for fresh := false; !fresh; { // until the release is read
		var err error
		if _, fresh, err = c.connect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	c.Close()
	if err := <-got; !errors.Is(err, net.ErrClosed) || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
}

// TestPutInParts sends a block to a server that takes short messages alone, and
// wants parts shorter still.
func TestPutInParts(t *testing.T) {
	ref, b := blocktest.Make(eris.Size32KiB, 1)
	for name, szx := range map[string]uint8{"of 1 KiB": 6, "of 256 bytes": 4} {
		var got []byte
		at := peer(t, func(c *raw) {
			c.send(t, message.Message{Code: codes.CSM, Options: message.Options{uintOption(message.TCPMaxMessageSize, 1200), {ID: message.TCPBlockWiseTransfer}}})
			for {
				m, err := c.request()
				if err != nil {
					return
				}
				v, _ := findUint(&m, message.Block1)
				p, _ := parsePart(v)
				if size, _ := findUint(&m, message.Size1); p.offset() != len(got) || size != 32<<10 || len(m.Payload) > 1024 {
					t.Errorf("part %+v after %d bytes, of %d", p, len(got), size)
				}
				if p.szx > szx {
					m.Payload, p.more = m.Payload[:16<<szx], true
				}
				p.szx = min(p.szx, szx)
				got = append(got, m.Payload...)
				code := codes.Created
				if p.more {
					code = codes.Continue
				}
				c.send(t, message.Message{Code: code, Token: m.Token, Options: message.Options{p.option(message.Block1)}})
			}
		})
		c := newClient(t, "coap+tcp://"+at+"?put", Options{Idle: 10 * time.Second})
		if err := c.Put(t.Context(), ref, b); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if err := c.Put(t.Context(), ref, b[:1000]); !errors.Is(err, eris.ErrCorrupt) {
			t.Errorf("put of 1000 bytes: %v", err)
		}
	}
}

// TestPutRefused gives the server's words, and ends with its context.
func TestPutRefused(t *testing.T) {
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	at := peer(t, func(c *raw) {
		c.send(t, csm())
		c.status(t, codes.Forbidden)
	})
	c := newClient(t, "coap+tcp://"+at+"?put", Options{Idle: 10 * time.Second})
	var status *StatusError
	if err := c.Put(t.Context(), ref, b); !errors.As(err, &status) || status.Code != codes.Forbidden || status.Text != "no" {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() {
		if err := c.Put(ctx, ref, b); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
	cancel()
	work.Wait()
	c.Close()
	if err := c.Put(t.Context(), ref, b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// lossy drops some of what is sent and received, and doubles some.
type lossy struct {
	net.Conn
	mu  sync.Mutex
	rng *rand.Rand
}

func (l *lossy) chance() float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rng.Float64()
}

func (l *lossy) Write(b []byte) (int, error) {
	switch c := l.chance(); {
	case c < 0.1:
		return len(b), nil
	case c < 0.2:
		l.Conn.Write(b)
	}
	return l.Conn.Write(b)
}

func (l *lossy) Read(b []byte) (int, error) {
	for {
		n, err := l.Conn.Read(b)
		if err != nil || l.chance() >= 0.1 {
			return n, err
		}
	}
}

// TestLoss puts and gets blocks over a line that loses each tenth datagram, both
// ways, and doubles as many.
func TestLoss(t *testing.T) {
	t.Parallel()
	s := memstore.New()
	at := serveUDP(t, newServer(t, ServerOptions{}, Resource{Path: WellKnown, Blocks: s, Sink: s}))
	seed := uint64(0)
	c := newClient(t, "coap://"+at+"?get&put", Options{Idle: 20 * time.Second, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		seed++
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return &lossy{Conn: conn, rng: rand.New(rand.NewPCG(seed, 0))}, err
	}})
	// The first round trip is not known yet, so its loss costs seconds.
	warm, _ := blocktest.Make(eris.Size1KiB, 0)
	if _, err := get(t.Context(), c, eris.Size1KiB, warm); err != nil {
		t.Fatal(err)
	}
	refs := make([]eris.Ref, 2)
	for i := range refs {
		ref, b := blocktest.Make(eris.Size32KiB, uint64(i))
		refs[i] = ref
		if err := c.Put(t.Context(), ref, b); err != nil {
			t.Fatal(err)
		}
	}
	if s.Len() != len(refs) {
		t.Errorf("%d blocks arrived", s.Len())
	}
	var n atomic.Int32
	err := c.Fetch(t.Context(), eris.Size32KiB, refs, func(i int, b []byte) error {
		if eris.BlockRef(b) != refs[i] {
			return eris.ErrCorrupt
		}
		n.Add(1)
		return nil
	})
	if err != nil || int(n.Load()) != len(refs) {
		t.Errorf("%d blocks, %v", n.Load(), err)
	}
}

// TestSeparateAnswers has the server acknowledge first and answer later, in a
// message that it wants acknowledged (RFC 7252, "Separate").
func TestSeparateAnswers(t *testing.T) {
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	var work sync.WaitGroup
	work.Go(func() {
		buf := make([]byte, maxDatagram)
		receive := func() (m message.Message, from *net.UDPAddr) {
			n, from, err := conn.ReadFromUDP(buf)
			if err == nil {
				err = parseDatagram(bytes.Clone(buf[:n]), &m)
			}
			if err != nil {
				t.Error(err)
			}
			return m, from
		}
		send := func(to *net.UDPAddr, m message.Message) {
			out, err := appendDatagram(nil, m)
			if err != nil {
				t.Error(err)
			}
			conn.WriteTo(out, to)
		}
		req, from := receive()
		send(from, message.Message{Type: message.Acknowledgement, MessageID: req.MessageID})
		// Answers that are not it, then the one that is.
		send(from, message.Message{Type: message.Confirmable, MessageID: 77, Code: codes.Content, Token: newToken(1), Payload: b})
		if m, _ := receive(); m.Type != message.Reset || m.MessageID != 77 {
			t.Errorf("to another's answer: %v %d", m.Type, m.MessageID)
		}
		send(from, message.Message{Type: message.Acknowledgement, MessageID: req.MessageID ^ 1, Code: codes.NotFound, Token: req.Token})
		send(from, message.Message{Type: message.Confirmable, MessageID: 78, Code: codes.Content, Token: req.Token, Payload: b})
		if m, _ := receive(); m.Type != message.Acknowledgement || m.MessageID != 78 {
			t.Errorf("to the answer: %v %d", m.Type, m.MessageID)
		}
		// The next request is not understood.
		req, from = receive()
		send(from, message.Message{Type: message.Reset, MessageID: req.MessageID})
	})
	c := newClient(t, "coap://"+conn.LocalAddr().String(), Options{Idle: 10 * time.Second})
	if came, err := get(t.Context(), c, eris.Size1KiB, ref); err != nil || !came {
		t.Errorf("%v, %v", came, err)
	}
	if _, err := get(t.Context(), c, eris.Size1KiB, ref); err == nil || !strings.Contains(err.Error(), "refuses") {
		t.Errorf("reset: %v", err)
	}
	work.Wait()
}

// TestManyMessages fetches 2,100 blocks of 32 KiB, which are more messages than
// there are numbers for: the client goes on with another socket.
func TestManyMessages(t *testing.T) {
	t.Parallel()
	s := memstore.New()
	refs := make([]eris.Ref, 2100)
	b := make([]byte, eris.Size32KiB)
	for i := range refs {
		b[0], b[1] = byte(i), byte(i>>8)
		refs[i] = eris.BlockRef(b)
		if err := s.Put(t.Context(), refs[i], b); err != nil {
			t.Fatal(err)
		}
	}
	at := serveUDP(t, newServer(t, ServerOptions{}, Resource{Path: WellKnown, Blocks: s}))
	var sockets atomic.Int32
	c := newClient(t, "coap://"+at, Options{Idle: 20 * time.Second, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		sockets.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
	var n atomic.Int32
	err := c.Fetch(t.Context(), eris.Size32KiB, refs, func(i int, b []byte) error {
		if eris.BlockRef(b) != refs[i] {
			return eris.ErrCorrupt
		}
		n.Add(1)
		return nil
	})
	if err != nil || int(n.Load()) != len(refs) || sockets.Load() != 2 {
		t.Errorf("%d blocks by %d sockets, %v", n.Load(), sockets.Load(), err)
	}
}

// TestEstimator follows round trips, within its bounds.
func TestEstimator(t *testing.T) {
	var e estimator
	if got := e.timeout(); got != firstTimeout {
		t.Errorf("at first %v", got)
	}
	for range 100 {
		e.saw(200 * time.Millisecond)
	}
	if got := e.timeout(); got < 200*time.Millisecond || got > 250*time.Millisecond {
		t.Errorf("after steady round trips of 200 ms: %v", got)
	}
	for range 100 {
		e.saw(time.Millisecond)
	}
	if got := e.timeout(); got != leastTimeout {
		t.Errorf("after 1 ms: %v", got)
	}
	for range 100 {
		e.saw(time.Minute)
	}
	if got := e.timeout(); got != firstTimeout {
		t.Errorf("after a minute: %v", got)
	}
}
