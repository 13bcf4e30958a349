package upstream

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/internal/transport/httpclient"
	"ersatz/narinfo"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

// many returns the paths of n items.
func many(n int) []storepath.Path {
	paths := make([]storepath.Path, n)
	for i := range paths {
		paths[i] = storepath.Path{Dir: "/gnu/store", Hash: nixbase32.Encode([]byte(fmt.Sprintf("%020d", i))), Name: fmt.Sprint("item-", i)}
	}
	return paths
}

// narinfos returns their texts by the path of the request.
func narinfos(paths []storepath.Path) map[string]string {
	texts := map[string]string{}
	for _, p := range paths {
		texts["/"+p.Hash+".narinfo"] = string(narinfo.Fields{StorePath: p, NarHash: [32]byte{1}, NarSize: 1000}.Body())
	}
	return texts
}

// listen returns the URL of a server that is not of net/http. Each connection is
// closed when serve returns; the test waits for all.
func listen(t *testing.T, serve func(conn net.Conn)) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		must(t, l.Close())
		served.Wait()
	})
	return "http://" + l.Addr().String()
}

// TestManyNarinfos asks for some hundred narinfos, which takes few connections,
// and gets each one's own answer.
func TestManyNarinfos(t *testing.T) {
	paths := many(300)
	texts := narinfos(paths)
	for name, start := range map[string]func(*httptest.Server){"plain": (*httptest.Server).Start, "TLS": (*httptest.Server).StartTLS} {
		t.Run(name, func(t *testing.T) {
			var asked, connections atomic.Int32
			hs := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				text := texts[strings.TrimPrefix(r.URL.Path, "/elsewhere")]
				w.Header().Set("Cache-Control", "max-age=60")
				switch n := asked.Add(1); {
				case strings.HasPrefix(r.URL.Path, "/elsewhere"):
				case strings.Contains(text, "item-17\n"):
					http.NotFound(w, r)
					return
				case strings.Contains(text, "item-18\n"):
					w.WriteHeader(http.StatusAccepted)
					return
				case strings.Contains(text, "item-19\n"):
					http.Error(w, "no", http.StatusBadGateway)
					return
				case strings.Contains(text, "item-20\n"):
					http.Redirect(w, r, "/elsewhere"+r.URL.Path, http.StatusFound)
					return
				case n == 200: // not just once all have been asked for
					panic(http.ErrAbortHandler)
				}
				fmt.Fprint(w, text)
			}))
			hs.Config.ConnState = func(_ net.Conn, s http.ConnState) {
				if s == http.StateNew {
					connections.Add(1)
				}
			}
			start(hs)
			defer hs.Close()
			c := newClient(t, Options{}, t.TempDir())
			for _, sv := range []*Server{server(t, hs.URL), server(t, hs.URL)} { // anew, and from the cache
				for i, a := range c.Ask(t.Context(), []*Server{sv}, paths) {
					var status *statusError
					switch text := texts["/"+paths[i].Hash+".narinfo"]; {
					case i == 17 || i == 18:
						if !errors.Is(a[0].Err, fs.ErrNotExist) || a[0].Expires.IsZero() {
							t.Errorf("item %d: %+v", i, a[0])
						}
					case i == 19:
						if !errors.As(a[0].Err, &status) {
							t.Errorf("item %d: %+v", i, a[0])
						}
					case string(a[0].Text) != text || a[0].Err != nil || time.Until(a[0].Expires) > time.Minute:
						t.Errorf("item %d: %+v", i, a[0])
					}
				}
			}
			// One breaks off, and two items are asked for alone, twice the one that failed.
			if n := connections.Load(); n > pipelines+1+3 {
				t.Errorf("%d connections", n)
			}
			// A window at most is asked for twice; the second time, one that failed.
			if n := asked.Load(); n > 300+64+3 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// TestSlowNarinfo: one that takes its time does not hold up those that other
// connections can ask for.
func TestSlowNarinfo(t *testing.T) {
	paths := many(300)
	texts := narinfos(paths)
	var rest sync.WaitGroup
	rest.Add(150)
	sv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		text := texts[r.URL.Path]
		if strings.Contains(text, "item-0\n") {
			rest.Wait()
		} else if n := strings.TrimSpace(text[strings.LastIndex(text[:strings.Index(text, "\n")], "-")+1 : strings.Index(text, "\n")]); len(n) == 3 && n < "250" {
			rest.Done()
		}
		fmt.Fprint(w, text)
	})
	for i, a := range newClient(t, Options{}).Ask(t.Context(), []*Server{sv}, paths) {
		if a[0].Err != nil {
			t.Errorf("item %d: %v", i, a[0].Err)
		}
	}
}

