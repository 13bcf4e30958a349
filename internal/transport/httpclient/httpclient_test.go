package httpclient_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/internal/transport/httpclient"
)

// serve starts a server and counts its connections.
func serve(t *testing.T, start func(*httptest.Server), h http.HandlerFunc) (*httptest.Server, *atomic.Int32) {
	t.Helper()
	var n atomic.Int32
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			n.Add(1)
		}
	}
	start(s)
	t.Cleanup(s.Close)
	return s, &n
}

func get(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.Status + " " + string(b), err
}

// TestRequest looks at what a server sees. Its certificate is signed by
// nobody, and it would speak HTTP/2.
func TestRequest(t *testing.T) {
	start := func(s *httptest.Server) {
		s.EnableHTTP2 = true
		s.StartTLS()
	}
	s, _ := serve(t, start, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto+" "+r.UserAgent()+" "+r.Header.Get("Accept-Encoding"))
	})
	for agent, want := range map[string]string{"": "ersatz", "ersatz/1": "ersatz/1"} {
		c := httpclient.New(httpclient.Options{UserAgent: agent})
		defer c.CloseIdleConnections()
		if got, err := get(c, s.URL); err != nil || got != "200 OK HTTP/1.1 "+want+" " {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestKeepsConnections(t *testing.T) {
	const parallel = 40
	var all sync.WaitGroup
	all.Add(parallel)
	s, n := serve(t, (*httptest.Server).Start, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			all.Done()
			all.Wait()
		}
	})
	c := httpclient.New(httpclient.Options{})
	defer c.CloseIdleConnections()
	for _, path := range []string{"/first", "/second", "/third"} {
		var work sync.WaitGroup
		for range parallel {
			work.Go(func() {
				if _, err := get(c, s.URL+path); err != nil {
					t.Error(err)
				}
			})
		}
		work.Wait()
	}
	if n.Load() != parallel {
		t.Errorf("%d connections for %d requests at once", n.Load(), parallel)
	}
}

func TestRedirects(t *testing.T) {
	var posts atomic.Int32
	s, _ := serve(t, (*httptest.Server).Start, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost && r.URL.Path != "/r":
			posts.Add(1)
		case r.URL.Path == "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case r.URL.Path == "/file":
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		case strings.Count(r.URL.Path, "/") <= 5: // the path that was asked for has one
			http.Redirect(w, r, r.URL.Path+"/x", http.StatusTemporaryRedirect)
		default:
			io.WriteString(w, r.URL.Path)
		}
	})
	c := httpclient.New(httpclient.Options{})
	defer c.CloseIdleConnections()
	if got, err := get(c, s.URL+"/r"); err != nil || got != "200 OK /r/x/x/x/x/x" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := get(c, s.URL+"/loop"); err == nil || !strings.Contains(err.Error(), "more than 5 redirects") {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := get(c, s.URL+"/file"); err == nil {
		t.Errorf("was led to a file: %q", got)
	}
	if got, err := get(httpclient.Stay(c), s.URL+"/r"); err != nil || !strings.HasPrefix(got, "307 ") {
		t.Errorf("who stays: %q, %v", got, err)
	}
	resp, err := c.Post(s.URL+"/r", "text/plain", strings.NewReader("x"))
	if err != nil || resp.StatusCode != http.StatusTemporaryRedirect || posts.Load() != 0 {
		t.Errorf("POST: %v, %d were redirected", err, posts.Load())
	}
	if err == nil {
		resp.Body.Close()
	}
}

// TestIdle has servers that stop in all places.
func TestIdle(t *testing.T) {
	const idle = 100 * time.Millisecond
	for name, answer := range map[string]string{
		"nothing":         "",
		"part of a head":  "HTTP/1.1 200 OK\r\nContent-",
		"head":            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
		"part of a body":  "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
		"part of a chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello",
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				in := bufio.NewReader(conn)
				in.ReadString('\n')
				io.WriteString(conn, answer)
				io.Copy(io.Discard, in) // until the client goes
			}()
			c := httpclient.New(httpclient.Options{Idle: idle})
			start := time.Now()
			_, err = get(c, "http://"+l.Addr().String())
			var timeout net.Error
			if !errors.Is(err, httpclient.ErrIdle) && !(errors.As(err, &timeout) && timeout.Timeout()) {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			if time.Since(start) < idle {
				t.Errorf("gave up after %v", time.Since(start))
			}
		})
	}
}

// TestSlowReader: who takes long between reads is not cut off, nor is an
// answer that comes in small pieces.
func TestSlowReader(t *testing.T) {
	const idle = 50 * time.Millisecond
	read := make(chan struct{})
	s, _ := serve(t, (*httptest.Server).Start, func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, 1000))
		w.(http.Flusher).Flush()
		<-read
		w.Write(make([]byte, 1000))
	})
	c := httpclient.New(httpclient.Options{Idle: idle})
	defer c.CloseIdleConnections()
	resp, err := c.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	wait := func() { <-time.After(2 * idle) } // real time: connections are real
	wait()
	if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	wait()
	close(read)
	if b, err := io.ReadAll(resp.Body); err != nil || len(b) != 1000 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// TestHugeHeader bounds what an answer's header can take.
func TestHugeHeader(t *testing.T) {
	s, _ := serve(t, (*httptest.Server).Start, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X", strings.Repeat("x", 1<<20))
	})
	if _, err := get(httpclient.New(httpclient.Options{}), s.URL); err == nil {
		t.Error("a header of 1 MiB was taken")
	}
}
