package publish_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"ersatz/internal/metrics"
	"ersatz/internal/publish"
	"ersatz/internal/storedb"
	"ersatz/internal/upstream"
	"ersatz/internal/web"
)

// newQuick returns a server of what a baker has.
func newQuick(t testing.TB, baker *fakeBaker, o publish.Options) *publish.Server {
	t.Helper()
	o.Cache = baker.cache()
	if o.Log == nil {
		o.Log = discard()
	}
	s, err := publish.New(fixedStore{}, signer(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// exchangeBytes sends a request over a connection of its own, and returns all
// bytes of the answer, but those of Date.
func exchangeBytes(t *testing.T, addr, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprint(c, request+"GET /end HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(c); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\r\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "Date: ") {
			if _, err := time.Parse(http.TimeFormat, line[len("Date: "):]); err != nil {
				t.Errorf("%q: %v", line, err)
			}
			lines[i] = "Date: "
		}
	}
	return strings.Join(lines, "\r\n")
}

// TestQuickIsTheSame: what is answered from memory, and of nars from their
// files, is, byte for byte, what net/http would send.
func TestQuickIsTheSame(t *testing.T) {
	baker := newFakeBaker(t)
	hash := hashOf("a")
	baker.write(t, hash+".narinfo", []byte("StorePath: /gnu/store/x\n"))
	baker.write(t, hashOf("b")+".narinfo", nil)
	base := hash + "-x++-1.0_a=b"
	escaped := hash + "-x%2B%2b-1.0_a%3Db"
	for _, dir := range []string{"nar/", "x/"} {
		baker.write(t, dir+base, bytes.Repeat([]byte("nar"), web.Piece))
		baker.write(t, dir+"zstd/"+base, []byte("zstd"))
		baker.write(t, dir+"lzip/"+base, nil)
		baker.write(t, dir+"gzip/"+base+"/y", []byte("in a folder"))
		baker.write(t, dir+"other/"+base, []byte("other"))
	}
	for _, o := range []publish.Options{{}, {TTL: time.Hour, NarPath: "x"}} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		var addrs, counts [2]string
		var regs [2]*prometheus.Registry
		atOnce, nars := 0, "/nar/"
		if o.NarPath != "" {
			nars = "/" + o.NarPath + "/"
		}
		var tags [2]string // of the nar, and of another one
		for i, name := range []string{base, "zstd/" + base} {
			fi, err := os.Stat(filepath.Join(baker.dir, nars, name))
			if err != nil {
				t.Fatal(err)
			}
			tags[i] = fmt.Sprintf(`"%x-%x"`, fi.Size(), fi.ModTime().UnixNano())
		}
		for i := range addrs {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			addrs[i] = l.Addr().String()
			regs[i] = prometheus.NewRegistry()
			o.Requests = metrics.NewRequests(regs[i], metrics.Web)
			s := newQuick(t, baker, o)
			go func() {
				if i == 0 {
					done <- web.Serve(ctx, []net.Listener{l}, s, discard())
				} else {
					done <- web.ServeQuick(ctx, []net.Listener{l}, s, counter{s, &atOnce}, discard())
				}
			}()
		}
		const host = " HTTP/1.1\r\nHost: h\r\n"
		for _, request := range []string{
			"GET /" + hash + ".narinfo" + host + "\r\n",
			"HEAD /" + hash + ".narinfo" + host + "\r\n",
			"GET /" + hashOf("b") + ".narinfo" + host + "User-Agent: x\r\n\r\n",
			"GET /" + hash + ".narinfo" + host + "Range: bytes=1-3\r\n\r\n",
			"GET /" + hash + ".narinfo?x" + host + "\r\n",
			"GET //" + hash + ".narinfo" + host + "\r\n",
			"GET /" + hashOf("c") + ".narinfo" + host + "\r\n",
			"GET /" + strings.ToUpper(hash) + ".narinfo" + host + "\r\n",
			"GET /" + strings.Repeat(".", 32) + ".narinfo" + host + "\r\n",
			"GET /healthz" + host + "\r\n",
			"GET " + nars + base + host + "\r\n",
			"HEAD " + nars + base + host + "\r\n",
			"GET " + nars + "zstd/" + base + host + "\r\nHEAD " + nars + "zstd/" + base + host + "\r\n",
			"GET " + nars + "zstd/" + base + host + "Range: bytes=1-\r\n\r\n",
			"HEAD " + nars + "zstd/" + base + host + "Range: bytes=-2\r\n\r\n",
			"GET " + nars + base + host + "Range: bytes=3-700000\r\n\r\nGET " + nars + base + host + "Range: bytes=3-7\r\n\r\n",
			"GET " + nars + base + host + "Range: bytes=70000-900000\r\nIf-Range: " + tags[0] + "\r\n\r\n",
			"GET " + nars + escaped + host + "\r\n",
			"GET " + nars + "z%73td/" + escaped + host + "Range: bytes=0-0\r\n\r\n",
			"GET /" + strings.Replace(hash, "a", "%61", 1) + ".narinfo" + host + "\r\n",

			// A node asks so.
			"GET /" + hash + ".narinfo" + host + upstream.OnlyKept + ": 1\r\n\r\n",
			"GET " + nars + base + host + upstream.OnlyKept + ": 1\r\n\r\n",

			"GET " + nars + base + host + "Range: bytes=3-\r\nIf-Range: W/" + tags[0] + "\r\n\r\n",
			"GET " + nars + base + host + "Range: bytes=3-\r\nIf-Range: " + tags[0] + "x\r\n\r\n",
			"GET " + nars + base + host + "Range: bytes=3-\r\nIf-Range: " + tags[1] + "\r\n\r\n",
			"GET " + nars + base + host + "Range: bytes=3-\r\nIf-Range: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n",
			"GET " + nars + base + host + "If-Range: " + tags[0] + "\r\n\r\n",
			"GET " + nars + base + host + "Range: bytes=1-2\r\nRange: bytes=3-4\r\n\r\n",
			"GET " + nars + base + host + "Range: bytes=1-2\r\nIf-None-Match: " + tags[0] + "\r\n\r\n",
			"GET " + nars + base + host + "Range: bytes=9999999-\r\n\r\n",
			"GET " + nars + base + host + "Range: bytes=-0\r\n\r\n",
			"GET " + nars + base + host + "Range: bytes=2-1\r\n\r\n",
			"GET " + nars + base + host + "Range: bytes= 1-2\r\n\r\n",
			"GET " + nars + base + host + "Range: lines=1-2\r\n\r\n",
			"GET " + nars + base + host + "Range:\r\n\r\n",
			"GET " + nars + "lzip/" + base + host + "Range: bytes=0-\r\n\r\n",
			"GET " + nars + "none/" + base + host + "Range: bytes=0-\r\n\r\n",
			"GET " + nars + strings.Replace(escaped, "%2b", "%252b", 1) + host + "\r\n",
			"GET " + nars + escaped + "%3Fx" + host + "\r\n",
			"GET " + nars + escaped + "?x" + host + "\r\n",
			"GET " + nars + escaped + "%00" + host + "\r\n",
			"GET " + nars + escaped + "%" + host + "\r\n",
			"GET " + nars + escaped + "%2" + host + "\r\n",
			"GET " + nars + escaped + "%zz" + host + "\r\n",
			"GET " + nars + "zstd%2F" + base + host + "\r\n",
			"GET " + nars + "%2E%2E/" + nars[1:] + base + host + "\r\n",
			"GET " + nars + "zstd/%2e/" + base + host + "\r\n",
			"GET %2F" + nars[1:] + base + host + "\r\n",
			"GET " + nars + "lzip/" + base + host + "\r\n",
			"GET " + nars + "gzip/" + base + host + "\r\n",
			"GET " + nars + "gzip/" + base + "/y" + host + "\r\n",
			"GET " + nars + "other/" + base + host + "\r\n",
			"GET " + nars + "none/" + base + host + "\r\n",
			"GET " + nars + "/" + base + host + "\r\n",
			"GET " + nars + "zstd/../" + base + host + "\r\n",
			"GET " + nars + "zstd/" + hashOf("b") + "-x" + host + "\r\n",
			"GET " + nars + host + "\r\n",
			"GET /other/" + base + host + "\r\n",
		} {
			if slow, quick := exchangeBytes(t, addrs[0], request), exchangeBytes(t, addrs[1], request); slow != quick {
				t.Errorf("%q:\n%s\nnot\n%s", request, quick, slow)
			}
		}
		cancel()
		for range addrs {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if atOnce != 5+13 {
			t.Errorf("%d answered at once", atOnce)
		}
		for i, reg := range regs {
			w := httptest.NewRecorder()
			metrics.Handler(reg).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
			counts[i] = w.Body.String()
		}
		if counts[0] != counts[1] {
			t.Errorf("counted\n%s\nnot\n%s", counts[1], counts[0])
		}
	}
}

// counter counts what is answered before net/http.
type counter struct {
	*publish.Server
	quick *int // requests come one after the other
}

func (c counter) Quick(r web.Request) (web.Answer, bool) {
	a, ok := c.Server.Quick(r)
	if ok {
		*c.quick++
	}
	return a, ok
}

// TestQuickNotices: what another process does to a narinfo is noticed within a
// second, and what was not there at once.
func TestQuickNotices(t *testing.T) {
	baker := newFakeBaker(t)
	s := newQuick(t, baker, publish.Options{})
	hash, now := hashOf("a"), time.Unix(1e9, 0)
	file := filepath.Join(baker.dir, hash+".narinfo")
	ask := func(after time.Duration) string {
		a, _ := s.Quick(web.Request{Path: []byte("/" + hash + ".narinfo"), Time: now.Add(after)})
		return string(a.Body)
	}
	if got := ask(0); got != "" {
		t.Errorf("before the bake: %q", got)
	}
	baker.write(t, hash+".narinfo", []byte("old"))
	if got := ask(0); got != "old" {
		t.Errorf("after the bake: %q", got)
	}
	baker.write(t, hash+".narinfo", []byte("new"))
	if got := ask(time.Second - 1); got != "old" && got != "new" {
		t.Errorf("%q", got)
	}
	if got := ask(time.Second); got != "new" {
		t.Errorf("a second after a bake: %q", got)
	}
	// In place, with the same size and the same time.
	fi, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("NEW"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, fi.ModTime(), fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	if got := ask(2 * time.Second); got != "NEW" {
		t.Errorf("changed in place: %q", got)
	}
	baker.write(t, hash+".narinfo", []byte("newest"))
	if got := ask(-time.Hour); got != "newest" {
		t.Errorf("after the clock was set back: %q", got)
	}
	if len(baker.touched) != 4 {
		t.Errorf("touched %q", baker.touched)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := ask(3 * time.Second); got != "" {
		t.Errorf("removed: %q", got)
	}
	baker.write(t, hash+".narinfo", bytes.Repeat([]byte("x"), 1<<20))
	if got := ask(3 * time.Second); got != "" {
		t.Errorf("%d bytes in memory", len(got))
	}
}

// TestQuickLive: a narinfo that was signed on request is in memory for a second,
// and the store is asked each second.
func TestQuickLive(t *testing.T) {
	p := guixPath(t, hashOf("a")+"-x")
	store := fixedStore{p.Hash: {Path: p, NarSize: 1}}
	baker := newFakeBaker(t)
	for _, o := range []publish.Options{{TTL: time.Hour}, {Cache: baker.cache()}} {
		o.Log = discard()
		s, err := publish.New(store, signer(t), o)
		if err != nil {
			t.Fatal(err)
		}
		request := web.Request{Path: []byte("/" + p.Hash + ".narinfo")}
		// quick returns what is in memory some time after it was asked for.
		quick := func(after time.Duration) (text string) {
			request.Time = time.Now().Add(after)
			a, ok := s.Quick(request)
			if ok {
				text = string(a.Head) + "\r\n" + string(a.Body)
			}
			return text
		}
		slow := func() string {
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, string(request.Path), nil))
			var b bytes.Buffer
			fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", w.Code, http.StatusText(w.Code))
			if err := w.Result().Header.Write(&b); err != nil {
				t.Error(err)
			}
			return b.String() + "\r\n" + w.Body.String()
		}
		if got := quick(0); got != "" {
			t.Errorf("before it was asked for: %q", got)
		}
		first := slow()
		if got := quick(0); got != first || !strings.Contains(got, "NarSize: 1\n") {
			t.Errorf("%q\nnot\n%q", got, first)
		}
		if got := quick(time.Second); got != "" {
			t.Errorf("a second later: %q", got)
		}
		store[p.Hash] = storedb.Info{Path: p, NarSize: 2}
		second := slow()
		if got := quick(0); got != second || !strings.Contains(got, "NarSize: 2\n") {
			t.Errorf("%q\nnot\n%q", got, second)
		}
		store[p.Hash] = storedb.Info{Path: p, NarSize: 1}
		if got := slow(); got != first {
			t.Errorf("%q\nnot\n%q", got, first)
		}
		item := store[p.Hash]
		delete(store, p.Hash)
		if got := slow(); !strings.HasPrefix(got, "HTTP/1.1 404 ") {
			t.Errorf("no longer valid: %q", got)
		}
		if got := quick(time.Second); got != "" {
			t.Errorf("no longer valid: %q", got)
		}
		store[p.Hash] = item
		if o.Cache != nil {
			slow()
			baker.write(t, p.Hash+".narinfo", []byte("baked"))
			if got := quick(0); !strings.HasSuffix(got, "\r\n\r\nbaked") {
				t.Errorf("baked meanwhile: %q", got)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestSignedOnce: an item is signed once, as long as the store says the same of
// it: ECDSA takes most of the memory of an answer, and of the time.
func TestSignedOnce(t *testing.T) {
	p := guixPath(t, hashOf("a")+"-x")
	s, err := publish.New(fixedStore{p.Hash: {Path: p}}, signer(t), publish.Options{Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() {
		s.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/"+p.Hash+".narinfo", nil))
	}
	if n := testing.AllocsPerRun(50, ask); n > 40 {
		t.Errorf("%v allocations", n)
	}
}

// TestQuickMemory: it stays within its bound however many there are, and one
// that was forgotten is read again.
func TestQuickMemory(t *testing.T) {
	const names, text = 1200, 60 << 10
	baker := newFakeBaker(t)
	s := newQuick(t, baker, publish.Options{})
	first := filepath.Join(baker.dir, "text")
	if err := os.WriteFile(first, make([]byte, text), 0o644); err != nil {
		t.Fatal(err)
	}
	for i := range names {
		hash := fmt.Sprintf("%032d", i)
		if err := os.Link(first, filepath.Join(baker.dir, hash+".narinfo")); err != nil {
			t.Fatal(err)
		}
		if _, ok := s.Quick(web.Request{Path: []byte("/" + hash + ".narinfo"), Time: time.Unix(1e9, 0)}); !ok {
			t.Fatal(hash)
		}
	}
	count, size := s.Remembered()
	if size > 64<<20 || count < 1000 || count == names {
		t.Errorf("%d of %d in %d bytes", count, names, size)
	}
	for i := range names {
		if _, ok := s.Quick(web.Request{Path: fmt.Appendf(nil, "/%032d.narinfo", i), Time: time.Unix(1e9, 0)}); !ok {
			t.Error(i)
		}
	}
}

// TestQuickDebug: a log of requests has all of them.
func TestQuickDebug(t *testing.T) {
	baker := newFakeBaker(t)
	baker.write(t, hashOf("a")+".narinfo", []byte("text"))
	s := newQuick(t, baker, publish.Options{Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if _, ok := s.Quick(web.Request{Path: []byte("/" + hashOf("a") + ".narinfo"), Time: time.Unix(1e9, 0)}); ok {
		t.Error("not logged")
	}
	bare, err := publish.New(fixedStore{}, signer(t), publish.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := bare.Quick(web.Request{Path: []byte("/" + hashOf("a") + ".narinfo"), Time: time.Unix(1e9, 0)}); ok {
		t.Error("without a cache")
	}
}

// TestQuickAllocates: a narinfo that is remembered takes no memory.
func TestQuickAllocates(t *testing.T) {
	baker := newFakeBaker(t)
	baker.write(t, hashOf("a")+".narinfo", []byte("text"))
	s := newQuick(t, baker, publish.Options{Requests: metrics.NewRequests(prometheus.NewRegistry(), metrics.Web)})
	r := web.Request{Path: []byte("/" + hashOf("a") + ".narinfo"), Time: time.Unix(1e9, 0)}
	if n := testing.AllocsPerRun(100, func() {
		if _, ok := s.Quick(r); !ok {
			t.Error("not answered")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestQuickNarAllocates: what a nar takes is its name, its file, and little more.
func TestQuickNarAllocates(t *testing.T) {
	baker := newFakeBaker(t)
	name := "nar/zstd/" + hashOf("a") + "-x"
	baker.write(t, name, []byte("nar"))
	s := newQuick(t, baker, publish.Options{TTL: time.Hour})
	r := web.Request{Path: []byte("/" + name), Range: []byte("bytes=1-"), Buffer: make([]byte, 0, 512), Time: time.Unix(1e9, 0)}
	if n := testing.AllocsPerRun(100, func() {
		a, ok := s.Quick(r)
		if !ok || a.File.Close() != nil {
			t.Error("not answered")
		}
	}); n > 3 {
		t.Errorf("%v allocations", n)
	}
}

// TestQuickNarTouches: that a nar was asked for is noted once in a second, and
// for each item.
func TestQuickNarTouches(t *testing.T) {
	baker := newFakeBaker(t)
	s := newQuick(t, baker, publish.Options{})
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		item    string
		after   time.Duration
		touched int
	}{
		{"a", 0, 1}, {"a", time.Second - 1, 1}, {"b", time.Second - 1, 2}, {"a", time.Second, 3}, {"a", time.Second, 3}, {"a", 0, 4},
	} {
		name := "nar/zstd/" + hashOf(c.item) + "-x"
		baker.write(t, name, []byte("nar"))
		a, ok := s.Quick(web.Request{Path: []byte("/" + name), Time: now.Add(c.after)})
		if !ok || a.File.Close() != nil {
			t.Fatal("not answered")
		}
		if len(baker.touched) != c.touched {
			t.Errorf("%s, %v later: touched %q", c.item, c.after, baker.touched)
		}
	}
}
