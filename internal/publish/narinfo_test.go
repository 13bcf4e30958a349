package publish_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"ersatz/guixsig"
	"ersatz/internal/bake"
	"ersatz/internal/compress"
	"ersatz/internal/publish"
	"ersatz/internal/storedb"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// TestLiveNarinfo wants a narinfo that verifies and whose URLs work.
func TestLiveNarinfo(t *testing.T) {
	store := newScratch(t)
	info := store.tree(t, hashOf("a")+"-gcc-c++=1.0", 5000)
	methods := []compress.Method{{Name: "zstd", Level: 19}, {Name: "gzip", Level: 3}, compress.None}
	baker := newFakeBaker(t)
	for name, o := range map[string]publish.Options{
		"":             {Methods: methods, TTL: 60e9},
		"max-age=300":  {Methods: methods, TTL: 60e9, Cache: baker.cache()},
		"max-age=3600": {Methods: methods, TTL: 3600e9, NarPath: "n/a r"},
	} {
		if name == "" {
			name = "max-age=60"
		}
		url := serve(t, store.db, o)
		got := do(t, http.MethodGet, url+"/"+info.Path.Hash+".narinfo")
		if got.StatusCode != 200 || got.Header.Get("Cache-Control") != name || got.Header.Get("Content-Type") != "application/x-nix-narinfo;charset=utf-8" {
			t.Fatalf("%s: %s, %v", name, got.Status, got.Header)
		}
		n, err := narinfo.Parse(got.body)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := n.VerifyGuix(guixsig.ACL{}.Add(signingKey(t).Public()))
		if err != nil || signed.StorePath != info.Path || signed.NarHash != info.NarHash || signed.NarSize != info.NarSize || signed.Host != host {
			t.Errorf("%s: %+v, %v", name, signed, err)
		}
		if len(n.Nars) != len(methods) || n.ERIS != "" {
			t.Fatalf("%s: %s", name, got.body)
		}
		for i, nar := range n.Nars {
			if nar.Compression != methods[i].Name || (nar.FileSize != 0) != (methods[i] == compress.None) {
				t.Errorf("%s: %+v for %s", name, nar, methods[i])
			}
			if strings.ContainsAny(nar.URL, "+= ") {
				t.Errorf("%s is not encoded as Guix does", nar.URL)
			}
			if body := do(t, http.MethodGet, url+"/"+nar.URL); body.StatusCode != 200 || len(unpack(t, body.body, nar.Compression)) != int(info.NarSize) {
				t.Errorf("%s: %s", nar.URL, body.Status)
			}
		}
	}
}

