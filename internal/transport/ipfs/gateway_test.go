package ipfs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
	"ersatz/internal/transport/transporttest"
)

// newGateway returns a gateway that is given up when it is silent for idle.
func newGateway(t testing.TB, url string, idle time.Duration) *ipfs.Gateway {
	t.Helper()
	g, err := ipfs.NewGateway(url, httpclient.New(httpclient.Options{Idle: 2 * idle, PerHost: 32}))
	if err != nil {
		t.Fatal(err)
	}
	g.BlockTimeout = idle
	return g
}

// TestGatewayTransport runs the suite with Kubo's gateway.
func TestGatewayTransport(t *testing.T) {
	tr := transporttest.Transport{
		Foreign:          true,
		SilenceIsMissing: true,
		Serve:            kubo(t, func(d *kubotest.Daemon) string { return d.Gateway(t) }),
		Dial: func(t testing.TB, url string, idle time.Duration) eris.Fetcher {
			return newGateway(t, url, min(idle, time.Second))
		},
		Proxy: httpProxy,
	}
	transporttest.Run(t, tr)
	t.Run("faults", func(t *testing.T) { transporttest.Faults(t, tr) })
}

// TestGatewayPeer runs the suite with a gateway that can be made to err.
func TestGatewayPeer(t *testing.T) {
	transporttest.Run(t, transporttest.Transport{
		SilenceIsMissing: true,
		Serve: func(t testing.TB, address string, blocks block.Getter, refs []eris.Ref) (string, func()) {
			if address == "" {
				address = "127.0.0.1:0"
			}
			names := map[string]eris.Ref{}
			for _, ref := range refs {
				names[ipfs.CID(ref)] = ref
			}
			l, err := net.Listen("tcp", strings.TrimPrefix(address, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ref, ok := names[strings.TrimPrefix(r.URL.Path, "/ipfs/")]
				if !ok || r.URL.RawQuery != "format=raw" || r.Header.Get("Accept") != "application/vnd.ipld.raw" {
					http.Error(w, "not found", http.StatusNotFound)
					return
				}
				b, err := blocks.Get(r.Context(), ref)
				switch {
				case errors.Is(err, eris.ErrNotFound):
					http.Error(w, "not found", http.StatusNotFound)
				case err != nil:
					http.Error(w, err.Error(), http.StatusInternalServerError)
				default:
					w.Header().Set("Content-Type", "application/vnd.ipld.raw")
					w.Write(b)
				}
			}))
			s.Listener.Close()
			s.Listener = l
			s.Start()
			stop := sync.OnceFunc(func() { s.CloseClientConnections(); s.Close() })
			t.Cleanup(stop)
			return "http://" + l.Addr().String(), stop
		},
		Dial: func(t testing.TB, url string, idle time.Duration) eris.Fetcher { return newGateway(t, url, idle) },
		Deaf: func(t testing.TB) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return "http://" + l.Addr().String()
		},
	})
}

// answers returns a gateway that is a function.
func answers(t testing.TB, h http.HandlerFunc) *ipfs.Gateway {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return newGateway(t, s.URL, 2*time.Second)
}

// fetchAll asks for blocks, and verifies them. It returns how many came.
func fetchAll(ctx context.Context, f eris.Fetcher, size eris.BlockSize, refs []eris.Ref) (int, error) {
	var n atomic.Int32
	err := f.Fetch(ctx, size, refs, func(i int, b []byte) error {
		if len(b) != int(size) || eris.BlockRef(b) != refs[i] {
			return eris.ErrCorrupt
		}
		n.Add(1)
		return nil
	})
	return int(n.Load()), err
}

