package publish_test

import (
	"bytes"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/guixsig"
	"ersatz/internal/bake"
	"ersatz/internal/publish"
	"ersatz/narinfo"
	"ersatz/nixsig"
)

func nixKey(t testing.TB) *nixsig.SecretKey {
	t.Helper()
	key, err := nixsig.GenerateKey("test-1", bytes.NewReader(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return &key
}

// TestNix: what a server says with a key of Nix alone, and with both.
func TestNix(t *testing.T) {
	store := newScratch(t)
	info := store.tree(t, hashOf("a")+"-item", 5000)
	key := nixKey(t)
	for name, signer := range map[string]bake.Signer{"Nix": {Nix: key}, "both": {Nix: key, Guix: signingKey(t), Host: host}} {
		t.Run(name, func(t *testing.T) {
			url := serveAs(t, store.db, signer, publish.Options{})
			n, err := narinfo.Parse(do(t, http.MethodGet, url+"/"+info.Path.Hash+".narinfo").body)
			if err != nil {
				t.Fatal(err)
			}
			if signed, err := n.VerifyNix([]nixsig.PublicKey{key.Public()}); err != nil || signed.StorePath != info.Path || signed.NarSize != info.NarSize {
				t.Errorf("%+v, %v", signed, err)
			}
			_, err = n.VerifyGuix(guixsig.ACL{}.Add(signingKey(t).Public()))
			if forGuix := name == "both"; (err == nil) != forGuix {
				t.Errorf("for Guix: %v", err)
			}
			if got := do(t, http.MethodGet, url+"/nix-cache-info"); !strings.Contains(string(got.body), "\nWantMassQuery: 1\nPriority: 30\n") {
				t.Errorf("nix-cache-info: %s", got.body)
			}
			if got := do(t, http.MethodGet, url+"/nix-key.pub"); got.StatusCode != 200 || string(got.body) != key.Public().String()+"\n" {
				t.Errorf("key: %s, %s", got.Status, got.body)
			}
			want := map[string]int{"Nix": 404, "both": 200}[name]
			if got := do(t, http.MethodGet, url+"/signing-key.pub"); got.StatusCode != want {
				t.Errorf("key of Guix: %s", got.Status)
			}
			home := string(do(t, http.MethodGet, url+"/").body)
			if !strings.Contains(home, `"nix-key.pub"`) || strings.Contains(home, `"signing-key.pub"`) != (want == 200) {
				t.Errorf("home: %s", home)
			}
		})
	}
	url := serve(t, store.db, publish.Options{})
	if got := do(t, http.MethodGet, url+"/nix-key.pub"); got.StatusCode != 404 {
		t.Errorf("key of Nix, without one: %s", got.Status)
	}
	if home := string(do(t, http.MethodGet, url+"/").body); strings.Contains(home, "nix-key") {
		t.Errorf("home: %s", home)
	}
}

// TestNoThreshold: with the greatest threshold every item is served while it
// is baked, also if the queue is full.
func TestNoThreshold(t *testing.T) {
	store := newScratch(t)
	info := store.tree(t, hashOf("b")+"-large", 5000)
	for _, busy := range []error{nil, bake.ErrBusy} {
		baker := newFakeBaker(t)
		baker.err = busy
		url := serveAs(t, store.db, bake.Signer{Nix: nixKey(t)}, publish.Options{Cache: baker.cache(), BypassThreshold: math.MaxInt64})
		got := do(t, http.MethodGet, url+"/"+info.Path.Hash+".narinfo")
		if got.StatusCode != 200 || got.Header.Get("Cache-Control") != "max-age=300" {
			t.Errorf("%s, %v", got.Status, got.Header)
		}
		n, err := narinfo.Parse(got.body)
		if err != nil {
			t.Fatal(err)
		}
		if nar := do(t, http.MethodGet, url+"/"+n.Nars[0].URL); nar.StatusCode != 200 || len(unpack(t, nar.body, "zstd")) != int(info.NarSize) {
			t.Errorf("nar: %s", nar.Status)
		}
	}
}

// TestNixLog: a log compressed by bzip2 is one of text to who says that it
// knows that encoding, as Nix does, or, with a key of Nix, says nothing.
func TestNixLog(t *testing.T) {
	store := newScratch(t)
	drv := hashOf("a") + "-x.drv"
	name := filepath.Join(store.logs, "drvs", drv[:2], drv[2:]+".bz2")
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("compressed"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		accept []string
		nix    bool
		want   string
	}{
		{[]string{"zstd, br, gzip, deflate, bzip2, xz"}, false, "bzip2"},
		{[]string{"gzip", "bzip2"}, true, "bzip2"},
		{[]string{"gzip, xbzip2"}, true, ""},
		{[]string{""}, true, ""},
		{nil, true, "bzip2"},
		{nil, false, ""},
	} {
		by := signer(t)
		if c.nix {
			by.Nix = nixKey(t)
		}
		s, err := publish.New(store.db, by, publish.Options{LogDir: store.logs})
		if err != nil {
			t.Fatal(err)
		}
		req := httptest.NewRequest(http.MethodGet, "/log/"+drv, nil)
		if c.accept != nil {
			req.Header["Accept-Encoding"] = c.accept
		}
		got := httptest.NewRecorder()
		s.ServeHTTP(got, req)
		isText := strings.HasPrefix(got.Header().Get("Content-Type"), "text/plain")
		if got.Code != 200 || got.Body.String() != "compressed" || got.Header().Get("Content-Encoding") != c.want || isText != (c.want != "") {
			t.Errorf("%+v: %d, %v", c, got.Code, got.Header())
		}
	}
}
