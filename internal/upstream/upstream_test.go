package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/transport/httpclient"
	"ersatz/narinfo"
	"ersatz/storepath"
)

const hash = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func parsePath(t testing.TB, s string) storepath.Path {
	t.Helper()
	p, err := storepath.Parse(s)
	must(t, err)
	return p
}

// fields returns those of an item with a size, in the state that change makes.
func fields(t testing.TB, change func(*narinfo.Fields)) narinfo.Fields {
	t.Helper()
	f := narinfo.Fields{StorePath: parsePath(t, "/gnu/store/"+hash+"-item-1.0"), NarHash: [32]byte{1}, NarSize: 2 << 20}
	if change != nil {
		change(&f)
	}
	return f
}

func serve(t testing.TB, h http.HandlerFunc) *Server {
	t.Helper()
	hs := httptest.NewServer(h)
	t.Cleanup(hs.Close)
	return server(t, hs.URL)
}

func server(t testing.TB, url string) *Server {
	t.Helper()
	sv, err := ParseServer(url)
	must(t, err)
	return sv
}

func newClient(t testing.TB, o Options, dirs ...string) *Client {
	t.Helper()
	hc := httpclient.New(httpclient.Options{Idle: 5 * time.Second})
	c := New(hc, dirs, o)
	t.Cleanup(func() {
		must(t, c.Close())
		hc.CloseIdleConnections()
	})
	return c
}

func TestParseServer(t *testing.T) {
	for _, bad := range []string{"", ":", "ftp://a", "http://", "http://a/?b", "http://a#b", "file://host/x", "file:x", "/x"} {
		if _, err := ParseServer(bad); err == nil {
			t.Errorf("%q is a server", bad)
		}
	}
	sv := server(t, "http://a.example/b//")
	if sv.String() != "http://a.example/b" || sv.IsFolder() || !server(t, "file:///x/").IsFolder() {
		t.Errorf("server is %s", sv)
	}
}

// TestPassword: what is printed and logged has no password; what is asked for has.
func TestPassword(t *testing.T) {
	const whole, shown = "http://me:secret@a.example/b", "http://me:xxxxx@a.example/b"
	sv := server(t, whole)
	u, err := sv.Resolve("nar/x")
	if err != nil || sv.URL() != whole || u.String() != whole+"/nar/x" {
		t.Errorf("%s, %s, %v", sv.URL(), u, err)
	}
	offer := Offer{Server: sv, Nar: narinfo.Nar{URL: "nar/x"}}
	if sv.String() != shown || offer.URL() != shown+"/nar/x" {
		t.Errorf("%s, %s", sv, offer.URL())
	}
}

func TestResolve(t *testing.T) {
	for _, c := range []struct{ server, ref, want string }{
		{"http://a/b", "nar/x", "http://a/b/nar/x"},
		{"http://a/b", "/nar/x", "http://a/b/nar/x"},
		{"http://a/b", "https://c/x", "https://c/x"},
		{"http://a/b", "file:///etc/passwd", ""},
		{"http://a/b", "//c/x", ""},
		{"http://a/b", "gopher://c/x", ""},
		{"file:///b", "nar/x", "file:///b/nar/x"},
		{"file:///b", "../x", ""},
		{"file:///b", "%2e%2e/x", ""},
		{"file:///b", "http://c/x", ""},
	} {
		u, err := server(t, c.server).Resolve(c.ref)
		if err != nil && c.want != "" || err == nil && u.String() != c.want {
			t.Errorf("%s at %s is %v, %v", c.ref, c.server, u, err)
		}
	}
}

// TestBlocks: what is learnt of a server is kept with it.
func TestBlocks(t *testing.T) {
	c := newClient(t, Options{})
	sv := server(t, "http://a.example/b")
	first, ok := c.Blocks(sv)
	again, ok2 := c.Blocks(sv)
	if !ok || !ok2 || first.Name != "http://a.example/b" || first.Fetcher != again.Fetcher {
		t.Errorf("sources are %+v and %+v", first, again)
	}
	if _, ok := c.Blocks(server(t, "file:///x")); ok {
		t.Error("a folder has blocks")
	}
}

