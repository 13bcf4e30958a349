package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/bake"
	"ersatz/internal/compress"
	"ersatz/internal/publish"
	"ersatz/internal/storedb"
	"ersatz/internal/torrent"
	"ersatz/narinfo"
)

// bakery is a real cache of one item.
type bakery struct {
	store  *scratch
	cache  *bake.Cache
	info   storedb.Info
	root   eris.Ref
	blocks []byte // in the order of the tree
}

// newBakery bakes an item of about size bytes, which the roots refer to.
func newBakery(t testing.TB, size int, o bake.Options) *bakery {
	t.Helper()
	b := &bakery{store: newScratch(t)}
	b.info = b.store.tree(t, hashOf("a")+"-item", size)
	o.Methods = []compress.Method{{Name: "zstd", Level: 1}}
	var err error
	if b.cache, err = bake.Open(t.TempDir(), b.store.db, signer(t), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.cache.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { b.cache.Run(ctx) }) // the error is nil
	work.Go(func() { b.cache.BakeAhead(ctx, []string{b.info.Path.String()}) })
	for tooLong := time.After(30 * time.Second); ; {
		changed := b.cache.Library().Changed()
		if b.cache.Status().Baked > 0 {
			break
		}
		select {
		case <-changed:
		case <-tooLong:
			t.Fatal("not baked")
		}
	}
	cancel()
	work.Wait()
	c, err := b.cache.Blocks().Open(t.Context(), b.info.Path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b.root = c.ReadCap().Root
	for place := range c.Len() {
		_, block, err := c.Block(t.Context(), place)
		if err != nil {
			t.Fatal(err)
		}
		b.blocks = append(b.blocks, block...)
	}
	return b
}

func (b *bakery) options() publish.Options {
	return publish.Options{Cache: &publish.Baked{Dir: b.cache.Dir(), Baker: b.cache, Blocks: b.cache.Blocks(), Contents: b.cache.Blocks()}}
}

func (b *bakery) path() string { return publish.TorrentDir + b.root.String() }

// TestTorrentFile: the blocks are one file, with all that web seeds need.
func TestTorrentFile(t *testing.T) {
	for _, size := range []int{100, 5000, 1_500_000} {
		b := newBakery(t, size, bake.Options{})
		url := serve(t, b.store.db, b.options()) + b.path()
		tag, n := strconv.Quote(b.root.String()), len(b.blocks)
		for _, tt := range []struct {
			method, name, value string // of a header
			status, from, to    int
		}{
			{"GET", "X", "x", 200, 0, n},
			{"HEAD", "X", "x", 200, 0, n},
			{"GET", "Range", "bytes=0-0", 206, 0, 1},
			{"GET", "Range", "bytes=1000-1010", 206, 1000, 1011},
			{"GET", "Range", "bytes=1023-", 206, 1023, n},
			{"GET", "Range", "bytes=-700", 206, n - 700, n},
			{"HEAD", "Range", "bytes=5-9", 206, 5, 10},
			{"GET", "Range", fmt.Sprintf("bytes=%d-", n), 416, 0, 0},
			{"GET", "Range", "bytes=0-1,5-6", 416, 0, 0},
			{"GET", "If-None-Match", tag, 304, 0, 0},
			{"GET", "If-None-Match", `"x"`, 200, 0, n},
		} {
			got := do(t, tt.method, url, tt.name, tt.value)
			if got.StatusCode != tt.status || got.err != nil {
				t.Errorf("%d bytes: %s with %s: %s: %s, %v", size, tt.method, tt.name, tt.value, got.Status, got.err)
				continue
			}
			if tt.status > 299 {
				continue
			}
			if got.Header.Get("ETag") != tag || got.ContentLength != int64(tt.to-tt.from) || got.Header.Get("Accept-Ranges") != "bytes" {
				t.Errorf("%d bytes: %s with %s: %s: %d bytes announced, %v", size, tt.method, tt.name, tt.value, got.ContentLength, got.Header)
			}
			if tt.method == "GET" && !bytes.Equal(got.body, b.blocks[tt.from:tt.to]) {
				t.Errorf("%d bytes: %s: other bytes", size, tt.value)
			}
		}
		if got := do(t, "GET", url, "If-Range", `"x"`, "Range", "bytes=0-0"); got.StatusCode != 200 {
			t.Errorf("a range of another file: %s", got.Status)
		}
	}
}

// TestMetainfo: the .torrent is that of the blocks, names the trackers of the
// narinfo, and this server.
func TestMetainfo(t *testing.T) {
	trackers := []string{"http://t.example/announce", "udp://t.example:6969"}
	b := newBakery(t, 1_500_000, bake.Options{Torrents: true, Trackers: trackers})
	url := serve(t, b.store.db, b.options())
	h := torrent.NewBuilder()
	h.Write(b.blocks)
	info := h.Finish(b.root)
	for range 2 {
		got := do(t, "GET", url+b.path()+".torrent")
		want := info.Metainfo(trackers, []string{url + b.path()})
		if got.StatusCode != 200 || !bytes.Equal(got.body, want) || got.Header.Get("Content-Type") != "application/x-bittorrent" {
			t.Errorf("%s, %v:\n%.300q", got.Status, got.Header, got.body)
		}
		if again := do(t, "GET", url+b.path()+".torrent", "If-None-Match", got.Header.Get("ETag")); again.StatusCode != 304 {
			t.Errorf("again: %s", again.Status)
		}
		// Behind a proxy with TLS.
		got = do(t, "GET", url+b.path()+".torrent", "X-Forwarded-Proto", "https")
		want = info.Metainfo(trackers, []string{strings.Replace(url, "http:", "https:", 1) + b.path()})
		if !bytes.Equal(got.body, want) || got.Header.Get("Vary") != "X-Forwarded-Proto" {
			t.Errorf("%v:\n%.300q", got.Header, got.body)
		}
		// HTTP/1.0 need not say by what name it asks.
		if got := nameless(t, url, b.path()+".torrent"); !bytes.HasSuffix(got, info.Metainfo(trackers, nil)) {
			t.Errorf("without Host:\n%.300q", got)
		}
		// Of one that has just gone, or has no link, the rest can be said.
		name := filepath.Join(b.cache.Dir(), b.info.Path.Hash+".narinfo")
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		n, err := narinfo.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := torrent.ParseMagnet(n.ERISMagnet); err == nil && m.Hash != info.Hash() {
			t.Errorf("another torrent in the narinfo: %s", n.ERISMagnet)
		}
		if err := os.WriteFile(name, bytes.Replace(text, []byte("ERISMagnet: "+n.ERISMagnet+"\n"), nil, 1), 0o644); err != nil {
			t.Fatal(err)
		}
		trackers = nil
	}
}

// nameless asks by HTTP/1.0 without Host.
func nameless(t *testing.T, url, path string) []byte {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.0\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// stuck is a client that does not read yet.
type stuck struct {
	*httptest.ResponseRecorder
	writes, read chan struct{}
}

func (s stuck) Write(b []byte) (int, error) {
	s.writes <- struct{}{}
	<-s.read
	return len(b), nil
}

// TestManyMetainfos: metainfo that nobody takes is as bounded as files.
func TestManyMetainfos(t *testing.T) {
	b := newBakery(t, 50_000, bake.Options{Torrents: true})
	server, err := publish.New(b.store.db, signer(t), b.options())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ask := func(w http.ResponseWriter) {
		server.ServeHTTP(w, httptest.NewRequest("GET", b.path()+".torrent", nil))
	}
	client := stuck{writes: make(chan struct{}), read: make(chan struct{})}
	var all sync.WaitGroup
	for range 256 {
		client.ResponseRecorder = httptest.NewRecorder()
		all.Go(func() { ask(client) })
		<-client.writes
	}
	w := httptest.NewRecorder()
	if ask(w); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more: %d, %v", w.Code, w.Header())
	}
	close(client.read)
	all.Wait()
	w = httptest.NewRecorder()
	if ask(w); w.Code != 200 {
		t.Errorf("later: %d", w.Code)
	}
}

// TestNoTorrent wants 404 for what is not baked, or whose name is another's.
func TestNoTorrent(t *testing.T) {
	b := newBakery(t, 50_000, bake.Options{})
	url := serve(t, b.store.db, b.options())
	o := b.options()
	o.Cache.Contents = nil
	other := b.root
	other[0]++
	leaf := eris.BlockRef(b.blocks[:eris.Size32KiB])
	for _, path := range []string{
		publish.TorrentDir, publish.TorrentDir + "x", b.path() + "A", publish.TorrentDir + strings.ToLower(b.root.String()),
		publish.TorrentDir + other.String(), publish.TorrentDir + leaf.String(), b.path() + "/x",
		b.path() + ".torrent", b.path() + ".torrent.torrent", publish.TorrentDir + b.info.Path.Base(),
	} {
		if got := do(t, "GET", url+path); got.StatusCode != 404 {
			t.Errorf("%s: %s", path, got.Status)
		}
	}
	if got := do(t, "POST", url+b.path()); got.StatusCode != 405 {
		t.Errorf("POST: %s", got.Status)
	}
	for what, server := range map[string]string{"without contents": serve(t, b.store.db, o), "without a cache": serve(t, b.store.db, publish.Options{})} {
		if got := do(t, "GET", server+b.path()); got.StatusCode != 404 {
			t.Errorf("%s: %s", what, got.Status)
		}
	}
	if err := os.Remove(filepath.Join(b.cache.Dir(), b.info.Path.Hash+".narinfo")); err != nil {
		t.Fatal(err)
	}
	if got := do(t, "GET", url+b.path()); got.StatusCode != 404 {
		t.Errorf("without a narinfo: %s", got.Status)
	}
}

// TestBrokenTorrent: nothing that is not what was encoded leaves, and what is cut
// does not look whole.
func TestBrokenTorrent(t *testing.T) {
	b := newBakery(t, 1_500_000, bake.Options{Torrents: true})
	var log bytes.Buffer
	o := b.options()
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	url := serve(t, b.store.db, o)
	at := int64(len(b.blocks) / 2)
	f, err := os.OpenFile(filepath.Join(b.cache.Dir(), "nar/zstd", b.info.Path.Base()), os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("spoiled"), at)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	got := do(t, "GET", url+b.path())
	if got.err == nil || int64(len(got.body)) > at || !bytes.HasPrefix(b.blocks, got.body) || len(got.body) == 0 {
		t.Errorf("%s, %d bytes of %d, %v", got.Status, len(got.body), len(b.blocks), got.err)
	}
	if got := do(t, "GET", url+b.path(), "Range", "bytes=-32768"); got.err != nil || !bytes.HasSuffix(b.blocks, got.body) {
		t.Errorf("the root: %s, %v", got.Status, got.err)
	}
	if err := os.WriteFile(filepath.Join(b.cache.Dir(), "eris/torrent", b.info.Path.Base()), []byte("d"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := do(t, "GET", url+b.path()+".torrent"); got.StatusCode != 503 {
		t.Errorf("a torrent that is none: %s", got.Status)
	}
	if !strings.Contains(log.String(), "sending a torrent") || !strings.Contains(log.String(), "reading a torrent") {
		t.Errorf("log:\n%s", log.String())
	}
}

// TestAria2: another program downloads by the .torrent, with this server as its
// one source.
func TestAria2(t *testing.T) {
	program, err := exec.LookPath("aria2c")
	if err != nil {
		t.Skip("no aria2c (Debian package aria2)")
	}
	b := newBakery(t, 3_000_000, bake.Options{Torrents: true})
	url := serve(t, b.store.db, b.options())
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--no-conf", "--dir="+dir, "--follow-torrent=mem", "--seed-time=0",
		"--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false",
		"--interface=127.0.0.1", "--check-integrity=true", "--file-allocation=none", url+b.path()+".torrent").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(dir, b.root.String()))
	if err != nil || !bytes.Equal(got, b.blocks) {
		t.Errorf("%d bytes, want %d; %v\n%s", len(got), len(b.blocks), err, out)
	}
}
