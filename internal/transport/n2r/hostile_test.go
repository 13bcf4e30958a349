package n2r_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/n2r"
)

const batchType = "application/vnd.eris.blocks"

// against returns a client of a server that counts its connections.
func against(t *testing.T, h http.HandlerFunc) (*n2r.Client, *atomic.Int32) {
	t.Helper()
	var n atomic.Int32
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			n.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	hc := httpclient.New(httpclient.Options{Idle: time.Second})
	t.Cleanup(hc.CloseIdleConnections)
	c, err := n2r.New(srv.URL, hc)
	if err != nil {
		t.Fatal(err)
	}
	return c, &n
}

// endless writes until the client goes, 1 GiB at most.
func endless(w http.ResponseWriter) {
	b := make([]byte, 64<<10)
	for range 1 << 14 {
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

// silent returns when the client has gone, which a server notices once it has
// read the request.
func silent(r *http.Request) {
	io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// TestHostileServers wants an error of the right kind, soon, and no block that
// is wrong: got refuses those.
func TestHostileServers(t *testing.T) {
	refs := []eris.Ref{{1}, {2}, {3}}
	batch := func(b ...[]byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", batchType)
			for _, b := range b {
				w.Write(b)
			}
		}
	}
	// single answers single blocks; there are no batches.
	single := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				http.NotFound(w, r)
				return
			}
			h(w, r)
		}
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", code) }
	}
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		want error  // nil: any
		text string // in the error
	}{
		"zeros":             {batch(make([]byte, 12)), nil, ""},
		"other block":       {batch([]byte{0, 0, 4, 0}, make([]byte, 1024)), eris.ErrCorrupt, ""},
		"length of another": {batch([]byte{0, 0, 128, 0}, make([]byte, 32768)), eris.ErrCorrupt, "has 32768 bytes, not 1024"},
		"huge length":       {batch([]byte{255, 255, 255, 255}), eris.ErrCorrupt, "has 4294967295 bytes"},
		"cut in a length":   {batch([]byte{0, 0, 0, 0, 0}), io.ErrUnexpectedEOF, "ends before block 2 of 3, " + eris.Ref{2}.String()},
		"cut in a block":    {batch([]byte{0, 0, 4, 0, 1, 2, 3}), io.ErrUnexpectedEOF, "ends within block 1 of 3"},
		"endless batch":     {func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Type", batchType); endless(w) }, nil, ""},
		"server error":      {status(500), nil, "batch of 3 blocks: 500"},
		"endless page":      {func(w http.ResponseWriter, r *http.Request) { endless(w) }, eris.ErrCorrupt, ""},
		"silence":           {func(w http.ResponseWriter, r *http.Request) { silent(r) }, nil, "timeout"},
		"silence after a head": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", batchType)
			w.(http.Flusher).Flush()
			silent(r)
		}, httpclient.ErrIdle, ""},
		"endless block": {single(func(w http.ResponseWriter, r *http.Request) { endless(w) }), eris.ErrCorrupt, ""},
		"short block":   {single(func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 1023)) }), eris.ErrCorrupt, ""},
		"cut block":     {single(cut(500)), io.ErrUnexpectedEOF, "unexpected EOF"},
		"block error":   {single(status(502)), nil, "502"},
		"redirect loop": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.String(), http.StatusTemporaryRedirect)
		}, nil, "redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := against(t, c.h)
			err := client.Fetch(t.Context(), eris.Size1KiB, refs, func(i int, b []byte) error {
				if len(b) != 1024 || eris.BlockRef(b) != refs[i] {
					return eris.ErrCorrupt
				}
				return nil
			})
			if name == "zeros" || name == "endless batch" { // all are missing
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %v %q", err, c.want, c.text)
			}
		})
	}
}

// cut answers with a body that ends after n of 1024 bytes.
func cut(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1024")
		w.Write(make([]byte, n))
	}
}

// TestOtherPlaces: single blocks may be elsewhere, batches are not sent on.
func TestOtherPlaces(t *testing.T) {
	c, s, data := content(t, 50_000)
	blocks := n2r.Handler(s)
	var posts atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			posts.Add(1)
		}
		blocks.ServeHTTP(w, r)
	}))
	defer elsewhere.Close()
	client, _ := against(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+r.URL.String(), http.StatusTemporaryRedirect)
	})
	if got, err := decode(t, c, client); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if posts.Load() != 0 {
		t.Errorf("%d batches were sent to another server", posts.Load())
	}
}