// TestGatewayAnswers wants to know what each answer means: the block, none, or
// a gateway that is of no use.
func TestGatewayAnswers(t *testing.T) {
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	raw := func(w http.ResponseWriter, b []byte) {
		w.Header().Set("Content-Type", "application/vnd.ipld.raw")
		w.Write(b)
	}
	status := func(code int) func(http.ResponseWriter, int) {
		return func(w http.ResponseWriter, _ int) { http.Error(w, "in words", code) }
	}
	for what, c := range map[string]struct {
		answer func(w http.ResponseWriter, try int)
		n      int
		err    string
	}{
		"the block":     {func(w http.ResponseWriter, _ int) { raw(w, b) }, 1, ""},
		"another":       {func(w http.ResponseWriter, _ int) { raw(w, make([]byte, 1024)) }, 0, "corrupt"},
		"too long":      {func(w http.ResponseWriter, _ int) { raw(w, append(b[:1024:1024], 0)) }, 0, "corrupt"},
		"much too long": {func(w http.ResponseWriter, _ int) { raw(w, make([]byte, 1<<20)) }, 0, "corrupt"},
		"too short":     {func(w http.ResponseWriter, _ int) { raw(w, b[:1000]) }, 0, "corrupt"},
		"empty":         {func(w http.ResponseWriter, _ int) { raw(w, nil) }, 0, "corrupt"},
		"a page":        {func(w http.ResponseWriter, _ int) { w.Write([]byte("<html>welcome")) }, 0, "no trustless gateway"},
		"cut": {func(w http.ResponseWriter, _ int) {
			w.Header().Set("Content-Length", "1024")
			raw(w, b[:500])
		}, 0, "unexpected EOF"},
		"cut, of no known length": {func(w http.ResponseWriter, _ int) {
			raw(w, b[:500])
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, 0, "unexpected EOF"},
		"404":             {status(404), 0, ""},
		"410":             {status(410), 0, ""},
		"412":             {status(412), 0, ""},
		"451":             {status(451), 0, ""},
		"504":             {status(504), 0, ""},
		"500":             {status(500), 0, "in words"},
		"403":             {status(403), 0, "403"},
		"always too much": {func(w http.ResponseWriter, _ int) { w.Header().Set("Retry-After", "0"); w.WriteHeader(429) }, 0, "too much to do"},
		"too much at first": {func(w http.ResponseWriter, try int) {
			if try < 2 {
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(503)
				return
			}
			raw(w, b)
		}, 1, ""},
	} {
		t.Run(what, func(t *testing.T) {
			try := 0
			g := answers(t, func(w http.ResponseWriter, _ *http.Request) { c.answer(w, try); try++ })
			n, err := fetchAll(t.Context(), g, eris.Size1KiB, []eris.Ref{ref})
			if n != c.n || (err == nil) != (c.err == "") || err != nil && !(strings.Contains(err.Error(), c.err) || c.err == "corrupt" && errors.Is(err, eris.ErrCorrupt)) {
				t.Errorf("%d blocks, %v", n, err)
			}
			if err != nil && !strings.Contains(err.Error(), g.String()) {
				t.Errorf("the gateway is not named: %v", err)
			}
		})
	}
}

func TestGatewayURL(t *testing.T) {
	it := newItem(t, 1, 100, eris.Size1KiB)
	manifest, _, err := ipfs.Manifest(it.seq())
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[string]string{
		"http://127.0.0.1:8080":                              "http://127.0.0.1:8080",
		"https://gateway.example/":                           "https://gateway.example",
		"https://gateway.example/below?manifest=" + manifest: "https://gateway.example/below",
	} {
		if g, err := ipfs.NewGateway(s, nil); err != nil || g.String() != want {
			t.Errorf("%q: %v, %v", s, g, err)
		}
	}
	for _, s := range []string{
		"", "gateway.example", "ftp://h", "http://", "http://h#f", "http://h?x=1", "http://h?manifest=x", "http://h?manifest=", "http://h?%",
		"http://h?manifest=" + manifest + "&manifest=" + manifest, "http://h?manifest=" + ipfs.CID(it.refs[0]),
	} {
		if g, err := ipfs.NewGateway(s, nil); err == nil {
			t.Errorf("%q is %s", s, g)
		}
	}
}

// counting passes requests on to a gateway, and counts those for single blocks.
func counting(t testing.TB, to string, delay time.Duration) (at string, raw *atomic.Int32) {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	raw = new(atomic.Int32)
	proxy := httputil.NewSingleHostReverseProxy(u)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("format") == "raw" {
			raw.Add(1)
		}
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, raw
}

// roundTrip is an HTTP client that is a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestNothingIsFound asks for more blocks than fit at once where nothing is found:
// all are missing in the time that one has.
func TestNothingIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hc := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, context.Cause(r.Context()) // as net/http does
		})}
		c, err := ipfs.New("http://daemon.example", hc)
		if err != nil {
			t.Fatal(err)
		}
		g, err := ipfs.NewGateway("http://gateway.example", hc)
		if err != nil {
			t.Fatal(err)
		}
		for f, want := range map[eris.Fetcher]time.Duration{c: ipfs.DefaultBlockTimeout + time.Second, g: ipfs.DefaultBlockTimeout} {
			start := time.Now()
			n, err := fetchAll(t.Context(), f, eris.Size1KiB, make([]eris.Ref, 100))
			if took := time.Since(start); n != 0 || err != nil || took != want {
				t.Errorf("%v: %d blocks in %v, %v", f, n, took, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := fetchAll(ctx, f, eris.Size1KiB, make([]eris.Ref, 100)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v: cancelled: %v", f, err)
			}
			cancel()
		}
	})
}

