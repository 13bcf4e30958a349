package upstream

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/transport/httpclient"
	"ersatz/narinfo"
)

// TestPeerLeadsNowhere has a peer that would have this machine ask another host
// in its place, in every way there is.
func TestPeerLeadsNowhere(t *testing.T) {
	var elsewhere atomic.Int32
	victim := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		elsewhere.Add(1)
		io.WriteString(w, digits)
	}))
	defer victim.Close()
	var told atomic.Int32
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(OnlyKept) == "1" {
			told.Add(1)
		}
		if r.URL.Path == "/p/here" {
			io.WriteString(w, digits)
			return
		}
		http.Redirect(w, r, victim.URL+r.URL.Path, http.StatusFound)
	}))
	defer hs.Close()
	sv, err := ParsePeer(hs.URL + "/p")
	must(t, err)
	c := newClient(t, Options{})

	for _, ref := range []string{"here", hs.URL + "/p/here"} {
		body, err := c.Open(t.Context(), sv, ref)
		must(t, err)
		text, err := io.ReadAll(body)
		must(t, err)
		must(t, body.Close())
		if string(text) != digits {
			t.Errorf("%s: %q", ref, text)
		}
	}
	if told.Load() != 2 {
		t.Errorf("%d requests of 2 say that they come from a peer", told.Load())
	}
	for _, ref := range []string{"away", victim.URL + "/x", "https://" + strings.TrimPrefix(hs.URL, "http://") + "/p/here", "http://" + sv.base.Hostname() + ":1/"} {
		if _, err := c.Open(t.Context(), sv, ref); err == nil {
			t.Errorf("%s is followed", ref)
		}
		if _, err := c.OpenRange(t.Context(), sv, ref, Range{}); err == nil {
			t.Errorf("a range of %s is followed", ref)
		}
		if _, err := c.OpenNar(t.Context(), Offer{sv, narinfo.Nar{URL: ref}}, &Build{}); err == nil {
			t.Errorf("a nar at %s is followed", ref)
		}
	}
	if a := c.AskHash(t.Context(), []*Server{sv}, hash)[0]; a.Err == nil {
		t.Errorf("a narinfo from elsewhere: %q", a.Text)
	}
	source, ok := c.Blocks(sv)
	if !ok || source.Near {
		t.Fatalf("blocks of a peer: %v, %+v", ok, source)
	}
	sv.SetNear(true)
	if source, _ := c.Blocks(sv); !source.Near {
		t.Error("a near server is far as a source of blocks")
	}
	err = source.Fetcher.Fetch(t.Context(), eris.Size1KiB, []eris.Ref{{1}}, func(int, []byte) error { return nil })
	if err == nil || elsewhere.Load() != 0 {
		t.Errorf("blocks: %v; %d requests went elsewhere", err, elsewhere.Load())
	}
	for _, url := range []string{"file:///gnu", "ftp://h", "http://h/?q"} {
		if _, err := ParsePeer(url); err == nil {
			t.Errorf("%s is a peer", url)
		}
	}
}

// TestPeerIsNotCached: what peers say takes no place on disk, whatever they say
// of how long it holds; that one does not answer is kept for a moment.
func TestPeerIsNotCached(t *testing.T) {
	var asked atomic.Int32
	release := make(chan struct{})
	text := fields(t, nil).Body()
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Cache-Control", "max-age=3600")
		switch r.URL.Path {
		case "/" + hash + ".narinfo":
			w.Write(text)
		case "/hangs/" + hash + ".narinfo":
			<-release
		default:
			http.NotFound(w, r)
		}
	}))
	defer hs.Close()
	defer close(release)
	c := New(httpclient.New(httpclient.Options{Idle: 500 * time.Millisecond}), []string{t.TempDir()}, Options{})
	defer c.Close()
	for i, x := range []struct{ path, hash string }{{"", hash}, {"", strings.Repeat("7", 32)}, {"/hangs", hash}} {
		sv, err := ParsePeer(hs.URL + x.path)
		must(t, err)
		first := c.AskHash(t.Context(), []*Server{sv}, x.hash)[0]
		again := c.AskHash(t.Context(), []*Server{sv}, x.hash)[0]
		if fmt.Sprint(first.Err == nil, errors.Is(first.Err, fs.ErrNotExist)) != fmt.Sprint(i == 0, i == 1) || i < 2 && first.Expires.IsZero() {
			t.Errorf("%s%s: %+v", x.path, x.hash, first)
		}
		if want := []int32{2, 4, 5}[i]; asked.Load() != want || again.Err == nil != (i == 0) {
			t.Errorf("%s%s: %d requests, want %d; %v", x.path, x.hash, asked.Load(), want, again.Err)
		}
	}
}
