package ipfs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"ersatz/eris"
	"ersatz/internal/transport/ipfs"
)

// standIn answers as a faulty daemon would. What a sound one answers is tested
// with Kubo itself.
func standIn(t *testing.T, h http.HandlerFunc) *ipfs.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := ipfs.New(s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var errWrongBytes = errors.New("wrong bytes")

func TestFetchFaults(t *testing.T) {
	it := newItem(t, 1, 100, eris.Size1KiB)
	block := it.blocks[0]
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string // part of the error; empty if the block counts as missing
	}{
		{"another block", func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1024)) }, "wrong bytes"},
		{"too short", func(w http.ResponseWriter, _ *http.Request) { w.Write(block[:1000]) }, "wrong bytes"},
		{"too long", func(w http.ResponseWriter, _ *http.Request) { w.Write(append(block[:1024:1024], 0)) }, "wrong bytes"},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}, "wrong bytes"},
		{"cut", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1024")
			w.Write(block[:500])
		}, "unexpected EOF"},
		{"timeout", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"Message":"context deadline exceeded","Code":0,"Type":"error"}`)
		}, ""},
		{"not local", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"Message":"block was not found locally (offline): ipld: could not find x","Code":0}`)
		}, ""},
		{"disk", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"Message":"input/output error","Code":0}`)
		}, "block/get: input/output error (status 500)"},
		{"forbidden", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "403 - Forbidden\nmore", http.StatusForbidden)
		}, "403 - Forbidden (status 403)"},
		{"late error", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Stream-Error")
			w.Write(block[:500])
			w.Header().Set("X-Stream-Error", "disk went away")
		}, "disk went away"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := standIn(t, c.answer)
			err := client.Fetch(t.Context(), eris.Size1KiB, it.refs, func(_ int, b []byte) error {
				if eris.BlockRef(b) != it.refs[0] {
					return errWrongBytes
				}
				return nil
			})
			switch {
			case c.want == "" && err != nil:
				t.Fatalf("error is %v, want the block to count as missing", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("error is %v, want %q", err, c.want)
			case c.want != "" && !strings.Contains(err.Error(), client.String()):
				t.Fatalf("error %v does not name the daemon", err)
			case c.want == "wrong bytes" && !errors.Is(err, errWrongBytes):
				t.Fatalf("error %v hides its cause", err)
			}
		})
	}
}

// 200 blocks come over kept connections, by 32 requests at once and no more.
func TestFetchKeepsConnections(t *testing.T) {
	const full = 32
	var now, connections atomic.Int32
	all := make(chan struct{}) // closed when full requests run at once
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch n := now.Add(1); {
		case n == full:
			select {
			case <-all:
			default:
				close(all)
			}
		case n > full:
			t.Errorf("%d requests at once", n)
		}
		if r.Method != http.MethodPost {
			t.Errorf("method %s", r.Method)
		}
		<-all
		now.Add(-1)
		w.Write(make([]byte, 1024))
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	c, err := ipfs.New(s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	var calls sync.WaitGroup
	for range 2 { // the bound is the client's, not the call's
		calls.Go(func() {
			if err := c.Fetch(t.Context(), eris.Size1KiB, make([]eris.Ref, 100), func(int, []byte) error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if n := connections.Load(); n > 2*full {
		t.Errorf("%d connections for 200 blocks", n)
	}
}

// A daemon that never answers is given up with the caller's context.
func TestFetchEndsWithItsContext(t *testing.T) {
	asked := make(chan struct{}, 64)
	c := standIn(t, func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	err := c.Fetch(ctx, eris.Size1KiB, make([]eris.Ref, 50), func(int, []byte) error { return nil })
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v", err)
	}
}

func TestPutFaults(t *testing.T) {
	it := newItem(t, 1, 20<<10, eris.Size1KiB)
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"pin failed", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			top, _, _ := ipfs.Manifest(it.seq())
			fmt.Fprintf(w, `{"Root":{"Cid":{"/":%q},"PinErrorMsg":"no such block"}}`, top)
		}, "no such block"},
		{"nothing pinned", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
		}, "did not pin"},
		{"another root", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, `{"Root":{"Cid":{"/":"bafy"},"PinErrorMsg":""}}`)
		}, "did not pin"},
		{"late error", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Trailer", "X-Stream-Error")
			w.WriteHeader(http.StatusOK)
			w.Header().Set("X-Stream-Error", "disk is full")
		}, "disk is full"},
		{"not JSON", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, "<html>")
		}, "dag/import"},
		{"refused at once", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "go away", http.StatusForbidden)
		}, "go away"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := standIn(t, c.answer).Put(t.Context(), it.cap.Root, it.seq(), it.emit)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error is %v, want %q", err, c.want)
			}
		})
	}
}

// An announcement that cannot be made leaves the item put.
func TestPutWithoutRouting(t *testing.T) {
	it := newItem(t, 1, 20<<10, eris.Size1KiB)
	top, _, err := ipfs.Manifest(it.seq())
	if err != nil {
		t.Fatal(err)
	}
	var provided atomic.Value
	c := standIn(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if strings.HasSuffix(r.URL.Path, "routing/provide") {
			provided.Store(r.URL.Query().Get("arg"))
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"Message":"cannot provide, no connected peers"}`)
			return
		}
		fmt.Fprintf(w, `{"Root":{"Cid":{"/":%q},"PinErrorMsg":""}}`, top)
	})
	got, err := c.Put(t.Context(), it.cap.Root, it.seq(), it.emit)
	if err != nil || got != top {
		t.Fatalf("%q, %v", got, err)
	}
	if provided.Load() != ipfs.CID(it.cap.Root) {
		t.Fatalf("announced %v", provided.Load())
	}
	if err := c.Provide(t.Context(), it.cap.Root); !errors.Is(err, ipfs.ErrNotProvided) {
		t.Fatalf("error is %v", err)
	}
}