// TestAskHash asks by the hash part alone, and of the cache by either.
func TestAskHash(t *testing.T) {
	text := fields(t, nil).Body()
	var asked atomic.Int32
	sv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path != "/"+hash+".narinfo" {
			w.Header().Set("Cache-Control", "max-age=60")
			http.NotFound(w, r)
			return
		}
		w.Write(text)
	})
	var hours atomic.Int64 // the sweep of the cache looks at the clock too
	now := func() time.Time { return time.Unix(1_700_000_000+3600*hours.Load(), 0) }
	c := newClient(t, Options{Now: now}, t.TempDir())
	want := now().Add(foundTTL)
	for range 2 {
		a := c.AskHash(t.Context(), []*Server{sv}, hash)[0]
		if a.Err != nil || !bytes.Equal(a.Text, text) || !a.Expires.Equal(want) || a.Server != sv {
			t.Fatalf("answer %+v, want it until %v", a, want)
		}
		b := c.Ask(t.Context(), []*Server{sv}, []storepath.Path{fields(t, nil).StorePath})[0][0]
		if b.Err != nil || !bytes.Equal(b.Text, text) || !b.Expires.Equal(want) {
			t.Fatalf("answer %+v", b)
		}
		hours.Add(1) // the answer expires when it did
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
	a := c.AskHash(t.Context(), []*Server{sv}, strings.Repeat("c", 32))[0]
	if !errors.Is(a.Err, fs.ErrNotExist) || !a.Expires.Equal(now().Add(time.Minute)) {
		t.Errorf("what nobody has: %+v", a)
	}
	for _, bad := range []string{"", slowMark, "../" + hash, strings.Repeat("e", 32)} {
		if a := c.AskHash(t.Context(), []*Server{sv}, bad); len(a) != 1 || !errors.Is(a[0].Err, fs.ErrNotExist) {
			t.Errorf("hash part %q: %+v", bad, a)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("%d requests", n)
	}
}

// TestOfAnotherHash: a narinfo of another item is an answer, for Choose to
// refuse, but not one to keep.
func TestOfAnotherHash(t *testing.T) {
	for name, text := range map[string][]byte{"another item": fields(t, nil).Body(), "a page": []byte("<html>\n"), "nothing": nil} {
		sv := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Write(text) })
		c := newClient(t, Options{}, t.TempDir())
		other := strings.Repeat("c", 32)
		a := c.AskHash(t.Context(), []*Server{sv}, other)[0]
		if a.Err != nil || a.Text == nil || !a.Expires.IsZero() {
			t.Errorf("%s: %+v", name, a)
		}
		if _, ok := c.cache.get(sv, other); ok {
			t.Errorf("%s is kept", name)
		}
	}
}

func TestNotToBeKept(t *testing.T) {
	c := newClient(t, Options{}, t.TempDir())
	once := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=0")
		w.Write(fields(t, nil).Body())
	})
	broken := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusBadGateway) })
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, hash+".narinfo"), fields(t, nil).Body(), 0o644))
	folder := server(t, "file://"+dir)
	for i, a := range c.AskHash(t.Context(), []*Server{once, folder, broken}, hash) {
		if !a.Expires.IsZero() || (a.Err != nil) != (i == 2) || errors.Is(a.Err, fs.ErrNotExist) {
			t.Errorf("%s: %+v", a.Server, a)
		}
		if _, ok := c.cache.get(a.Server, hash); ok {
			t.Errorf("%s: answer is kept", a.Server)
		}
	}
	if got := c.Ask(t.Context(), nil, []storepath.Path{fields(t, nil).StorePath}); len(got) != 1 || len(got[0]) != 0 {
		t.Errorf("no server says %v", got)
	}
}

func TestProgress(t *testing.T) {
	text := fields(t, nil).Body()
	sv := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(text) })
	var mu sync.Mutex
	var said []string
	c := newClient(t, Options{Progress: func(pending []Pending) func(int) {
		said = append(said, fmt.Sprint(len(pending), pending[0].Count))
		return func(i int) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, fmt.Sprint("answer of ", i))
		}
	}}, t.TempDir())
	for range 2 {
		c.AskHash(t.Context(), []*Server{sv}, hash)
	}
	if got := strings.Join(said, ", "); got != "1 1, answer of 0, 1 0" {
		t.Errorf("said %s", got)
	}
}

// TestTextsAreBounded: what a server may answer to one request.
func TestTextsAreBounded(t *testing.T) {
	l := lookup{most: 10}
	if err := l.count(make([]byte, 10)); err != nil {
		t.Error(err)
	}
	if err := l.count(make([]byte, 1)); err == nil || !l.kill(err) || l.kill(err) || l.dead.Load() == nil {
		t.Errorf("error %v", err)
	}
}

// TestDailySweep: a process that goes on for days sweeps every day.
func TestDailySweep(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := New(&http.Client{}, []string{dir}, Options{})
		synctest.Wait()
		sv := server(t, "http://a.example")
		c.cache.put(sv, hash, []byte("text"), time.Now().Add(time.Hour))
		for day, want := range []bool{true, false} {
			synctest.Wait()
			if _, err := os.Stat(c.cache.file(sv, hash)); (err == nil) != want {
				t.Errorf("day %d: %v", day, err)
			}
			time.Sleep(sweepEvery + time.Minute)
		}
		must(t, c.Close())
	})
}

func TestClasses(t *testing.T) {
	for _, c := range []struct {
		err             error
		waited, brokeOf bool
	}{
		{httpclient.ErrIdle, true, false},
		{context.DeadlineExceeded, true, false},
		{fmt.Errorf("get: %w", io.ErrUnexpectedEOF), false, true},
		{fs.ErrNotExist, false, false},
		{&statusError{"502 Bad Gateway"}, false, false},
	} {
		if Waited(c.err) != c.waited || BrokeOff(c.err) != c.brokeOf {
			t.Errorf("%v: waited %v, broke off %v", c.err, Waited(c.err), BrokeOff(c.err))
		}
	}
}

// signed has what is signed by k count.
func signed(k *guixsig.PrivateKey) Judge {
	acl := guixsig.ACL{}.Add(k.Public())
	return func(n *narinfo.Narinfo) (narinfo.Signed, error) { return n.VerifyGuix(acl) }
}
