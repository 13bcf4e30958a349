package publish_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"ersatz/internal/compress"
	"ersatz/internal/publish"
)

// TestLiveNar wants all methods over one connection: an uncompressed nar of
// `guix publish` leaves its client waiting for the end.
func TestLiveNar(t *testing.T) {
	store := newScratch(t)
	info := store.tree(t, hashOf("a")+"-tree-1.0+b", 90_000)
	want := dump(t, info)
	for name, o := range map[string]publish.Options{
		"without a cache": {},
		"below threshold": {Cache: newFakeBaker(t).cache(), Methods: []compress.Method{{Name: "gzip", Level: 9}}},
		"nar path":        {NarPath: "some/where"},
	} {
		t.Run(name, func(t *testing.T) {
			o.Log = testLog(t)
			s, err := publish.New(store.db, signer(t), o)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var conns atomic.Int32
			server := httptest.NewUnstartedServer(s)
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					conns.Add(1)
				}
			}
			server.Start()
			defer server.Close()
			client := server.Client()
			prefix := "/nar/"
			if o.NarPath != "" {
				prefix = "/" + o.NarPath + "/"
			}
			for _, method := range []string{"none", "gzip", "lzip", "zstd", "none"} {
				path := prefix
				if method != "none" {
					path += method + "/"
				}
				url := server.URL + path + strings.ReplaceAll(info.Path.Base(), "+", "%2B")
				res, err := client.Get(url)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				if err != nil {
					t.Fatalf("%s: %v", method, err)
				}
				if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/x-nix-archive;charset=ISO-8859-1" {
					t.Fatalf("%s: %s, %s", method, res.Status, res.Header)
				}
				if got := unpack(t, body, method); !bytes.Equal(got, want) {
					t.Errorf("%s: %d bytes, want %d", method, len(got), len(want))
				}
				if chunked := len(res.TransferEncoding) == 1; chunked == (method == "none") || chunked != (res.ContentLength < 0) {
					t.Errorf("%s: %v, Content-Length %d", method, res.TransferEncoding, res.ContentLength)
				}
				head, err := client.Head(url)
				if err != nil || head.StatusCode != 200 || (method == "none") != (head.ContentLength == int64(len(want))) {
					t.Errorf("HEAD: %v, %v", head, err)
				}
			}
			if n := conns.Load(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
		})
	}
}

// TestNoStoreFileOpen wants the garbage collector not to be held up.
func TestNoStoreFileOpen(t *testing.T) {
	store := newScratch(t)
	info := store.tree(t, hashOf("a")+"-tree", 10_000)
	url := serve(t, store.db, publish.Options{})
	do(t, http.MethodGet, url+"/nar/zstd/"+info.Path.Base())
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc:", err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(target, store.dir) {
			t.Errorf("%s is open", target)
		}
	}
}

// TestChangedItem sends items that are not what the database says. No client
// may take them for whole.
func TestChangedItem(t *testing.T) {
	for _, size := range []int{100, 600_000} {
		for _, path := range []string{"/nar/", "/nar/gzip/", "/nar/zstd/"} {
			for name, change := range map[string]func(data string) error{
				"content": func(data string) error { return os.WriteFile(data, bytes.Repeat([]byte("x"), size), 0o644) },
				"shorter": func(data string) error { return os.Truncate(data, int64(size/2)) },
				"longer":  func(data string) error { return os.Truncate(data, int64(size*2)) },
				"gone":    os.Remove,
			} {
				store := newScratch(t)
				info := store.tree(t, hashOf("a")+"-tree", size)
				if err := change(info.Path.String() + "/data"); err != nil {
					t.Fatal(err)
				}
				url := serve(t, store.db, publish.Options{Log: discard()})
				got, err := tryGet(t.Context(), url+path+info.Path.Base())
				if err == nil && got.StatusCode == 200 && got.err == nil {
					t.Errorf("%s of %d bytes: %s: %s of %d bytes arrived whole", name, size, path, got.Status, len(got.body))
				}
			}
		}
	}
	store := newScratch(t)
	info := store.tree(t, hashOf("a")+"-tree", 100)
	if err := os.RemoveAll(info.Path.String()); err != nil {
		t.Fatal(err)
	}
	url := serve(t, store.db, publish.Options{Log: discard()})
	if got := do(t, http.MethodGet, url+"/nar/zstd/"+info.Path.Base()); got.StatusCode != http.StatusNotFound {
		t.Errorf("valid but not on disk: %s", got.Status)
	}
	info = store.tree(t, hashOf("b")+"-tree", 100)
	if err := syscall.Mkfifo(info.Path.String()+"/data2", 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/nar/", "/nar/zstd/"} {
		if got := do(t, http.MethodGet, url+path+info.Path.Base()); got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("Retry-After") == "" {
			t.Errorf("on disk and not readable: %s, %v", got.Status, got.Header)
		}
	}
}

func tryGet(ctx context.Context, url string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res, body, err}, nil
}

