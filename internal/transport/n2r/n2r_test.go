package n2r_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"

	"ersatz/eris"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/transport/n2r"
)

// store is a map of blocks; what it holds need not be what the name says.
type store = blocktest.Blocks

// content encodes n random bytes into a store.
func content(t *testing.T, n int) (eris.ReadCap, store, []byte) {
	t.Helper()
	data := make([]byte, n)
	rand.Read(data)
	s := store{}
	c, _, err := eris.Encode(bytes.NewReader(data), eris.Size1KiB, eris.Secret{}, func(b eris.Block) error {
		s[b.Ref] = bytes.Clone(b.Data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c, s, data
}

// counter counts requests by method and path.
type counter struct {
	mu sync.Mutex
	n  map[string]int
	h  http.Handler
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.n[r.Method+" "+r.URL.Path]++
	c.mu.Unlock()
	c.h.ServeHTTP(w, r)
}

func serve(t *testing.T, h http.Handler) (*n2r.Client, *counter, string) {
	t.Helper()
	count := &counter{n: map[string]int{}, h: h}
	srv := httptest.NewServer(count)
	t.Cleanup(srv.Close)
	c, err := n2r.New(srv.URL+"/", srv.Client())
	if err != nil {
		t.Fatal(err)
	}
	return c, count, srv.URL
}

func decode(t *testing.T, c eris.ReadCap, f eris.Fetcher) ([]byte, error) {
	t.Helper()
	r := eris.NewReader(t.Context(), c, f, eris.ReaderOptions{})
	defer r.Close()
	return io.ReadAll(r)
}

func TestBatch(t *testing.T) {
	c, s, data := content(t, 1_000_000)
	client, count, _ := serve(t, n2r.Handler(s))
	if got, err := decode(t, c, client); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if n := count.n["POST /eris/blocks"]; n == 0 || n > len(s)/20 {
		t.Errorf("%d batches for %d blocks", n, len(s))
	}
	if n := count.n["GET /uri-res/N2R"]; n != 0 {
		t.Errorf("%d single blocks", n)
	}
}

// TestSingles is a server as other ERIS implementations are.
func TestSingles(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusOK} {
		c, s, data := content(t, 200_000)
		blocks := n2r.Handler(s)
		client, count, _ := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == n2r.BatchPath {
				http.Error(w, "hello", status)
				return
			}
			blocks.ServeHTTP(w, r)
		}))
		if got, err := decode(t, c, client); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if n := count.n["POST /eris/blocks"]; n == 0 || n > 6 {
			t.Errorf("%d batches asked of a server without", n)
		}
		if n := count.n["GET /uri-res/N2R"]; n != len(s) {
			t.Errorf("%d requests for %d blocks", n, len(s))
		}
	}
}

func TestFaults(t *testing.T) {
	c, s, _ := content(t, 50_000)
	var some eris.Ref
	for some = range s {
		if some != c.Root {
			break
		}
	}
	for _, c2 := range []struct {
		name string
		do   func(store) http.Handler
		want error
	}{
		{"missing block", func(s store) http.Handler { delete(s, some); return n2r.Handler(s) }, eris.ErrNotFound},
		{"other bytes", func(s store) http.Handler { s[some] = make([]byte, 1024); return n2r.Handler(s) }, eris.ErrCorrupt},
		{"longer block", func(s store) http.Handler { s[some] = make([]byte, 32768); return n2r.Handler(s) }, eris.ErrCorrupt},
		{"cut", func(s store) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/vnd.eris.blocks")
				w.Write([]byte{0, 0, 4})
			})
		}, io.ErrUnexpectedEOF},
	} {
		t.Run(c2.name, func(t *testing.T) {
			copied := store{}
			for k, v := range s {
				copied[k] = v
			}
			client, _, _ := serve(t, c2.do(copied))
			if _, err := decode(t, c, client); !errors.Is(err, c2.want) {
				t.Errorf("%v, want %v", err, c2.want)
			}
		})
	}
}

// unreadable is a store that cannot be read at the moment.
type unreadable struct{ store }

func (unreadable) Get(context.Context, eris.Ref) ([]byte, error) { return nil, syscall.EMFILE }

// A block that cannot be read is not said to be nowhere.
func TestUnreadable(t *testing.T) {
	_, s, _ := content(t, 100)
	for ref := range s {
		w := httptest.NewRecorder()
		n2r.Handler(unreadable{s}).ServeHTTP(w, httptest.NewRequest("GET", n2r.Path(ref), nil))
		if w.Code != http.StatusInternalServerError {
			t.Errorf("%d: %s", w.Code, w.Body)
		}
	}
}

func TestHandler(t *testing.T) {
	_, s, _ := content(t, 100)
	var ref eris.Ref
	for ref = range s {
	}
	_, _, url := serve(t, n2r.Handler(s))
	for _, c := range []struct {
		method, path, body string
		status, length     int
	}{
		{"GET", n2r.Path(ref), "", 200, 1024},
		{"HEAD", n2r.Path(ref), "", 200, 0},
		{"GET", n2r.Path(eris.Ref{}), "", 404, -1},
		{"GET", strings.ToLower(n2r.Path(ref)), "", 404, -1},
		{"GET", "/uri-res/N2R?urn:blake2b:" + strings.ToLower(ref.String()), "", 400, -1},
		{"GET", "/uri-res/N2R", "", 400, -1},
		{"PUT", n2r.Path(ref), "", 405, -1},
		{"GET", n2r.BatchPath, "", 405, -1},
		{"POST", n2r.BatchPath, "", 400, -1},
		{"POST", n2r.BatchPath, "x", 400, -1},
		{"POST", n2r.BatchPath, strings.Repeat("x", 32), 200, 4},
		{"POST", n2r.BatchPath, string(ref[:]) + strings.Repeat("x", 32*511), 200, 1024 + 4*512},
		{"POST", n2r.BatchPath, strings.Repeat("x", 32*513), 413, -1},
	} {
		req, err := http.NewRequest(c.method, url+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || c.length >= 0 && len(b) != c.length {
			t.Errorf("%s %s: %s, %d bytes, %v", c.method, c.path, resp.Status, len(b), err)
		}
	}
}
