package web

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// words asks again and again as Guile does, word by word with Nagle's
// algorithm, and returns how long all of it took.
func words(t *testing.T, addr string, times int) time.Duration {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).SetNoDelay(false); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(c)
	begin := time.Now()
	for range times {
		for _, word := range []string{"GET", " ", "/x", " ", "HTTP/1.1", "\r\n", "Host", ": ", "x", "\r\n", "\r\n"} {
			if _, err := io.WriteString(c, word); err != nil {
				t.Fatal(err)
			}
		}
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		if err != nil || string(text) != "answer" {
			t.Fatalf("%q, %v", text, err)
		}
	}
	return time.Since(begin)
}

// TestPrompt: requests that come word by word do not wait for Linux to confirm
// their first word. Unconfirmed, each takes 40 ms.
func TestPrompt(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "answer") })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, []net.Listener{l}, h, slog.New(slog.DiscardHandler)) }()
	const times = 50
	if took := words(t, l.Addr().String(), times); took > times*30*time.Millisecond {
		t.Errorf("%d requests took %v", times, took)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestPromptHidesNothing: files still go out by sendfile, and what is no TCP is
// left alone.
func TestPromptHidesNothing(t *testing.T) {
	var c net.Conn = promptConn{}
	if _, ok := c.(io.ReaderFrom); !ok {
		t.Error("no sendfile")
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if prompt(a) != a {
		t.Error("a pipe was wrapped")
	}
}

// TestPromptReads: what is read, and errors, are the connection's.
func TestPromptReads(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	const text = "GET /\r\n\r\nand more"
	if _, err := io.WriteString(out, text); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	c := prompt(in)
	got, err := io.ReadAll(c)
	if err != nil || string(got) != text {
		t.Errorf("%q, %v", got, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("reading what is closed: %v", err)
	}
	c.(promptConn).confirm() // of a closed one does nothing
}