// TestShortConnections: a server that ends each connection after an answer is not
// sent a window of requests for each.
func TestShortConnections(t *testing.T) {
	paths := many(300)
	texts := narinfos(paths)
	var vain atomic.Int64 // bytes
	url := listen(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(texts[req.URL.Path]), texts[req.URL.Path])
		n, _ := io.Copy(io.Discard, r)
		vain.Add(n)
	})
	for i, a := range newClient(t, Options{}).Ask(t.Context(), []*Server{server(t, url)}, paths) {
		if string(a[0].Text) != texts["/"+paths[i].Hash+".narinfo"] {
			t.Errorf("item %d: %+v", i, a[0])
		}
	}
	if n := vain.Load(); n > 2*pipelines*64*150 {
		t.Errorf("%d bytes of requests in vain", n)
	}
}

// TestFewNarinfos: few are all asked for at once, on connections that are kept.
func TestFewNarinfos(t *testing.T) {
	const rounds, few = 3, pipelineFrom - 1
	paths := many(few)
	texts := narinfos(paths)
	var connections sync.Map
	var all [rounds]sync.WaitGroup
	var asked atomic.Int32
	for i := range all {
		all[i].Add(few)
	}
	sv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		connections.Store(r.RemoteAddr, true)
		round := &all[(asked.Add(1)-1)/few]
		round.Done()
		round.Wait()
		fmt.Fprint(w, texts[r.URL.Path])
	})
	c := newClient(t, Options{})
	for range rounds {
		for _, a := range c.Ask(t.Context(), []*Server{sv}, paths) {
			if a[0].Err != nil {
				t.Error(a[0].Err)
			}
		}
	}
	n := 0
	connections.Range(func(any, any) bool { n++; return true })
	if n > 2*few { // some are made while others become free
		t.Errorf("%d connections: none was kept", n)
	}
}

// TestNoPipelineWhileItRests: a server that rests is not even connected to.
func TestNoPipelineWhileItRests(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	sv := server(t, "http://"+l.Addr().String())
	c := newClient(t, Options{}, t.TempDir())
	c.waited(sv)
	for _, a := range c.Ask(t.Context(), []*Server{sv}, many(2*pipelineFrom)) {
		if !errors.Is(a[0].Err, errResting) {
			t.Error(a[0].Err)
		}
	}
	own, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	first, err := l.Accept()
	must(t, err)
	if first.RemoteAddr().String() != own.LocalAddr().String() {
		t.Error("it was connected to")
	}
	for _, c := range []io.Closer{own, first, l} {
		must(t, c.Close())
	}
}

// TestNoPipelines: there are proxies that drop what comes ahead of an answer.
func TestNoPipelines(t *testing.T) {
	paths := many(40)
	texts := narinfos(paths)
	url := listen(t, func(conn net.Conn) {
		for r := bufio.NewReader(conn); ; r.Discard(r.Buffered()) {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			text := texts[req.URL.Path]
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		}
	})
	hc := httpclient.New(httpclient.Options{Idle: time.Second})
	c := New(hc, nil, Options{})
	for i, a := range c.Ask(t.Context(), []*Server{server(t, url)}, paths) {
		if string(a[0].Text) != texts["/"+paths[i].Hash+".narinfo"] {
			t.Errorf("item %d: %+v", i, a[0])
		}
	}
	must(t, c.Close())
	hc.CloseIdleConnections()
}
