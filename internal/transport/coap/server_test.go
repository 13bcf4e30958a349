package coap

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"ersatz/eris"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/memstore"
)

// getter is a store made of a function.
type getter func(ctx context.Context, ref eris.Ref) ([]byte, error)

func (g getter) Get(ctx context.Context, ref eris.Ref) ([]byte, error) { return g(ctx, ref) }

// budget counts what is sent.
type budget struct{ sent atomic.Int64 }

func (b *budget) WaitN(_ context.Context, n int) error { b.sent.Add(int64(n)); return nil }

func newServer(t *testing.T, o ServerOptions, stores ...Resource) *Server {
	t.Helper()
	s, err := NewServer(stores, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serveTCP serves until the test ends.
func serveTCP(t *testing.T, s *Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(ctx context.Context) error { return s.ServeTCP(ctx, l) })
	return l.Addr().String()
}

// serveUDP does the same by UDP.
func serveUDP(t *testing.T, s *Server) string {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(ctx context.Context) error { return s.ServeUDP(ctx, conn) })
	return conn.LocalAddr().String()
}

func run(t *testing.T, serve func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		if err := serve(ctx); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); work.Wait() })
}

// raw is a connection that speaks message by message.
type raw struct {
	net.Conn
	r *bufio.Reader
}

func connect(t *testing.T, network, address string) *raw {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return newRaw(conn)
}

func newRaw(conn net.Conn) *raw { return &raw{conn, bufio.NewReader(conn)} }