func TestRemoveFaults(t *testing.T) {
	it := newItem(t, 1, 20<<10, eris.Size1KiB)
	for _, c := range []struct {
		name, pin, rm string // answers; what starts with "!" has status 500
		want          string
	}{
		{"shared blocks", `{}`, `{"Hash":"b","Error":"pinned: indirect"}`, ""},
		{"was not pinned", `!{"Message":"not pinned or pinned indirectly"}`, ``, ""},
		{"pin stays", `!{"Message":"database is locked"}`, ``, "database is locked"},
		{"blocks stay", `{}`, `{"Hash":"bafk","Error":"permission denied"}`, "bafk: permission denied"},
		{"not JSON", `{}`, `<`, "block/rm"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := standIn(t, func(w http.ResponseWriter, r *http.Request) {
				text := c.rm
				if strings.HasSuffix(r.URL.Path, "pin/rm") {
					text = c.pin
				}
				if rest, ok := strings.CutPrefix(text, "!"); ok {
					w.WriteHeader(http.StatusInternalServerError)
					text = rest
				}
				io.WriteString(w, text)
			})
			top, _, _ := ipfs.Manifest(it.seq())
			err := client.Remove(t.Context(), top, it.seq())
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("error is %v, want %q", err, c.want)
			}
		})
	}
}

// Requests for removal have bounded addresses, and name every CID once.
func TestRemoveInBatches(t *testing.T) {
	const n = 5000
	seen := map[string]int{}
	c := standIn(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "block/rm") {
			return
		}
		if len(r.URL.RawQuery) > 200<<10 {
			t.Errorf("a query of %d bytes", len(r.URL.RawQuery))
		}
		for _, cid := range r.URL.Query()["arg"] {
			seen[cid]++
		}
	})
	top, _, err := ipfs.Manifest(counted(n))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(t.Context(), top, counted(n)); err != nil {
		t.Fatal(err)
	}
	if len(seen) != n+1 || seen[top] != 1 {
		t.Fatalf("%d CIDs, the manifest %d times", len(seen), seen[top])
	}
}

func TestDeadDaemon(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	c, err := ipfs.New(s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	it := newItem(t, 1, 20<<10, eris.Size1KiB)
	errs := map[string]error{}
	errs["fetch"] = c.Fetch(t.Context(), eris.Size1KiB, it.refs, func(int, []byte) error { return nil })
	_, errs["put"] = c.Put(t.Context(), it.cap.Root, it.seq(), it.emit)
	errs["remove"] = c.Remove(t.Context(), "bafy", it.seq())
	_, errs["version"] = c.Version(t.Context())
	for name, err := range errs {
		if err == nil || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), s.URL) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

// TestUser wants user and password to be sent, and never to be told.
func TestUser(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "me" || password != "s3cret" {
			t.Errorf("user %q", user)
		}
		asked++
		w.WriteHeader(http.StatusForbidden)
	}))
	at := strings.Replace(s.URL, "://", "://me:s3cret@", 1)
	c, err := ipfs.New(at, nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := ipfs.NewGateway(at, nil)
	if err != nil {
		t.Fatal(err)
	}
	fetch := func(f eris.Fetcher) error { return f.Fetch(t.Context(), eris.Size1KiB, []eris.Ref{{1}}, nil) }
	said := []any{c, g, fetch(c), fetch(g)}
	s.Close()
	said = append(said, fetch(c), fetch(g))
	for _, bad := range []string{at + "/\x7f", at + "#f"} {
		_, err := ipfs.New(bad, nil)
		_, gerr := ipfs.NewGateway(bad, nil)
		said = append(said, err, gerr)
	}
	for i, v := range said {
		if text := fmt.Sprint(v); v == nil || strings.Contains(text, "s3cret") || i < 6 && strings.Contains(text, "me@") {
			t.Errorf("%d: tells a secret: %s", i, text)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
}

func TestNewRefusesAddresses(t *testing.T) {
	for _, s := range []string{"", "127.0.0.1:5001", "/ip4/127.0.0.1/tcp/5001", "ftp://x", "http://", "http://h?x=1", "http://h#f", ":"} {
		if _, err := ipfs.New(s, nil); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
	for _, s := range []string{"http://127.0.0.1:5001", "http://127.0.0.1:5001/", "http://127.0.0.1:5001/api/v0"} {
		c, err := ipfs.New(s, nil)
		if err != nil || c.String() != "http://127.0.0.1:5001" {
			t.Errorf("%q: %v, %v", s, c, err)
		}
	}
}