// TestLiveLimit holds the one slot with a client that does not read.
func TestLiveLimit(t *testing.T) {
	store := newScratch(t)
	info := store.tree(t, hashOf("a")+"-tree", 20_000_000) // more than sockets buffer
	url := serve(t, store.db, publish.Options{Live: 1, Log: discard()})
	nar := url + "/nar/" + info.Path.Base()
	slow, err := http.Get(nar)
	if err != nil {
		t.Fatal(err)
	}
	got := do(t, http.MethodGet, nar)
	if got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("Retry-After") == "" {
		t.Errorf("beyond the limit: %s, Retry-After %q", got.Status, got.Header.Get("Retry-After"))
	}
	for _, path := range []string{"/" + info.Path.Hash + ".narinfo", "/nix-cache-info"} {
		if got := do(t, http.MethodGet, url+path); got.StatusCode != 200 {
			t.Errorf("%s meanwhile: %s", path, got.Status)
		}
	}
	if got := do(t, http.MethodHead, nar); got.StatusCode != 200 {
		t.Errorf("HEAD meanwhile: %s", got.Status)
	}
	if n, err := io.Copy(io.Discard, slow.Body); err != nil || uint64(n) != info.NarSize {
		t.Errorf("the slow client got %d bytes, %v", n, err)
	}
	slow.Body.Close()
	for { // the handler gives its slot back after the last byte was read
		got := do(t, http.MethodGet, nar)
		if got.StatusCode == 200 {
			break
		}
		if got.StatusCode != http.StatusServiceUnavailable || t.Context().Err() != nil {
			t.Fatalf("afterwards: %s", got.Status)
		}
	}
}

func TestBakedNar(t *testing.T) {
	store := newScratch(t)
	info := store.tree(t, hashOf("a")+"-tree", 900_000)
	gone := store.path(t, hashOf("b")+"-collected")
	data := pack(t, dump(t, info), compress.Method{Name: "zstd", Level: 3})
	baker := newFakeBaker(t)
	baker.write(t, "nar/zstd/"+gone.Base(), data)
	url := serve(t, store.db, publish.Options{Cache: baker.cache(), TTL: 3600e9, BypassThreshold: -1}) +
		"/nar/zstd/" + gone.Base()

	got := do(t, http.MethodGet, url)
	tag := got.Header.Get("ETag")
	if got.StatusCode != 200 || !bytes.Equal(got.body, data) || tag == "" || strings.HasPrefix(tag, "W/") {
		t.Fatalf("%s, %d bytes, ETag %q", got.Status, len(got.body), tag)
	}
	for name, want := range map[string]string{
		"Content-Type":   "application/octet-stream;charset=ISO-8859-1",
		"Content-Length": strconv.Itoa(len(data)),
		"Cache-Control":  "max-age=3600",
		"Accept-Ranges":  "bytes",
	} {
		if got.Header.Get(name) != want {
			t.Errorf("%s: %q, want %q", name, got.Header.Get(name), want)
		}
	}
	for _, c := range []struct {
		method string
		header []string
		status int
		body   []byte
	}{
		{"GET", []string{"Range", "bytes=0-9"}, 206, data[:10]},
		{"GET", []string{"Range", "bytes=300000-"}, 206, data[300000:]},
		{"GET", []string{"Range", "bytes=-5"}, 206, data[len(data)-5:]},
		{"GET", []string{"Range", "bytes=300000-", "If-Range", tag}, 206, data[300000:]},
		{"GET", []string{"Range", "bytes=300000-", "If-Range", `"other"`}, 200, data},
		{"GET", []string{"Range", "nonsense"}, 416, nil},
		{"GET", []string{"Range", "bytes=99999999-"}, 416, nil},
		{"GET", []string{"If-None-Match", tag}, 304, nil},
		{"GET", []string{"If-None-Match", `"other"`}, 200, data},
		{"HEAD", nil, 200, []byte{}},
		{"HEAD", []string{"If-None-Match", tag}, 304, nil},
	} {
		got := do(t, c.method, url, c.header...)
		if got.StatusCode != c.status || c.body != nil && !bytes.Equal(got.body, c.body) || got.err != nil {
			t.Errorf("%s %q: %s, %d bytes, %v; want %d, %d bytes", c.method, c.header, got.Status, len(got.body), got.err, c.status, len(c.body))
		}
	}
	baker.write(t, "nar/zstd/"+gone.Base(), data[:len(data)-1])
	if got := do(t, http.MethodGet, url, "Range", "bytes=300000-", "If-Range", tag); got.StatusCode != 200 {
		t.Errorf("If-Range after the file was replaced: %s", got.Status)
	}
	// Neither baked nor below the threshold, and not there at all.
	for _, path := range []string{"/nar/gzip/" + info.Path.Base(), "/nar/" + gone.Base()} {
		other := strings.TrimSuffix(url, "/nar/zstd/"+gone.Base()) + path
		if got := do(t, http.MethodGet, other); got.StatusCode != 404 || string(got.body) != "Resource not found: "+path {
			t.Errorf("%s: %s %q", path, got.Status, got.body)
		}
	}
}
