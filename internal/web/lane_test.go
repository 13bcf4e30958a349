package web

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// site answers /quick… at once, and all by way of net/http too: with the path,
// and who says it.
type site struct {
	quick, slow atomic.Int32
	block       chan struct{} // what /wait waits for, and /hold after it has said that it does
}

func (s *site) Quick(r Request) (Answer, bool) {
	if !strings.HasPrefix(string(r.Path), "/quick") || r.Range != nil {
		return Answer{}, false
	}
	s.quick.Add(1)
	body := strings.Repeat(string(r.Path), 1+strings.Count(string(r.Path), "+")*10_000)
	h := http.Header{"Content-Length": {fmt.Sprint(len(body))}, "Content-Type": {"text/plain"}}
	return Answer{Head: AnswerHead(http.StatusOK, h), Body: []byte(body)}, true
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.slow.Add(1)
	switch r.URL.Path {
	case "/hold":
		s.block <- struct{}{}
		fallthrough
	case "/wait":
		<-s.block
	}
	Send(w, r, http.StatusOK, "text/plain", []byte(r.URL.Path))
}

// open serves a site, and returns a connection to it. All has ended when the
// test ends.
func (s *site) open(t *testing.T) *client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return s.on(t, l)
}

// on is open, at a listener.
func (s *site) on(t *testing.T, l net.Listener) *client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ServeQuick(ctx, []net.Listener{l}, s, s, slog.New(slog.DiscardHandler)) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := &client{Conn: conn, r: bufio.NewReader(conn), end: sync.OnceValue(func() error { cancel(); return <-done })}
	t.Cleanup(func() {
		conn.Close()
		if err := c.end(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// client is a connection to a site.
type client struct {
	net.Conn
	r   *bufio.Reader
	end func() error // of the server
}

func (c *client) send(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

// want reads an answer whose body is path.
func (c *client) want(t *testing.T, path string) {
	t.Helper()
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatalf("%.100s: %v", path, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != path || res.StatusCode != http.StatusOK {
		t.Fatalf("%.100s: %s, %.100q, %v", path, res.Status, body, err)
	}
	if _, err := time.Parse(http.TimeFormat, res.Header.Get("Date")); err != nil {
		t.Errorf("%.100s: %v", path, err)
	}
}

// count checks who has answered.
func (s *site) count(t *testing.T, quick, slow int32) {
	t.Helper()
	if q, n := s.quick.Load(), s.slow.Load(); q != quick || n != slow {
		t.Errorf("%d answered at once, %d by way of net/http; want %d and %d", q, n, quick, slow)
	}
}

func get(path string, fields ...string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: h\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

// TestLane: a connection goes to and fro between both ways, request by request,
// whether requests come one by one, all at once or byte by byte.
func TestLane(t *testing.T) {
	requests := []struct {
		text, path string
	}{
		{get("/quick1"), "/quick1"}, {get("/slow"), "/slow"}, {get("/quick2"), "/quick2"}, {get("/quick3"), "/quick3"},
		{get("/quick4", "Range: bytes=0-"), "/quick4"}, {get("/quick5", "Unknown: x"), "/quick5"},
		{get("/quick6", "Connection: keep-alive"), "/quick6"}, {get("/%71uic%6b7"), "/quick7"}, {get("/quick8%2Fx"), "/quick8/x"},
		{get("/quick9"), "/quick9"},
	}
	for name, feed := range map[string]func(*testing.T, *client){
		"one by one": func(t *testing.T, c *client) {
			for _, r := range requests {
				c.send(t, r.text)
				c.want(t, r.path)
			}
		},
		"at once": func(t *testing.T, c *client) {
			var all strings.Builder
			for _, r := range requests {
				all.WriteString(r.text)
			}
			c.send(t, all.String())
			for _, r := range requests {
				c.want(t, r.path)
			}
		},
		"byte by byte": func(t *testing.T, c *client) {
			for _, r := range requests {
				for i := range len(r.text) {
					c.send(t, r.text[i:i+1])
				}
				c.want(t, r.path)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &site{}
			c := s.open(t)
			feed(t, c)
			s.count(t, 6, 4)
		})
	}
}

// TestLaneLeaves: what may have a body, or is more than the lane reads, makes
// the whole connection net/http's.
func TestLaneLeaves(t *testing.T) {
	for name, text := range map[string]string{
		"body":   "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nGET ",
		"length": get("/x", "Content-Length: 4") + "GET ",
		"chunks": get("/x", "Transfer-Encoding: chunked") + "4\r\nGET \r\n0\r\n\r\n",
		"large":  get("/x", "User-Agent: "+strings.Repeat("x", 8000)),
		"lines":  "GET /x HTTP/1.1\nHost: h\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := &site{}
			c := s.open(t)
			c.send(t, get("/quick1")+text+get("/quick2"))
			for _, path := range []string{"/quick1", "/x", "/quick2"} {
				c.want(t, path)
			}
			s.count(t, 1, 2)
		})
	}
}

// TestLaneRefuses: what net/http refuses is refused.
func TestLaneRefuses(t *testing.T) {
	for text, status := range map[string]string{
		"GET /quick HTTP/1.1\r\n\r\n":                                        "400",
		"GET /quick HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n":                  "400",
		"GET /quick\r\n\r\n":                                                 "400",
		"GET /quick HTTP/1.1\r\nHost: h\r\n x: y\r\n\r\n":                    "400",
		get("/quick", "User-Agent: "+strings.Repeat("x", maxHeader+5000)):    "431",
		get("/quick", "Transfer-Encoding: x"):                                "501",
		"GET /quick HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n":       "400",
		"GET /quick HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : x\r\n\r\n":    "400",
		"GET /quick HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nrubbish": "200",
	} {
		s := &site{}
		c := s.open(t)
		c.send(t, get("/quick"))
		c.want(t, "/quick")
		go io.WriteString(c, text) // the server may close before it has read all
		all, err := io.ReadAll(c.r)
		if !strings.HasPrefix(string(all), "HTTP/1.1 "+status) {
			t.Errorf("%.60q: %.60q, %v", text, all, err)
		}
		s.quick.Store(0)
		if err := c.end(); err != nil || s.quick.Load() != 0 {
			t.Errorf("%.60q: answered at once, %v", text, err)
		}
	}
}

// TestLaneBatches: answers to requests that come together are written together,
// up to a bound.
func TestLaneBatches(t *testing.T) {
	in, out := net.Pipe()
	defer in.Close()
	defer out.Close()
	const n, body = 50, 1000
	a := Answer{Head: AnswerHead(http.StatusOK, http.Header{"Content-Length": {"1000"}}), Body: make([]byte, body)}
	c := &lane{stream: pipe{in}, quick: &quickly{Quick: fixed{a}}, between: true}
	sizes := make(chan int, n)
	go func() {
		defer close(sizes)
		p := make([]byte, 2*batch)
		for {
			n, err := out.Read(p) // of a pipe, all that one write has
			if err != nil {
				return
			}
			sizes <- n
		}
	}()
	text := strings.Repeat(get("/quick"), n-1) + strings.Replace(get("/quick"), "GET", "HEAD", 1)
	if used, _, err := c.answer([]byte(text)); err != nil || used != len(text) {
		t.Errorf("%d, %v", used, err)
	}
	in.Close()
	sum, writes, one := 0, 0, a.size(Request{})
	for size := range sizes {
		sum, writes = sum+size, writes+1
		if size > batch || size%one != 0 && size%one != one-body {
			t.Errorf("a write of %d bytes", size)
		}
	}
	if sum != n*one-body || writes > 1+sum/(batch-one) {
		t.Errorf("%d bytes of %d, in %d writes", sum, n*one-body, writes)
	}
}

// TestLaneKeepsBack: while net/http answers, it sees nothing of the requests
// behind, however many, and learns when the client goes away.
func TestLaneKeepsBack(t *testing.T) {
	s := &site{block: make(chan struct{})}
	c := s.open(t)
	const behind = 200 // more than a lane reads at once
	c.send(t, get("/wait")+strings.Repeat(get("/quick"), behind))
	close(s.block)
	c.want(t, "/wait")
	for range behind {
		c.want(t, "/quick")
	}
	s.count(t, behind, 1)
}

// TestLaneKeepsOne: what comes while net/http answers, and is read to learn
// whether the client goes away, is not lost, whether the rest of the request
// comes with it or after the answer.
func TestLaneKeepsOne(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{block: make(chan struct{})}
	took := make(chan struct{}, 1)
	c := s.on(t, tapped{l, took})
	for _, now := range []int{1, 10, len(get("/quick")), len(get("/quick") + "GET")} {
		c.send(t, get("/hold"))
		<-s.block
		all := get("/quick") + get("/slow") + get("/quick")
		c.send(t, all[:now])
		<-took
		s.block <- struct{}{}
		c.want(t, "/hold")
		c.send(t, all[now:])
		c.want(t, "/quick")
		c.want(t, "/slow")
		c.want(t, "/quick")
	}
	s.count(t, 8, 8)
}

// tapped tells when one of its connections was read a single byte of, which is
// done during answers only.
type tapped struct {
	net.Listener
	took chan struct{}
}

func (l tapped) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tappedConn{c.(*net.TCPConn), l.took}, nil
}

type tappedConn struct {
	*net.TCPConn
	took chan struct{}
}

func (c tappedConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if len(p) == 1 && n == 1 {
		select {
		case c.took <- struct{}{}:
		default:
		}
	}
	return n, err
}

// TestLaneNoticesEnd: the context of a request ends with the client.
func TestLaneNoticesEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked, gone, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		close(gone)
	})
	go func() { done <- ServeQuick(ctx, []net.Listener{l}, h, &site{}, slog.New(slog.DiscardHandler)) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, get("/slow")); err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	<-gone
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLaneKeepsNothingBack: a connection that cannot wait, here a pipe, is
// net/http's from where it would have to.
func TestLaneKeepsNothingBack(t *testing.T) {
	piped(t, func(t *testing.T, c *client) {
		go io.WriteString(c, get("/slow")+get("/quick1")+get("/quick2")) // a pipe has no buffer
		for _, path := range []string{"/slow", "/quick1", "/quick2"} {
			c.want(t, path)
		}
	})
}

// TestLaneHijacked: who takes the connection from net/http has all of it.
func TestLaneHijacked(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if _, err := io.CopyN(c, rw, 14); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ServeQuick(ctx, []net.Listener{l}, h, &site{}, slog.New(slog.DiscardHandler)) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, get("/slow")+"GET /quick1 HTTP"); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(c); string(all) != "GET /quick1 HT" {
		t.Errorf("%q, %v", all, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestLaneAllocates: an answer at hand takes no memory.
func TestLaneAllocates(t *testing.T) {
	s := fixed{Answer{Head: AnswerHead(http.StatusOK, http.Header{"Content-Length": {"4"}}), Body: []byte("text")}}
	in, out := net.Pipe()
	defer in.Close()
	defer out.Close()
	c := &lane{stream: pipe{in}, quick: &quickly{Quick: s}, between: true}
	p, answer := make([]byte, 4096), make([]byte, 4096)
	n := copy(p, get("/quick", "User-Agent: GNU Guile"))
	turn := func() {
		if used, _, err := c.answer(p[:n]); err != nil || used != n {
			t.Errorf("%d, %v", used, err)
		}
	}
	go func() {
		for {
			if _, err := out.Read(answer); err != nil {
				return
			}
		}
	}()
	if n := testing.AllocsPerRun(200, turn); n >= 1 {
		t.Errorf("%v allocations", n)
	}
}

type fixed struct{ answer Answer }

func (f fixed) Quick(Request) (Answer, bool) { return f.answer, true }

// pipe is one end of a net.Pipe, which can be a lane.
type pipe struct{ net.Conn }

func (pipe) RemoteAddr() net.Addr                  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (p pipe) ReadFrom(r io.Reader) (int64, error) { return io.Copy(struct{ io.Writer }{p.Conn}, r) }
func (pipe) CloseWrite() error                     { return nil }
func (pipe) SyscallConn() (syscall.RawConn, error) { return nil, errors.New("a pipe") }

// piped runs a test in a bubble, with a connection to a site, and ends it.
func piped(t *testing.T, test func(*testing.T, *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q := queue{make(chan net.Conn), make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		s := &site{}
		go func() { done <- ServeQuick(ctx, []net.Listener{q}, s, s, slog.New(slog.DiscardHandler)) }()
		out, in := net.Pipe()
		defer out.Close()
		q.conns <- pipe{in}
		end := sync.OnceValue(func() error {
			cancel()
			return <-done
		})
		test(t, &client{Conn: out, r: bufio.NewReader(out), end: end})
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

// TestLaneTimes: who is silent is cut off when net/http would do it; who asks
// again and again is not.
func TestLaneTimes(t *testing.T) {
	ask := func(path string) func(*testing.T, *client) {
		return func(t *testing.T, c *client) {
			time.Sleep(time.Minute)
			c.send(t, get(path))
			c.want(t, path)
		}
	}
	begin := func(t *testing.T, c *client) {
		time.Sleep(time.Minute)
		c.send(t, "G")
	}
	slowly := func(t *testing.T, c *client) {
		for _, b := range []string{"E", "T", " "} {
			time.Sleep(time.Second)
			c.send(t, b)
		}
	}
	quick, slow := ask("/quick"), ask("/slow")
	first := func(t *testing.T, c *client) { c.send(t, get("/quick")); c.want(t, "/quick") }
	for name, c := range map[string]struct {
		steps []func(*testing.T, *client)
		lasts time.Duration // the silence after that
	}{
		"nothing asked":     {nil, headerTime},
		"asked once":        {[]func(*testing.T, *client){first}, idleTime},
		"asked for minutes": {[]func(*testing.T, *client){first, quick, quick, quick, quick, quick}, idleTime},
		"asked both ways":   {[]func(*testing.T, *client){first, slow, quick, slow, slow, quick, quick}, idleTime},
		"a head begun":      {[]func(*testing.T, *client){first, begin}, headerTime},
		"a head, slowly":    {[]func(*testing.T, *client){first, begin, slowly}, headerTime - 3*time.Second},
		"slowly and asked": {[]func(*testing.T, *client){first, slow, begin, slowly, func(t *testing.T, c *client) {
			c.send(t, get("/quick")[4:])
			c.want(t, "/quick")
		}}, idleTime},
	} {
		t.Run(name, func(t *testing.T) {
			piped(t, func(t *testing.T, client *client) {
				for _, step := range c.steps {
					step(t, client)
				}
				begin := time.Now()
				all, err := io.ReadAll(client.r) // net/http may say 400 to half a line
				if took := time.Since(begin); err != nil || len(all) > 0 && !strings.HasPrefix(string(all), "HTTP/1.1 400 ") || took != c.lasts {
					t.Errorf("%q, %v after %v", all, err, took)
				}
			})
		})
	}
}

// TestLaneUnread: who does not read what was asked for is cut off.
func TestLaneUnread(t *testing.T) {
	for _, silence := range []time.Duration{0, Stall / 4, 3 * Stall / 4} {
		piped(t, func(t *testing.T, c *client) {
			c.send(t, get("/quick"))
			c.want(t, "/quick")
			time.Sleep(silence) // the deadline is not set with each answer
			c.send(t, get("/quick"))
			time.Sleep(Stall/2 - time.Second)
			c.want(t, "/quick")
			c.send(t, get("/quick"))
			time.Sleep(Stall + time.Second)
			if all, err := io.ReadAll(c.r); err != nil || len(all) != 0 {
				t.Errorf("%q, %v", all, err)
			}
		})
	}
}

// TestLaneEnds: when the server ends, an answer that is being written may come
// to its end, and nothing else is answered.
func TestLaneEnds(t *testing.T) {
	piped(t, func(t *testing.T, c *client) {
		c.send(t, get("/quick+")) // as long as the buffer of the client, and longer
		if _, err := c.r.Peek(1); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { ended <- c.end() }()
		time.Sleep(graceTime - time.Second)
		c.want(t, strings.Repeat("/quick+", 10_001))
		if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("then: %v", err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestLaneEndsUnread: it does not wait for who does not read.
func TestLaneEndsUnread(t *testing.T) {
	piped(t, func(t *testing.T, c *client) {
		c.send(t, get("/quick"))
		synctest.Wait()
		begin := time.Now()
		if err := c.end(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took != graceTime {
			t.Errorf("it took %v", took)
		}
	})
}