// TestPacked wants no compression of what is compressed.
func TestPacked(t *testing.T) {
	store := newScratch(t)
	info := store.tree(t, hashOf("a")+"-source.tar.gz", 100)
	url := serve(t, store.db, publish.Options{})
	n, err := narinfo.Parse(do(t, http.MethodGet, url+"/"+info.Path.Hash+".narinfo").body)
	if err != nil || len(n.Nars) != 1 || n.Nars[0].Compression != "none" {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestBaking(t *testing.T) {
	store := newScratch(t)
	small, large := store.tree(t, hashOf("a")+"-small", 100), store.tree(t, hashOf("b")+"-large", 5000)
	old := store.path(t, hashOf("c")+"-adoptable")
	unknown := hashOf("d")
	for _, busy := range []error{nil, bake.ErrBusy, errors.New("disk on fire")} {
		baker := newFakeBaker(t)
		baker.err = busy
		baker.adopt = map[string]storepath.Path{old.Hash: old}
		url := serve(t, store.db, publish.Options{Cache: baker.cache(), BypassThreshold: 2000, NegativeTTL: 7e9, Log: discard()})
		for _, c := range []struct {
			hash         string
			status       int
			body, maxAge string
			baking       string
		}{
			{small.Path.Hash, 200, "StorePath: ", "max-age=300", ""},
			{large.Path.Hash, 404, "We're baking it: /", "max-age=300", "1"},
			{old.Hash, 404, "We're baking it: /", "max-age=300", "1"},
			{unknown, 404, "Resource not found: /", "max-age=7", ""},
		} {
			got := do(t, http.MethodGet, url+"/"+c.hash+".narinfo")
			if got.StatusCode != c.status || !strings.HasPrefix(string(got.body), c.body) ||
				got.Header.Get("Cache-Control") != c.maxAge || got.Header.Get("X-Baking") != c.baking {
				t.Errorf("%v: %s: %s, %v, %q", busy, c.hash, got.Status, got.Header, got.body)
			}
		}
		if want := []string{small.Path.Base(), large.Path.Base(), old.Base()}; strings.Join(baker.queued, " ") != strings.Join(want, " ") {
			t.Errorf("queued %v, want %v", baker.queued, want)
		}
		// Once baked, the store is not asked: the item may be gone.
		baker.write(t, old.Hash+".narinfo", []byte("baked\n"))
		got := do(t, http.MethodGet, url+"/"+old.Hash+".narinfo")
		if string(got.body) != "baked\n" || got.Header.Get("ETag") == "" || len(baker.touched) != 1 || baker.touched[0] != old.Hash {
			t.Errorf("baked: %s %q, touched %v", got.Status, got.body, baker.touched)
		}
		if again := do(t, http.MethodGet, url+"/"+old.Hash+".narinfo", "If-None-Match", got.Header.Get("ETag")); again.StatusCode != 304 {
			t.Errorf("If-None-Match: %s", again.Status)
		}
	}
}

// TestNotBakeable wants an item whose files are not what the store's database
// says to be announced to nobody.
func TestNotBakeable(t *testing.T) {
	store := newScratch(t)
	small, large := store.tree(t, hashOf("a")+"-small", 100), store.tree(t, hashOf("b")+"-large", 5000)
	baker := newFakeBaker(t)
	baker.err = bake.ErrFailed
	url := serve(t, store.db, publish.Options{Cache: baker.cache(), BypassThreshold: 2000, NegativeTTL: 7e9})
	for _, p := range []storepath.Path{small.Path, large.Path} {
		got := do(t, http.MethodGet, url+"/"+p.Hash+".narinfo")
		if got.StatusCode != 404 || !strings.HasPrefix(string(got.body), "Resource not found: /") || got.Header.Get("Cache-Control") != "max-age=7" {
			t.Errorf("%s: %s, %v, %q", p.Name, got.Status, got.Header, got.body)
		}
	}
}

// brokenStore is one whose database does not answer.
type brokenStore struct{ fixedStore }

func (brokenStore) Lookup(context.Context, string) (storedb.Info, error) {
	return storedb.Info{}, errors.New("database is locked")
}

func (brokenStore) Info(context.Context, storepath.Path) (storedb.Info, error) {
	return storedb.Info{}, errors.New("database is locked")
}

// TestBrokenStore wants clients to come again, not to believe that there is
// nothing; and what was baked to be served all the same.
func TestBrokenStore(t *testing.T) {
	baker := newFakeBaker(t)
	hash := hashOf("b")
	baker.write(t, hash+".narinfo", []byte("baked\n"))
	url := serve(t, brokenStore{}, publish.Options{Cache: baker.cache(), NegativeTTL: 7e9, Log: discard()})
	for _, path := range []string{
		"/" + hashOf("a") + ".narinfo", "/nar/zstd/" + hashOf("a") + "-x", "/log/" + hashOf("a") + "-x",
		"/file/x/sha256/" + strings.Repeat("0", 52),
	} {
		got := do(t, http.MethodGet, url+path)
		if got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("Retry-After") == "" || got.Header.Get("Cache-Control") != "" {
			t.Errorf("%s: %s, %v", path, got.Status, got.Header)
		}
	}
	if got := do(t, http.MethodGet, url+"/"+hash+".narinfo"); string(got.body) != "baked\n" {
		t.Errorf("baked: %s", got.Status)
	}
}

// TestConcurrent asks for everything at once while narinfos and nars appear.
func TestConcurrent(t *testing.T) {
	store := newScratch(t)
	baker := newFakeBaker(t)
	url := serve(t, store.db, publish.Options{Cache: baker.cache(), Live: 2, Log: discard()})
	var paths []string
	for _, c := range []string{"a", "b", "c", "d"} {
		info := store.tree(t, hashOf(c)+"-tree", 20_000)
		paths = append(paths, "/"+info.Path.Hash+".narinfo", "/nar/gzip/"+info.Path.Base(), "/nar/"+info.Path.Base())
	}
	paths = append(paths, "/nix-cache-info", "/nothing", "/uri-res/N2R?urn:blake2b:"+strings.Repeat("A", 52))
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 20 {
				path := paths[(i*7+j)%len(paths)]
				got := do(t, http.MethodGet, url+path)
				if got.err != nil || got.StatusCode != 200 && got.StatusCode != 404 && got.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("%s: %s, %v", path, got.Status, got.err)
				}
			}
		})
	}
	group.Go(func() {
		for _, c := range []string{"a", "b"} {
			baker.write(t, hashOf(c)+".narinfo", []byte("baked\n"))
			baker.write(t, "nar/gzip/"+hashOf(c)+"-tree", []byte("baked"))
		}
	})
	group.Wait()
}
