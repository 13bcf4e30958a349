package bittorrent_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/torrent"
	"ersatz/internal/transport/bittorrent"
)

// TestServers has a client get metadata and pieces from a substitute server
// alone, with any way to name it.
func TestServers(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 10_000_000)
	info := tr.info(t)
	srv := startWebServer(t, info, tr.file(t))
	url := srv.URL + "/eris/torrent/" + info.Name
	for name, tt := range map[string]struct {
		servers []string
		change  func(*torrent.Magnet)
	}{
		"of the content":   {[]string{srv.URL}, nil},
		"with a slash":     {[]string{srv.URL + "/"}, nil},
		"a dead one first": {[]string{"http://" + deadAddr(t), srv.URL}, nil},
		"in the magnet link": {nil, func(m *torrent.Magnet) {
			m.Sources, m.WebSeeds = []string{url + ".torrent"}, []string{url}
		}},
		"a folder": {nil, func(m *torrent.Magnet) {
			m.Sources, m.WebSeeds = []string{url + ".torrent"}, []string{srv.URL + "/eris/torrent/"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			link := magnet(info)
			if tt.change != nil {
				link = magnet(info, tt.change)
			}
			s := open(t, start(t, bittorrent.Options{}), tr, link, tt.servers...)
			srv.given.Store(0)
			wants(t, s, tr, 0, 1, 200)
			if n := srv.given.Load(); n != 2*torrent.PieceLength {
				t.Errorf("the server gave %d bytes for two pieces", n)
			}
			wants(t, s, tr, tr.every()...)
		})
	}
}

func deadAddr(t *testing.T) string {
	s := httptest.NewServer(nil)
	defer s.Close()
	return strings.TrimPrefix(s.URL, "http://")
}

// TestServerAndPeer has pieces come from both, and what came from the server be
// given to peers.
func TestServerAndPeer(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 20_000_000)
	info := tr.info(t)
	srv := startWebServer(t, info, tr.file(t))
	srv.fault.Store(ptr(func(http.ResponseWriter, *http.Request) bool {
		<-time.After(300 * time.Millisecond)
		return false
	}))
	_, addr := seed(t, tr, magnet(info), bittorrent.Options{Limit: slow{}})
	c := start(t, bittorrent.Options{Listen: "127.0.0.1:0"})
	s := open(t, c, tr, magnet(info, peer(addr)), srv.URL)
	wants(t, s, tr, tr.every()...)
	if n := srv.given.Load(); n == 0 || n >= info.Length {
		t.Errorf("the server gave %d of %d bytes", n, info.Length)
	}
	other := open(t, start(t, bittorrent.Options{}), tr, magnet(info, peer(c.Addr().String())))
	wants(t, other, tr, tr.every()...)
}

// TestWebSeedErrs has a web seed do what it should not: nothing wrong is taken,
// and one that lies is not asked again.
func TestWebSeedErrs(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 2_000_000)
	info := tr.info(t)
	file := tr.file(t)
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"404":         http.NotFound,
		"other bytes": func(w http.ResponseWriter, r *http.Request) { partial(w, r, make([]byte, len(file))) },
		"all of it":   func(w http.ResponseWriter, r *http.Request) { w.Write(file) },
		"another part": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-1/2")
			w.WriteHeader(206)
			w.Write(file)
		},
		"too little": func(w http.ResponseWriter, r *http.Request) { partial(w, r, file[:len(file)-1000]) },
		"a redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := startWebServer(t, info, file)
			var asked atomic.Int64
			srv.fault.Store(ptr(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, ".torrent") {
					return false
				}
				asked.Add(1)
				answer(w, r)
				return true
			}))
			s := open(t, start(t, bittorrent.Options{Idle: time.Second}), tr, magnet(info), srv.URL)
			last := int64(len(tr.refs)) - 1
			err := gives(t.Context(), s, tr, last)
			if err == nil || errors.Is(err, eris.ErrCorrupt) {
				t.Errorf("got %v", err)
			}
			if n := asked.Load(); n == 0 || name == "other bytes" && n > 1 || n > 20 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

// partial answers a range of the real length with other bytes, or fewer.
func partial(w http.ResponseWriter, r *http.Request, file []byte) {
	var first, last int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); err != nil {
		http.Error(w, "no range", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, last+1))
	w.WriteHeader(http.StatusPartialContent)
	w.Write(file[first:min(last+1, len(file))])
}

// TestMetadataErrs has servers give metadata that is of no use, before one that
// has the right one.
func TestMetadataErrs(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 2_000_000)
	other := makeTree(t, eris.Size32KiB, 2_000_001).info(t)
	info := tr.info(t)
	good := startWebServer(t, info, tr.file(t))
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"404":           http.NotFound,
		"no torrent":    func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"empty":         func(http.ResponseWriter, *http.Request) {},
		"another":       func(w http.ResponseWriter, _ *http.Request) { w.Write(other.Metainfo(nil, nil)) },
		"without info":  func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "de") },
		"deep":          func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("l", 1<<20)) },
		"a long string": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "d4:info99999999999:") },
		"without end": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write([]byte(strings.Repeat("i1e", 10_000))); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := httptest.NewServer(http.HandlerFunc(answer))
			t.Cleanup(bad.Close)
			s := open(t, start(t, bittorrent.Options{}), tr, magnet(info), bad.URL, good.URL)
			wants(t, s, tr, 5, 60)
		})
	}
}

// TestTogether has blocks of a piece be handed over together, as they are read.
func TestTogether(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 1_000_000)
	info := tr.info(t)
	srv := startWebServer(t, info, tr.file(t))
	s := open(t, start(t, bittorrent.Options{}), tr, magnet(info), srv.URL)
	came, most := 0, 0
	err := eris.FetchMany(t.Context(), s, tr.cap.Size, tr.refs, func(is []int, blocks [][]byte) (int, error) {
		most = max(most, len(is))
		for k, i := range is {
			if eris.BlockRef(blocks[k]) != tr.refs[i] {
				return k, eris.ErrCorrupt
			}
			came++
		}
		return len(is), nil
	})
	if err != nil || came != len(tr.refs) || most < 2 {
		t.Errorf("%d blocks of %d, %d at once, %v", came, len(tr.refs), most, err)
	}
}
