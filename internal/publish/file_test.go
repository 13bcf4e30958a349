package publish_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"ersatz/internal/publish"
	"ersatz/internal/storedb"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

func TestFile(t *testing.T) {
	store := newScratch(t)
	content := []byte("flat file content\n")
	add := func(name string, put func(path string) error) string {
		hash := sha256.Sum256([]byte(name))
		p, err := storepath.FixedOutput(store.dir, name, false, "sha256", hash[:])
		if err != nil {
			t.Fatal(err)
		}
		if err := put(p.String()); err != nil {
			t.Fatal(err)
		}
		if err := store.w.Register(t.Context(), storedb.Info{Path: p}); err != nil {
			t.Fatal(err)
		}
		return "/file/" + name + "/sha256/" + nixbase32.Encode(hash[:])
	}
	flat := add("flat+1.txt", func(path string) error { return os.WriteFile(path, content, 0o444) })
	folder := add("folder", func(path string) error { return os.Mkdir(path, 0o755) })
	link := add("link", func(path string) error { return os.Symlink("/etc/passwd", path) })
	missing := add("missing", func(string) error { return nil })
	url := serve(t, store.db, publish.Options{})

	for _, path := range []string{flat, strings.Replace(flat, "+", "%2B", 1)} {
		got := do(t, http.MethodGet, url+path)
		if got.StatusCode != 200 || !bytes.Equal(got.body, content) || got.ContentLength != int64(len(content)) ||
			got.Header.Get("Content-Type") != "application/octet-stream;charset=ISO-8859-1" {
			t.Errorf("%s: %s, %q, %v", path, got.Status, got.body, got.Header)
		}
		if got := do(t, http.MethodHead, url+path); got.StatusCode != 200 || got.ContentLength != int64(len(content)) {
			t.Errorf("HEAD: %s, %d", got.Status, got.ContentLength)
		}
		if got := do(t, http.MethodGet, url+path, "If-None-Match", got.Header.Get("ETag")); got.StatusCode != 304 {
			t.Errorf("If-None-Match: %s", got.Status)
		}
	}
	for _, path := range []string{
		folder, link, missing,
		"/file/other/sha256/" + flat[strings.LastIndexByte(flat, '/')+1:],
		"/file/flat+1.txt/sha256/eeee",
		"/file/flat+1.txt/sha256/" + strings.Repeat("z", 52),
		"/file/flat+1.txt/sha1/" + strings.Repeat("0", 32),
		"/file/.hidden/sha256/" + strings.Repeat("0", 52),
	} {
		if got := do(t, http.MethodGet, url+path); got.StatusCode != 404 || string(got.body) != "Resource not found: "+path {
			t.Errorf("%s: %s %q", path, got.Status, got.body)
		}
	}
}

func TestLog(t *testing.T) {
	store := newScratch(t)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write([]byte("building\n")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	drv := func(c string) string { return hashOf(c) + "-x-1.0.drv" }
	write := func(drv, suffix string, data []byte) {
		t.Helper()
		dir := filepath.Join(store.logs, "drvs", drv[:2])
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, drv[2:]+suffix), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(drv("a"), ".gz", packed.Bytes())
	write(drv("b"), ".bz2", []byte("BZh9"))
	write(drv("c"), "", []byte("plain\n"))
	if err := os.Symlink("/etc/passwd", filepath.Join(store.logs, "drvs", "cc", drv("c")[2:]+".gz")); err != nil {
		t.Fatal(err)
	}
	item := func(base, deriver string) string {
		p := store.path(t, base)
		if err := os.WriteFile(p.String(), nil, 0o444); err != nil {
			t.Fatal(err)
		}
		store.register(t, p, deriver)
		return base
	}
	built := item(hashOf("d")+"-x-1.0", store.dir+"/"+drv("a"))
	source := item(hashOf("f")+"-source", "")
	strange := item(hashOf("g")+"-strange", "../../etc/passwd")
	url := serve(t, store.db, publish.Options{LogDir: store.logs})

	for _, c := range []struct {
		name, contentType, encoding, body string
	}{
		{built, "text/plain;charset=UTF-8", "gzip", packed.String()},
		{drv("a"), "text/plain;charset=UTF-8", "gzip", packed.String()},
		{drv("b"), "application/x-bzip2;charset=ISO-8859-1", "", "BZh9"},
		{drv("c"), "text/plain;charset=UTF-8", "", "plain\n"},
	} {
		got := do(t, http.MethodGet, url+"/log/"+c.name)
		if got.StatusCode != 200 || string(got.body) != c.body || got.Header.Get("Content-Type") != c.contentType ||
			got.Header.Get("Content-Encoding") != c.encoding || got.Header.Get("Content-Length") != strconv.Itoa(len(c.body)) {
			t.Errorf("%s: %s, %v, %q", c.name, got.Status, got.Header, got.body)
		}
		got = do(t, http.MethodGet, url+"/log/"+c.name, "Range", "bytes=1-2")
		if got.StatusCode != 206 || string(got.body) != c.body[1:3] || got.ContentLength != 2 {
			t.Errorf("%s, bytes 1 and 2: %s, %q", c.name, got.Status, got.body)
		}
	}
	for _, name := range []string{source, strange, hashOf("h") + "-unknown", drv("i"), "x", "%2e%2e.drv"} {
		if got := do(t, http.MethodGet, url+"/log/"+name); got.StatusCode != 404 {
			t.Errorf("%s: %s", name, got.Status)
		}
	}
}