// TestSmallBatches is a server that takes 20 references at most, and is busy
// now and then.
func TestSmallBatches(t *testing.T) {
	c, s, data := content(t, 300_000)
	blocks := n2r.Handler(s)
	var mu sync.Mutex
	answers := map[int]int{}
	client, _ := against(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case r.Method != http.MethodPost:
			t.Error(r.Method, r.URL)
		case r.ContentLength > 20*32:
			answers[413]++
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		case answers[200]%5 == 4 && answers[503] < 2:
			answers[503]++
			w.Header().Set("Retry-After", "0")
			http.Error(w, "busy", http.StatusServiceUnavailable)
		default:
			answers[200]++
			blocks.ServeHTTP(w, r)
		}
	})
	if got, err := decode(t, c, client); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if answers[413] == 0 || answers[413] > 10 || answers[503] != 2 {
		t.Errorf("answers %v", answers)
	}
}

// TestTwoRequests: of many references, the next are asked for before the answer to
// the first has come, and no more than these.
func TestTwoRequests(t *testing.T) {
	_, s, _ := content(t, 3_000_000)
	blocks := n2r.Handler(s)
	var mu sync.Mutex
	now, most := 0, 0
	two := make(chan struct{})
	both := sync.OnceFunc(func() { close(two) })
	client, _ := against(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now++
		if most = max(most, now); now == 2 {
			both()
		}
		mu.Unlock()
		select {
		case <-two:
		case <-r.Context().Done():
		}
		blocks.ServeHTTP(w, r)
		mu.Lock()
		defer mu.Unlock()
		now--
	})
	refs := slices.Collect(maps.Keys(s))
	taken := make([]atomic.Bool, len(refs))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := client.Fetch(ctx, eris.Size1KiB, refs, func(i int, b []byte) error {
		if eris.BlockRef(b) != refs[i] || taken[i].Swap(true) {
			t.Errorf("block %d is wrong, or came twice", i)
		}
		return nil
	})
	for i := range taken {
		if !taken[i].Load() {
			t.Fatalf("block %d of %d did not come: %v", i, len(refs), err)
		}
	}
	if err != nil || most != 2 {
		t.Errorf("%v, %d requests at once", err, most)
	}
	refused := errors.New("disk full")
	if err := client.Fetch(ctx, eris.Size1KiB, refs, func(int, []byte) error { return refused }); !errors.Is(err, refused) {
		t.Error(err)
	}
}

// TestBusyForEver gives up.
func TestBusyForEver(t *testing.T) {
	var n atomic.Int32
	client, _ := against(t, func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		w.Header().Set("Retry-After", "0")
		http.Error(w, "busy", http.StatusServiceUnavailable)
	})
	err := client.Fetch(t.Context(), eris.Size1KiB, make([]eris.Ref, 2), nil)
	if err == nil || !strings.Contains(err.Error(), "503") || n.Load() != 4 {
		t.Errorf("%v after %d requests", err, n.Load())
	}
}

// TestConnections wants them kept: of batches, and of single blocks, of which
// 16 are asked for at once. Failures must not use up the places.
func TestConnections(t *testing.T) {
	c, s, data := content(t, 300_000)
	blocks := n2r.Handler(s)
	for _, batches := range []bool{true, false} {
		var broken atomic.Bool
		client, n := against(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case broken.Load():
				http.Error(w, "broken", http.StatusInternalServerError)
			case r.Method == http.MethodPost && !batches:
				http.NotFound(w, r)
			default:
				blocks.ServeHTTP(w, r)
			}
		})
		for range 3 {
			if got, err := decode(t, c, client); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			broken.Store(true)
			for range 20 {
				if _, err := decode(t, c, client); err == nil {
					t.Error("no error")
				}
			}
			broken.Store(false)
		}
		if n.Load() > 40 {
			t.Errorf("batches %v: %d connections", batches, n.Load())
		}
	}
}
