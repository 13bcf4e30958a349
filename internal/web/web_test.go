package web

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		path   string
		want   []string
		status int
	}{
		{"/", nil, http.StatusOK},
		{"//nar//zstd/", []string{"nar", "zstd"}, http.StatusOK},
		{"/nar/gtk%2B%20x", []string{"nar", "gtk+ x"}, http.StatusOK},
		{"/nar/..", nil, http.StatusBadRequest},
		{"/nar/%2e%2E", nil, http.StatusBadRequest},
		{"/./nar", nil, http.StatusBadRequest},
		{"/nar/a%2fb", nil, http.StatusBadRequest},
		{"/nar/a%00", nil, http.StatusBadRequest},
		{"/" + strings.Repeat("a", MaxPath-1), []string{strings.Repeat("a", MaxPath-1)}, http.StatusOK},
		{"/" + strings.Repeat("a", MaxPath), nil, http.StatusRequestURITooLong},
	} {
		u, err := url.Parse("http://x" + c.path)
		if err != nil {
			t.Fatal(err)
		}
		if parts, status := split(u); !slices.Equal(parts, c.want) || status != c.status {
			t.Errorf("%.40q: %.40q, %d", c.path, parts, status)
		}
	}
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		method, path string
		want         []string
		status       int
	}{
		{http.MethodGet, "/nar/x", []string{"nar", "x"}, http.StatusOK},
		{http.MethodHead, "/", nil, http.StatusOK},
		{http.MethodPost, "/nar/x", nil, http.StatusMethodNotAllowed},
		{http.MethodGet, "/nar/..", nil, http.StatusBadRequest},
	} {
		w := httptest.NewRecorder()
		parts, ok := Read(w, httptest.NewRequest(c.method, c.path, nil))
		if !slices.Equal(parts, c.want) || ok != (c.status == http.StatusOK) || w.Code != c.status {
			t.Errorf("%s %s: %q, %t, %d", c.method, c.path, parts, ok, w.Code)
		}
		if got := w.Header().Get("Allow"); (got == "GET, HEAD") != (c.status == http.StatusMethodNotAllowed) {
			t.Errorf("%s %s: Allow is %q", c.method, c.path, got)
		}
	}
}

func TestAnswers(t *testing.T) {
	ask := func(method string, ttl time.Duration) *http.Response {
		w := httptest.NewRecorder()
		NotFound(w, httptest.NewRequest(method, "/a%2Bb", nil), ttl)
		return w.Result()
	}
	got := ask(http.MethodGet, 90*time.Second)
	body, err := io.ReadAll(got.Body)
	if err != nil || got.StatusCode != http.StatusNotFound || string(body) != "Resource not found: /a%2Bb" {
		t.Errorf("%s, %q, %v", got.Status, body, err)
	}
	if h := got.Header; h.Get("Cache-Control") != "max-age=90" || h.Get("Content-Type") != "text/plain;charset=utf-8" {
		t.Errorf("%v", h)
	}
	got = ask(http.MethodHead, 0)
	if body, err := io.ReadAll(got.Body); err != nil || len(body) > 0 || got.Header.Get("Content-Length") != "26" || got.Header.Get("Cache-Control") != "" {
		t.Errorf("HEAD: %q, %v, %v", body, got.Header, err)
	}
	if s := Clip(strings.Repeat("x", 200)); len(s) > 110 || Clip("short") != "short" {
		t.Errorf("clipped to %q", s)
	}
}

// TestServe wants an answer, and an end when the context ends: all connections
// are gone then.
func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, []net.Listener{l}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			Plain(w, r, http.StatusOK, "here")
		}), slog.New(slog.DiscardHandler))
	}()
	resp, err := http.Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "here" {
		t.Errorf("%q, %v", body, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listener after the end: %v", err)
	}
}

// conn is a connection from an address, which can be closed.
type conn struct {
	net.Conn
	from net.Addr
}

func (c conn) RemoteAddr() net.Addr { return c.from }

// queue is a listener whose connections are given to it.
type queue struct {
	conns chan net.Conn
	done  chan struct{}
}

func (q queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q queue) Close() error   { close(q.done); return nil }
func (q queue) Addr() net.Addr { return &net.TCPAddr{} }

// TestConnections: other machines' connections, however many, leave this
// machine's alone, and those wait for their turn.
func TestConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue{make(chan net.Conn), make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- serve(ctx, []net.Listener{q}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				Plain(w, r, http.StatusOK, "here")
			}), nil, slog.New(slog.DiscardHandler), 2)
		}()
		dial := func(ip string) net.Conn {
			c, s := net.Pipe()
			q.conns <- conn{s, &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}}
			return c
		}
		// ask reports whether a request is answered, or the connection closed.
		ask := func(c net.Conn) (answered, closed bool) {
			c.SetDeadline(time.Now().Add(time.Second))
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
				return false, !errors.Is(err, os.ErrDeadlineExceeded)
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				return false, !errors.Is(err, os.ErrDeadlineExceeded)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return err == nil && string(body) == "here", false
		}
		var conns []net.Conn
		for _, c := range []struct {
			from             string
			answered, closed bool
		}{
			{"192.0.2.1", true, false}, {"192.0.2.2", true, false}, {"192.0.2.3", false, true},
			{"127.0.0.1", true, false}, {"::1", true, false}, {"127.0.0.1", false, false},
		} {
			conns = append(conns, dial(c.from))
			if answered, closed := ask(conns[len(conns)-1]); answered != c.answered || closed != c.closed {
				t.Errorf("connection %d, from %s: answered %t, closed %t", len(conns), c.from, answered, closed)
			}
		}
		conns[3].Close()
		synctest.Wait()
		if answered, _ := ask(conns[5]); !answered {
			t.Error("a connection that waited is not answered")
		}
		conns[0].Close()
		synctest.Wait()
		conns = append(conns, dial("192.0.2.3"))
		if answered, _ := ask(conns[6]); !answered {
			t.Error("another machine is not answered where one has gone")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, c := range conns {
			c.Close()
		}
	})
}

// A connection on which nothing was asked does not hold up the end.
func TestServeEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := queue{make(chan net.Conn), make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, []net.Listener{q}, http.NotFoundHandler(), slog.New(slog.DiscardHandler)) }()
		client, server := net.Pipe()
		defer client.Close()
		q.conns <- conn{server, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}
		synctest.Wait()
		start := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d >= graceTime {
			t.Errorf("it took %v", d)
		}
	})
}
