package publish_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/internal/bake"
	"ersatz/internal/publish"
	"ersatz/internal/web"
)

// pipes is a listener of connections in memory, on which time can be fake.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// dial connects, and sends text.
func (p *pipes) dial(t *testing.T, text string) net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	if _, err := io.WriteString(client, text); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// inBubble runs a server in fake time. stop ends it and waits for it.
func inBubble(t *testing.T, h http.Handler, f func(t *testing.T, p *pipes, stop func())) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- web.Serve(ctx, []net.Listener{p}, h, discard()) }()
		stopped := false
		stop := func() {
			if stopped {
				return
			}
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		f(t, p, stop)
		stop()
	})
}

// large is a server of one nar of 3 MB, whatever its path.
func large(t *testing.T) (h http.Handler, path string) {
	baker := newFakeBaker(t)
	base := hashOf("a") + "-large"
	baker.write(t, "nar/zstd/"+base, make([]byte, 3<<20))
	s, err := publish.New(fixedStore{}, signer(t), publish.Options{Cache: baker.cache(), Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, "/nar/zstd/" + base
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n" }

// TestSlowReader wants 50 kbit/s to be served to the end, and one who reads
// nothing to be cut off.
func TestSlowReader(t *testing.T) {
	h, path := large(t)
	inBubble(t, h, func(t *testing.T, p *pipes, _ func()) {
		c := p.dial(t, get(path))
		res, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		total := 0
		buf := make([]byte, 6250)
		for {
			n, err := io.ReadFull(res.Body, buf)
			total += n
			if err != nil {
				break
			}
			time.Sleep(time.Second) // of fake time
		}
		if total != 3<<20 || time.Since(start) < 8*time.Minute {
			t.Errorf("a slow client got %d bytes in %s", total, time.Since(start))
		}
	})
	inBubble(t, h, func(t *testing.T, p *pipes, _ func()) {
		c := p.dial(t, get(path))
		time.Sleep(3 * time.Minute)
		if n, err := io.Copy(io.Discard, c); n >= 3<<20 {
			t.Errorf("a client that did not read for 3 minutes got %d bytes, %v", n, err)
		}
	})
}

// TestSlowWriter wants no client to hold a connection by not finishing what it
// says, or by saying nothing.
func TestSlowWriter(t *testing.T) {
	h, _ := large(t)
	for name, text := range map[string]string{
		"nothing":      "",
		"half a head":  "GET / HTTP/1.1\r\nHost",
		"half a body":  "POST /eris/blocks HTTP/1.1\r\nHost: x\r\nContent-Length: 64\r\n\r\nabc",
		"no body":      "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 64\r\n\r\n",
		"keep-alive":   get("/nix-cache-info"),
		"chunked body": "POST /eris/blocks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		inBubble(t, h, func(t *testing.T, p *pipes, _ func()) {
			c := p.dial(t, text)
			start := time.Now()
			answer, _ := io.ReadAll(c) // until the server closes
			if took := time.Since(start); took > 5*time.Minute {
				t.Errorf("%s: closed after %s", name, took)
			}
			if bytes.HasPrefix(answer, []byte("HTTP/1.1 5")) {
				t.Errorf("%s: %.40q", name, answer)
			}
		})
	}
}

// TestShutdown wants short answers to be finished and long ones to be cut when
// the server ends, within seconds.
func TestShutdown(t *testing.T) {
	var short chan struct{}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/short" {
			<-short
			fmt.Fprint(w, "whole")
			return
		}
		for { // ends when the connection does
			if _, err := w.Write(make([]byte, 1000)); err != nil {
				return
			}
		}
	})
	inBubble(t, h, func(t *testing.T, p *pipes, stop func()) {
		short = make(chan struct{})
		a, b := p.dial(t, get("/short")), p.dial(t, get("/long"))
		drained := make(chan error, 1)
		go func() {
			res, err := http.ReadResponse(bufio.NewReader(b), nil)
			if err == nil {
				_, err = io.Copy(io.Discard, slowly{res.Body})
			}
			drained <- err
		}()
		time.Sleep(time.Second)
		start := time.Now()
		answered := make(chan string, 1)
		go func() {
			time.Sleep(2 * time.Second)
			close(short)
			res, err := http.ReadResponse(bufio.NewReader(a), nil)
			if err != nil {
				answered <- err.Error()
				return
			}
			body, _ := io.ReadAll(res.Body)
			answered <- string(body)
		}()
		stop()
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("stopped after %s", took)
		}
		if got := <-answered; got != "whole" {
			t.Errorf("short answer: %q", got)
		}
		if err := <-drained; err == nil {
			t.Error("the long answer came to an end")
		}
	})
}