// BenchmarkGateway fetches 2,000 blocks of 32 KiB from Kubo's gateway: each by
// itself, by the CAR of the manifest, and each way where answers take 50 ms.
func BenchmarkGateway(b *testing.B) {
	d := kubotest.Start(b)
	it := newItem(b, 1, 2000*int(eris.Size32KiB), eris.Size32KiB)
	manifest := put(b, newClient(b, d.API), it)
	for _, delay := range []time.Duration{0, 50 * time.Millisecond} {
		at := d.Gateway(b)
		if delay > 0 {
			at, _ = counting(b, at, delay)
		}
		for how, query := range map[string]string{"raw": "", "car": "?manifest=" + manifest} {
			b.Run(fmt.Sprintf("%s/%v", how, delay), func(b *testing.B) {
				g := newGateway(b, at+query, 10*time.Second)
				for b.Loop() {
					s := g.Open(block.Wanted{ReadCap: it.cap})
					n, err := fetchAll(b.Context(), s, eris.Size32KiB, it.refs)
					if err != nil || n != len(it.refs) {
						b.Fatal(n, err)
					}
					s.Close()
				}
				b.ReportMetric(float64(b.N)*float64(len(it.refs))/b.Elapsed().Seconds(), "blocks/s")
			})
		}
	}
}

// BenchmarkGatewayBare asks Kubo's gateway for the same in bare loops: 32 at a
// time, and one CAR whose sections are not looked at.
func BenchmarkGatewayBare(b *testing.B) {
	d := kubotest.Start(b)
	it := newItem(b, 1, 2000*int(eris.Size32KiB), eris.Size32KiB)
	manifest := put(b, newClient(b, d.API), it)
	at := d.Gateway(b) + "/ipfs/"
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	get := func(url string) ([]byte, error) {
		resp, err := hc.Get(url)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		return io.ReadAll(resp.Body)
	}
	b.Run("raw", func(b *testing.B) {
		for b.Loop() {
			var next atomic.Int32
			var work sync.WaitGroup
			for range 32 {
				work.Go(func() {
					for i := int(next.Add(1)) - 1; i < len(it.refs); i = int(next.Add(1)) - 1 {
						block, err := get(at + ipfs.CID(it.refs[i]) + "?format=raw")
						if err != nil || eris.BlockRef(block) != it.refs[i] {
							b.Error(i, err)
						}
					}
				})
			}
			work.Wait()
		}
		b.ReportMetric(float64(b.N)*float64(len(it.refs))/b.Elapsed().Seconds(), "blocks/s")
	})
	b.Run("car", func(b *testing.B) {
		for b.Loop() {
			if car, err := get(at + manifest + "?format=car"); err != nil || len(car) < len(it.refs)*int(eris.Size32KiB) {
				b.Fatal(len(car), err)
			}
		}
		b.ReportMetric(float64(b.N)*float64(len(it.refs))/b.Elapsed().Seconds(), "blocks/s")
	})
}
