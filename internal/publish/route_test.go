package publish_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/eris"
	"ersatz/internal/bake"
	"ersatz/internal/publish"
)

// TestHostile wants 4xx for what no URL of ours looks like.
func TestHostile(t *testing.T) {
	store := newScratch(t)
	url := serve(t, store.db, publish.Options{Cache: newFakeBaker(t).cache()})
	base := store.tree(t, hashOf("a")+"-tree", 100).Path.Base()
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/nar/../nix-cache-info", 400},
		{"GET", "/nar/%2e%2e/nix-cache-info", 400},
		{"GET", "/nar/zstd/..%2f..%2fetc%2fpasswd", 400},
		{"GET", "/nar/%2fetc%2fpasswd", 400},
		{"GET", "/nar/zstd/" + base + "%00", 400},
		{"GET", "/nar/./zstd/" + base, 400},
		{"GET", "/%00", 400},
		{"GET", "/" + strings.Repeat("a", 5000), 414},
		{"GET", "/nar/zstd/" + strings.Repeat("a", 32) + "-" + strings.Repeat("x", 3000), 404},
		{"GET", "/nar/zstd/" + base + "/data", 404},
		{"GET", "/nar/xz/" + base, 404},
		{"GET", "/nar/none/" + base, 404},
		{"GET", "/nar/zstd/zstd/" + base, 404},
		{"GET", "/nar/zstd/", 404},
		{"GET", "/nar", 404},
		{"GET", "//nar//" + base + "//", 200}, // as Guile splits it
		{"GET", "/nar/.tmp-123", 404},
		{"GET", "/eris/index.sqlite", 404},
		{"GET", "/eris/tree/" + base, 404},
		{"GET", "/" + strings.Repeat("e", 32) + ".narinfo", 404}, // e is no digit
		{"GET", "/" + hashOf("A") + ".narinfo", 404},
		{"GET", "/.narinfo", 404},
		{"GET", "/sub/" + hashOf("a") + ".narinfo", 404},
		{"PUT", "/" + hashOf("a") + ".narinfo", 405},
		{"DELETE", "/", 405},
		{"OPTIONS", "/", 405},
		{"POST", "/nar/zstd/" + base, 405},
		{"FROBNICATE", "/nix-cache-info", 405},
		{"GET", "/uri-res/N2R", 400},
		{"GET", "/uri-res/N2R?urn:blake2b:x", 400},
		{"GET", "/uri-res/N2R?urn:blake2b:" + strings.Repeat("A", 52), 404},
		{"PUT", "/uri-res/N2R", 405},
		{"GET", "/eris/blocks", 405},
		{"POST", "/eris/blocks", 400},
		{"GET", "/uri-res", 404},
	} {
		got := do(t, c.method, url+c.path)
		if got.StatusCode != c.status || got.err != nil {
			t.Errorf("%s %.80s: %s, want %d", c.method, c.path, got.Status, c.status)
		}
		if c.status == 405 && got.Header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", c.method, c.path)
		}
	}
}

