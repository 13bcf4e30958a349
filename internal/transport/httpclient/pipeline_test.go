package httpclient

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// pipelineTo returns a pipeline whose connections lead to serve, which has ended
// when the test does.
func pipelineTo(t *testing.T, serve func(conn net.Conn)) *Pipeline {
	t.Helper()
	hc := New(Options{Idle: 10 * time.Second})
	var served sync.WaitGroup
	t.Cleanup(served.Wait)
	hc.Transport.(*transport).next.DialContext = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		served.Go(func() {
			defer far.Close()
			serve(far)
		})
		return near, nil
	}
	base, err := url.Parse("http://a.example/b")
	if err != nil {
		t.Fatal(err)
	}
	p, ok := NewPipeline(hc, base, http.Header{"X-Mark": {"1"}})
	if !ok {
		t.Fatal("no pipeline")
	}
	return p
}

// requests reads requests, and calls answer with the name of each.
func requests(conn net.Conn, answer func(name string) bool) {
	r := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(r)
		if err != nil || req.Host != "a.example" || req.Header.Get("X-Mark") != "1" || req.UserAgent() != "ersatz" {
			return
		}
		if !answer(strings.TrimPrefix(req.RequestURI, "/b/")) {
			return
		}
	}
}

// queue sends to a connection without waiting for it to be read, as a socket does.
func queue(conn net.Conn) (send func(format string, args ...any), end func()) {
	texts, over := make(chan string, 10_000), make(chan struct{})
	go func() {
		defer close(over)
		for s := range texts {
			if _, err := io.WriteString(conn, s); err != nil {
				return
			}
		}
	}()
	return func(format string, args ...any) { texts <- fmt.Sprintf(format, args...) }, func() { close(texts); <-over }
}

// get asks for n files and returns what has come of which.
func get(ctx context.Context, p *Pipeline, n int) (bodies []string, err error) {
	next := 0
	err = p.Run(ctx, func() (int, string, bool) {
		next++
		return next - 1, fmt.Sprint("f", next-1), next <= n
	}, func(i int, resp *http.Response) {
		body, err := io.ReadAll(resp.Body)
		if err == nil {
			bodies = append(bodies, fmt.Sprintf("%d %d %s", i, resp.StatusCode, body))
		}
	})
	return bodies, err
}

// TestPipeline asks for more than a window holds, in all forms of answers.
func TestPipeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		most := 0
		p := pipelineTo(t, func(conn net.Conn) {
			send, end := queue(conn)
			defer end()
			var waiting []string
			requests(conn, func(name string) bool {
				if waiting = append(waiting, name); len(waiting) < window/2 && name != "f199" {
					return true
				}
				most = max(most, len(waiting))
				for k, name := range waiting {
					switch k % 4 {
					case 0:
						send("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(name), name)
					case 1:
						send("HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(name), name)
					case 2:
						send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
					case 3:
						send("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n")
					}
				}
				waiting = nil
				return true
			})
		})
		got, err := get(t.Context(), p, 200)
		if err != nil || len(got) != 200 || got[0] != "0 200 f0" || got[1] != "1 404 f1" || got[2] != "2 204 " || got[3] != "3 302 " {
			t.Errorf("%q, %v", got, err)
		}
		if most < 2 {
			t.Error("requests waited for answers")
		}
	})
}

// TestPipelineEnds: what a server answered counts, however it then ends.
func TestPipelineEnds(t *testing.T) {
	const good = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
	for name, c := range map[string]struct {
		text string // in answer to the first request of 3
		n    int    // answers that come whole
		want error  // nil: any
		stay bool   // the connection stays open
	}{
		"at once":             {"", 0, io.ErrUnexpectedEOF, false},
		"in a head":           {good + "HTTP/1.1 200 OK\r\nContent-", 1, io.ErrUnexpectedEOF, false},
		"in a body":           {good + "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nxx", 1, io.ErrUnexpectedEOF, false},
		"in a chunk":          {good + "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nxx", 1, io.ErrUnexpectedEOF, false},
		"body up to the end":  {"HTTP/1.1 200 OK\r\n\r\nx", 1, io.ErrUnexpectedEOF, false},
		"says so":             {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx" + good, 1, io.ErrUnexpectedEOF, true},
		"HTTP/1.0":            {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx" + good, 1, io.ErrUnexpectedEOF, true},
		"no HTTP":             {good + "SSH-2.0-x\r\n", 1, nil, false},
		"head without end":    {good + "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", maxHeader+bufferSize) + "\r\n\r\n", 1, errLongHead, true},
		"nothing but 1xx":     {strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", maxInfo), 0, nil, true},
		"silent":              {good, 1, ErrIdle, true},
		"silent in an answer": {good + "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nxx", 1, ErrIdle, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineTo(t, func(conn net.Conn) {
					send, end := queue(conn)
					defer end()
					first := true
					requests(conn, func(string) bool {
						if first {
							send("%s", c.text)
						}
						first = false
						return c.stay
					})
				})
				got, err := get(t.Context(), p, 3)
				if err == nil || c.want != nil && !errors.Is(err, c.want) || len(got) != c.n {
					t.Errorf("%q, %v; want %d answers and %v", got, err, c.n, c.want)
				}
			})
		})
	}
}