// slowly reads a little each second.
type slowly struct{ io.Reader }

func (s slowly) Read(p []byte) (int, error) {
	time.Sleep(time.Second)
	return s.Reader.Read(p[:min(len(p), 1000)])
}

// TestListenerFails wants Serve to say so and to end.
func TestListenerFails(t *testing.T) {
	good := newPipes()
	err := web.Serve(t.Context(), []net.Listener{good, failing{good}}, http.NotFoundHandler(), discard())
	if !errors.Is(err, errBroken) {
		t.Errorf("%v", err)
	}
}

var errBroken = errors.New("listener broken")

type failing struct{ net.Listener }

func (failing) Accept() (net.Conn, error) { return nil, errBroken }

// TestLongHead wants what no client of ours sends to be refused early.
func TestLongHead(t *testing.T) {
	h, _ := large(t)
	inBubble(t, h, func(t *testing.T, p *pipes, _ func()) {
		client, server := net.Pipe()
		defer client.Close()
		p.conns <- server
		go io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("y", 100<<10)) // fails when the server closes
		res, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil || res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%v, %v", res, err)
		}
	})
}

// TestPipelining sends requests as `guix substitute` does: all at once over
// one connection.
func TestPipelining(t *testing.T) {
	baker := newFakeBaker(t)
	baker.write(t, hashOf("a")+".narinfo", []byte("baked\n"))
	s, err := publish.New(fixedStore{}, signer(t), publish.Options{Cache: baker.cache(), Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	inBubble(t, s, func(t *testing.T, p *pipes, _ func()) {
		const n = 100
		c := p.dial(t, "")
		go io.WriteString(c, strings.Repeat(get("/"+hashOf("a")+".narinfo")+get("/"+hashOf("b")+".narinfo"), n)) // fails if the server closes
		r := bufio.NewReader(c)
		for i := range 2 * n {
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatalf("answer %d: %v", i, err)
			}
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != []int{200, 404}[i%2] || i%2 == 0 && string(body) != "baked\n" {
				t.Fatalf("answer %d: %s %q, %v", i, res.Status, body, err)
			}
		}
	})
}

// TestManyTorrents: clients that do not read hold a bounded number of files.
func TestManyTorrents(t *testing.T) {
	b := newBakery(t, 300_000, bake.Options{})
	o := b.options()
	o.Log = discard()
	s, err := publish.New(b.store.db, signer(t), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	inBubble(t, s, func(t *testing.T, p *pipes, _ func()) {
		for range 256 {
			p.dial(t, get(b.path()))
		}
		time.Sleep(time.Second) // of fake time
		c := p.dial(t, get(b.path()))
		first := make([]byte, len("HTTP/1.1 503"))
		if _, err := io.ReadFull(c, first); err != nil || string(first) != "HTTP/1.1 503" {
			t.Errorf("one more: %q, %v", first, err)
		}
		time.Sleep(5 * time.Minute) // those are cut off
		c = p.dial(t, get(b.path()))
		if _, err := io.ReadFull(c, first); err != nil || string(first) != "HTTP/1.1 200" {
			t.Errorf("later: %q, %v", first, err)
		}
	})
}