func TestBlocks(t *testing.T) {
	baker := newFakeBaker(t)
	var ref eris.Ref
	_, _, err := eris.Encode(strings.NewReader("some content"), eris.Size1KiB, eris.Secret{}, func(b eris.Block) error {
		ref = b.Ref
		return baker.blocks.Put(t.Context(), b.Ref, b.Data)
	})
	if err != nil {
		t.Fatal(err)
	}
	store := newScratch(t)
	url := serve(t, store.db, publish.Options{Cache: baker.cache()})
	want, err := baker.Get(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if got := do(t, "GET", url+"/uri-res/N2R?urn:blake2b:"+ref.String()); got.StatusCode != 200 || !bytes.Equal(got.body, want) {
		t.Errorf("one block: %s, %d bytes", got.Status, len(got.body))
	}
	batch := func(n int) (int, []byte) {
		res, err := http.Post(url+"/eris/blocks", "application/octet-stream", bytes.NewReader(bytes.Repeat(ref[:], n)))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, b
	}
	if status, b := batch(512); status != 200 || len(b) != 512*(4+len(want)) || !bytes.HasSuffix(b, want) {
		t.Errorf("batch: %d, %d bytes", status, len(b))
	}
	if status, _ := batch(513); status != http.StatusRequestEntityTooLarge {
		t.Errorf("batch that is too large: %d", status)
	}
	// Without a cache there are none.
	url = serve(t, store.db, publish.Options{})
	if got := do(t, "GET", url+"/uri-res/N2R?urn:blake2b:"+ref.String()); got.StatusCode != 404 {
		t.Errorf("without a cache: %s", got.Status)
	}
	if status, _ := batch(1); status != http.StatusMethodNotAllowed {
		t.Errorf("batch without a cache: %d", status)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []publish.Options{
		{NarPath: "/nar"}, {NarPath: "nar/"}, {NarPath: "a/../b"}, {NarPath: "eris/x"}, {NarPath: "file"},
		{Live: -1}, {TTL: -1}, {Cache: &publish.Baked{Dir: "does/not/exist"}},
	} {
		if s, err := publish.New(fixedStore{}, signer(t), o); err == nil {
			s.Close()
			t.Errorf("%+v is accepted", o)
		}
	}
	for _, signer := range []bake.Signer{{Host: host}, {Guix: signingKey(t), Host: "a;b"}} {
		if _, err := publish.New(fixedStore{}, signer, publish.Options{}); err == nil {
			t.Errorf("%+v signs", signer)
		}
	}
}

// FuzzRequest sends whatever can be a request. The law: never 5xx, never a
// panic but that which cuts a connection, and never a byte of what is not to
// be served.
func FuzzRequest(f *testing.F) {
	store := newScratch(f)
	const secret = "never to be served"
	base := store.tree(f, hashOf("a")+"-tree", 100).Path.Base()
	baker := newFakeBaker(f)
	baker.write(f, hashOf("b")+".narinfo", []byte("baked\n"))
	baker.write(f, "nar/zstd/"+hashOf("b")+"-item", []byte("baked"))
	for _, name := range []string{
		filepath.Join(filepath.Dir(store.dir), "secret"), filepath.Join(store.dir, "secret"),
		filepath.Join(store.dir, hashOf("c")+"-not-valid"), filepath.Join(store.logs, "secret"),
		filepath.Join(baker.dir, "secret"), filepath.Join(baker.dir, ".narinfo"), filepath.Join(baker.dir, "nar", "secret"),
		filepath.Join(filepath.Dir(baker.dir), "secret"),
	} {
		if err := os.WriteFile(name, []byte(secret), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	s, err := publish.New(store.db, signer(f), publish.Options{Cache: baker.cache(), LogDir: store.logs, Log: discard()})
	if err != nil {
		f.Fatal(err)
	}
	defer s.Close()
	seeds := []string{
		"/", "/index.html", "/nix-cache-info", "/signing-key.pub", "/" + hashOf("a") + ".narinfo", "/" + hashOf("b") + ".narinfo",
		"/nar/" + base, "/nar/zstd/" + base, "/nar/gzip/" + base, "/nar/lzip/" + base, "/nar/zstd/" + hashOf("b") + "-item",
		"/file/x/sha256/" + strings.Repeat("0", 52), "/log/" + base, "/log/" + hashOf("d") + "-x.drv",
		"/uri-res/N2R?urn:blake2b:" + strings.Repeat("A", 52), "/eris/blocks", "/secret", "/nar/secret", "/../secret",
		"/nar/%2e%2e/secret", "/" + hashOf("c") + ".narinfo", "/nar/" + hashOf("c") + "-not-valid", "/%", "*", "//", "/\xff", "/a?b#c",
	}
	for _, path := range seeds {
		f.Add("GET", path, "", []byte(nil))
	}
	f.Add("POST", "/eris/blocks", "", make([]byte, 64))
	f.Add("HEAD", "/nar/zstd/"+hashOf("b")+"-item", "bytes=1-2,3-4", []byte(nil))
	if len(seeds) != 27 {
		f.Fatalf("%d seeds", len(seeds))
	}
	f.Fuzz(func(t *testing.T, method, target, ranges string, body []byte) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return // net/http answers 400
		}
		r := (&http.Request{
			Method: method, URL: u, Header: http.Header{"Range": {ranges}}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), RemoteAddr: "192.0.2.1:1",
		}).WithContext(context.Background())
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code >= 500 || w.Code < 200 {
			t.Errorf("%d", w.Code)
		}
		if bytes.Contains(w.Body.Bytes(), []byte(secret)) {
			t.Error("the secret was served")
		}
	})
}