// TestPipelineMeaning: a server that has ended the connection is met by writing
// first, or by reading.
func TestPipelineMeaning(t *testing.T) {
	for _, err := range []error{io.EOF, io.ErrUnexpectedEOF, &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", unix.EPIPE)}} {
		if got := new(patient).meaning(err); !errors.Is(got, io.ErrUnexpectedEOF) {
			t.Errorf("%v means %v", err, got)
		}
	}
}

// TestPipelineTrickle: a server may take its time for each answer, but not give
// a byte now and then.
func TestPipelineTrickle(t *testing.T) {
	for name, c := range map[string]struct {
		pieces int
		every  time.Duration
		want   error
	}{"slow": {1, 9 * time.Second, nil}, "a byte now and then": {20, time.Second, ErrIdle}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pipelineTo(t, func(conn net.Conn) {
					send, end := queue(conn)
					defer end()
					requests(conn, func(string) bool {
						text := "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + strings.Repeat("x", 20)
						for piece := range slices.Chunk([]byte(text), (len(text)+c.pieces-1)/c.pieces) {
							time.Sleep(c.every)
							send("%s", piece)
						}
						return true
					})
				})
				if _, err := get(t.Context(), p, 5); !errors.Is(err, c.want) {
					t.Error(err)
				}
			})
		})
	}
}

// TestPipelineCancelled wants a context to end it in the middle.
func TestPipelineCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipelineTo(t, func(conn net.Conn) { requests(conn, func(string) bool { return true }) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := get(ctx, p, 3); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// TestPipelineLongRest: what is left of a body is passed over within bounds.
func TestPipelineLongRest(t *testing.T) {
	for _, n := range []int{maxRest - 1, maxRest + 1} {
		synctest.Test(t, func(t *testing.T) {
			p := pipelineTo(t, func(conn net.Conn) {
				send, end := queue(conn)
				defer end()
				requests(conn, func(string) bool {
					send("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, bytes.Repeat([]byte("x"), n))
					return true
				})
			})
			answers, asked := 0, 0
			err := p.Run(t.Context(), func() (int, string, bool) { asked++; return 0, "x", asked <= 2 }, func(int, *http.Response) { answers++ })
			if (err == nil) != (n < maxRest) || answers != map[bool]int{true: 2, false: 1}[n < maxRest] {
				t.Errorf("%d bytes: %d answers, %v", n, answers, err)
			}
		})
	}
}

// TestNoPipeline: what a pipeline does not know is left to the client.
func TestNoPipeline(t *testing.T) {
	t.Setenv("http_proxy", "") // net/http reads it once for all
	for name, c := range map[string]struct {
		hc   *http.Client
		base string
		want bool
	}{
		"plain":       {New(Options{}), "http://a.example", true},
		"TLS":         {New(Options{}), "https://a.example:444/x", true},
		"no redirect": {Stay(New(Options{})), "http://a.example", true},
		"password":    {New(Options{}), "http://u:p@a.example", false},
		"file":        {New(Options{}), "file:///x", false},
		"zone":        {New(Options{}), "http://[fe80::1%25eth0]:80", false},
		"address":     {New(Options{}), "http://[fe80::1]:80", true},
		"name":        {New(Options{}), "http://ä.example", false},
		"socket":      {New(Options{Socket: "/x"}), "http://a.example", false},
		"another":     {http.DefaultClient, "http://a.example", false},
	} {
		base, err := url.Parse(c.base)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := NewPipeline(c.hc, base, nil); ok != c.want {
			t.Errorf("%s: %v", name, ok)
		}
	}
	hc := New(Options{})
	hc.Transport.(*transport).next.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("http://proxy") }
	if _, ok := NewPipeline(hc, &url.URL{Scheme: "http", Host: "a"}, nil); ok {
		t.Error("a proxy is passed by")
	}
}