// send writes a message as TCP has it.
func (c *raw) send(t *testing.T, m message.Message) {
	t.Helper()
	b, err := appendFrame(nil, m)
	if err == nil {
		_, err = c.Write(b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// next reads one.
func (c *raw) next() (m message.Message, err error) {
	frame, err := readFrame(c.r, nil)
	if err == nil {
		err = parseFrame(frame, &m)
	}
	return m, err
}

// datagram sends a message by UDP and reads one.
func (c *raw) datagram(t *testing.T, m message.Message) (answer message.Message) {
	t.Helper()
	b, err := appendDatagram(nil, m)
	if err == nil {
		_, err = c.Write(b)
	}
	buf := make([]byte, maxDatagram)
	if err == nil {
		var n int
		n, err = c.Read(buf)
		buf = buf[:n]
	}
	if err == nil {
		err = parseDatagram(buf, &answer)
	}
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func want(ref eris.Ref, more ...message.Option) message.Message {
	return message.Message{Code: codes.GET, Token: newToken(7),
		Options: append(append(Store{Path: WellKnown}.options(), message.Option{ID: message.URIQuery, Value: ref[:]}), more...)}
}

// TestPaths: stores that a URL cannot name, or twice.
func TestPaths(t *testing.T) {
	for _, paths := range [][]string{{""}, {"/"}, {"x"}, {"/a//b"}, {"/a/"}, {"/.."}, {"/a", "/a"}} {
		var stores []Resource
		for _, p := range paths {
			stores = append(stores, Resource{Path: p})
		}
		if _, err := NewServer(stores, ServerOptions{}); err == nil {
			t.Errorf("%q: no error", paths)
		}
	}
}

// TestContentAnswer: options of an answer, and that a limit sees each byte.
func TestContentAnswer(t *testing.T) {
	ref, b := blocktest.Make(eris.Size32KiB, 1)
	held := memstore.New()
	if err := held.Put(t.Context(), ref, b); err != nil {
		t.Fatal(err)
	}
	var limit budget
	asked := 0
	s := newServer(t, ServerOptions{Limit: &limit}, Resource{Path: WellKnown, Blocks: getter(func(ctx context.Context, ref eris.Ref) ([]byte, error) {
		asked++
		return held.Get(ctx, ref)
	})})
	req := want(ref)
	a := s.answer(t.Context(), 1, &req, maxMessage)
	if a.Code != codes.Content || !bytes.Equal(a.Payload, b) || !bytes.Equal(a.Token, req.Token) {
		t.Fatalf("%v with %d bytes", a.Code, len(a.Payload))
	}
	if v, _ := findUint(&a, message.MaxAge); v != maxAge {
		t.Errorf("Max-Age %d", v)
	}
	if _, ok := findUint(&a, message.Block2); ok {
		t.Error("a whole block is a part")
	}
	var whole []byte
	for num := uint32(0); num < 32; num++ {
		req := want(ref, part{num: num, szx: szx1024}.option(message.Block2))
		a := s.answer(t.Context(), 1, &req, maxPart)
		whole = append(whole, a.Payload...)
		v, _ := findUint(&a, message.Block2)
		if p, _ := parsePart(v); p != (part{num: num, more: num < 31, szx: szx1024}) {
			t.Fatalf("part %d is %+v", num, p)
		}
		if v, _ := findUint(&a, message.Size2); v != 32<<10 {
			t.Errorf("Size2 %d", v)
		}
	}
	if !bytes.Equal(whole, b) || limit.sent.Load() != 64<<10 || asked != 2 {
		t.Errorf("%d bytes, %d by the limit's count, store asked %d times", len(whole), limit.sent.Load(), asked)
	}
	for v, code := range map[uint32]codes.Code{32<<4 | 6: codes.BadRequest, 0xfffff6: codes.BadRequest, 2047 << 4: codes.Content, 2048 << 4: codes.BadRequest} {
		req := want(ref, uintOption(message.Block2, v))
		if a := s.answer(t.Context(), 1, &req, maxPart); a.Code != code {
			t.Errorf("part %#x: %v", v, a.Code)
		}
	}
}

// TestQueries: one reference, and words of store URLs beside it.
func TestQueries(t *testing.T) {
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	held := memstore.New()
	if err := held.Put(t.Context(), ref, b); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, ServerOptions{}, Resource{Path: WellKnown, Blocks: held})
	for _, c := range []struct {
		query string
		code  codes.Code
	}{
		{string(ref[:]), codes.Content},
		{ref.String(), codes.Content},
		{"get " + ref.String(), codes.Content},
		{"get&put " + ref.String(), codes.Content},
		{"", codes.BadRequest},
		{"get", codes.BadRequest},
		{ref.String() + " " + ref.String(), codes.BadRequest},
		{"x " + ref.String(), codes.BadRequest},
		{ref.String() + " x", codes.BadRequest},
	} {
		req := message.Message{Code: codes.GET, Options: Store{Path: WellKnown}.options()}
		queries := strings.Split(c.query, " ")
		if len(c.query) == refSize {
			queries = []string{c.query}
		}
		for _, q := range queries {
			req.Options = append(req.Options, message.Option{ID: message.URIQuery, Value: []byte(q)})
		}
		if a := s.answer(t.Context(), 1, &req, maxMessage); a.Code != c.code {
			t.Errorf("%q: %v, want %v", c.query, a.Code, c.code)
		}
	}
}

// TestBrokenStore: what is not the client's fault is 5.00, and is logged.
func TestBrokenStore(t *testing.T) {
	var log bytes.Buffer
	s := newServer(t, ServerOptions{Log: slog.New(slog.NewTextHandler(&log, nil))}, Resource{Path: WellKnown, Blocks: getter(func(context.Context, eris.Ref) ([]byte, error) {
		return nil, errors.New("disk is broken")
	})})
	req := want(eris.Ref{1})
	if a := s.answer(t.Context(), 1, &req, maxMessage); a.Code != codes.InternalServerError || len(a.Payload) != 0 {
		t.Errorf("%v %q", a.Code, a.Payload)
	}
	if !strings.Contains(log.String(), "disk is broken") {
		t.Errorf("log %q", log.String())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a := s.answer(ctx, 1, &req, maxMessage); a.Code != codes.ServiceUnavailable {
		t.Errorf("at the end: %v", a.Code)
	}
}

// TestForgets takes a block out of a store: the parts of it are not given for much
// longer.
func TestForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, b := blocktest.Make(eris.Size32KiB, 1)
		held := blocktest.Blocks{ref: b}
		s := newServer(t, ServerOptions{}, Resource{Path: WellKnown, Blocks: held})
		req := want(ref, part{num: 1, szx: szx1024}.option(message.Block2))
		for _, c := range []struct {
			after time.Duration
			code  codes.Code
		}{{0, codes.Content}, {10 * time.Second, codes.Content}, {20 * time.Second, codes.NotFound}} {
			time.Sleep(c.after)
			if a := s.answer(t.Context(), "somebody", &req, maxPart); a.Code != c.code {
				t.Errorf("%v later: %v", c.after, a.Code)
			}
			delete(held, ref)
		}
	})
}

// TestUploads sends blocks in parts: in order, twice, out of order, too many.
func TestUploads(t *testing.T) {
	sink := memstore.New()
	s := newServer(t, ServerOptions{}, Resource{Path: "/p", Sink: sink}, Resource{Path: "/q", Sink: sink})
	send := func(from any, path string, b []byte, num int, szx uint8) codes.Code {
		p := part{num: uint32(num), szx: szx}
		end := min(p.offset()+p.size(), len(b))
		p.more = end < len(b)
		req := message.Message{Code: codes.PUT, Options: append(Store{Path: path}.options(), p.option(message.Block1)), Payload: b[p.offset():end]}
		a := s.answer(t.Context(), from, &req, maxPart)
		if v, ok := findUint(&a, message.Block1); ok {
			if q, _ := parsePart(v); q.num != p.num {
				t.Errorf("part %d is answered as %d", p.num, q.num)
			}
		}
		return a.Code
	}
	ref, b := blocktest.Make(eris.Size32KiB, 1)
	_, other := blocktest.Make(eris.Size32KiB, 2)
	for i := range 32 {
		want := codes.Continue
		if i == 31 {
			want = codes.Created
		}
		// Each comes twice, and another client's in between.
		for range 2 {
			if code := send("a", "/p", b, i, szx1024); code != want {
				t.Fatalf("part %d: %v", i, code)
			}
		}
		if code := send("b", "/p", other, i, szx1024); code != want {
			t.Fatalf("part %d of another client: %v", i, code)
		}
	}
	if got, err := sink.Get(t.Context(), ref); err != nil || !bytes.Equal(got, b) || sink.Len() != 2 {
		t.Fatalf("%d blocks, %v", sink.Len(), err)
	}
	long := make([]byte, 40<<10)
	for _, c := range []struct {
		name string
		do   func() codes.Code
		want codes.Code
	}{
		{"no beginning", func() codes.Code { return send("c", "/p", b, 1, szx1024) }, codes.RequestEntityIncomplete},
		{"a gap", func() codes.Code { send("c", "/p", b, 0, szx1024); return send("c", "/p", b, 2, szx1024) }, codes.RequestEntityIncomplete},
		{"another store", func() codes.Code { send("c", "/p", b, 0, szx1024); return send("c", "/q", b, 1, szx1024) }, codes.RequestEntityIncomplete},
		{"too long", func() (code codes.Code) {
			for i := range 33 {
				code = send("c", "/p", long, i, szx1024)
			}
			return code
		}, codes.RequestEntityTooLarge},
		{"no block", func() codes.Code { return send("c", "/p", b[:100], 0, szx1024) }, codes.BadRequest},
		{"no block, again", func() codes.Code { return send("c", "/p", b[:100], 0, szx1024) }, codes.BadRequest},
	} {
		if code := c.do(); code != c.want {
			t.Errorf("%s: %v, want %v", c.name, code, c.want)
		}
	}
	// Others' uploads are pushed out by 64 newer ones.
	send("old", "/p", b, 0, szx1024)
	for i := range maxUploads {
		send(i, "/p", b, 0, szx1024)
	}
	if code := send("old", "/p", b, 1, szx1024); code != codes.RequestEntityIncomplete {
		t.Errorf("upload that was pushed out: %v", code)
	}
	if len(s.uploads.by) != maxUploads || len(s.uploads.age) != maxUploads {
		t.Errorf("%d and %d uploads", len(s.uploads.by), len(s.uploads.age))
	}
	for i := range maxUploads {
		s.uploads.leave(i)
	}
	if len(s.uploads.by) != 0 || len(s.uploads.age) != 0 {
		t.Errorf("%d and %d uploads", len(s.uploads.by), len(s.uploads.age))
	}
}

// TestGreeting: the server says first how long messages may be, answers pings,
// and ends at a release.
func TestGreeting(t *testing.T) {
	c := connect(t, "tcp", serveTCP(t, newServer(t, ServerOptions{})))
	m, err := c.next()
	if err != nil || m.Code != codes.CSM || peerMax(&m, 0) != maxMessage {
		t.Fatalf("%v, %d, %v", m.Code, peerMax(&m, 0), err)
	}
	c.send(t, csm())
	c.send(t, message.Message{Code: codes.Empty})
	c.send(t, message.Message{Code: codes.Ping, Token: newToken(9)})
	if m, err := c.next(); err != nil || m.Code != codes.Pong || !bytes.Equal(m.Token, newToken(9)) {
		t.Errorf("ping: %v, %v", m.Code, err)
	}
	c.send(t, message.Message{Code: codes.Release})
	if _, err := c.next(); !errors.Is(err, io.EOF) {
		t.Errorf("release: %v", err)
	}
}

// TestSmallPeer takes blocks in parts over TCP, too, since it has not said that
// it takes longer messages.
func TestSmallPeer(t *testing.T) {
	ref, b := blocktest.Make(eris.Size32KiB, 1)
	held := memstore.New()
	if err := held.Put(t.Context(), ref, b); err != nil {
		t.Fatal(err)
	}
	c := connect(t, "tcp", serveTCP(t, newServer(t, ServerOptions{}, Resource{Path: WellKnown, Blocks: held})))
	c.send(t, want(ref))
	c.next() // its greeting
	if m, err := c.next(); err != nil || m.Code != codes.Content || !bytes.Equal(m.Payload, b[:maxPart]) {
		t.Errorf("%v with %d bytes, %v", m.Code, len(m.Payload), err)
	}
}
