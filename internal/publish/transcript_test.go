package publish_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"ersatz/internal/compress"
	"ersatz/internal/publish"
	"ersatz/internal/storedb"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// fixedStore is the store of the transcripts, without its files.
type fixedStore map[string]storedb.Info

func (s fixedStore) StoreDir() string { return storepath.Guix }

func (s fixedStore) Lookup(_ context.Context, hash string) (storedb.Info, error) {
	i, ok := s[hash]
	if !ok {
		return storedb.Info{}, storedb.ErrNotFound
	}
	return i, nil
}

func (s fixedStore) Info(_ context.Context, p storepath.Path) (storedb.Info, error) {
	i, ok := s[p.Hash]
	if !ok || i.Path != p {
		return storedb.Info{}, storedb.ErrNotFound
	}
	return i, nil
}

func guixPath(t *testing.T, base string) storepath.Path {
	t.Helper()
	p, err := storepath.ParseBase(storepath.Guix, base)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// exchange is one request of a transcript of `guix publish` 1.5.0, with what
// it answered.
type exchange struct {
	method, path string
	*http.Response
	body string
}

func readTranscript(t *testing.T, name string) (out []exchange) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for part := range strings.SplitSeq(string(text), "$ curl -si ") {
		line, rest, _ := strings.Cut(part, "\n")
		reply, _, ok := strings.Cut(rest, "[end]\n")
		if !ok || !strings.HasPrefix(reply, "HTTP/") {
			continue
		}
		x := exchange{method: http.MethodGet}
		args := strings.Fields(line)
		x.path = strings.TrimPrefix(args[len(args)-1], "http://127.0.0.1:8181")
		if args[0] == "-I" {
			x.method = http.MethodHead
		} else if args[0] == "-X" {
			x.method = args[1]
		}
		if x.Response, err = http.ReadResponse(bufio.NewReader(strings.NewReader(reply)), &http.Request{Method: x.method}); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		b, err := io.ReadAll(x.Response.Body)
		if err != nil && x.method != http.MethodHead {
			t.Fatalf("%s: %v", line, err)
		}
		x.body = string(b)
		out = append(out, x)
	}
	return out
}

// TestTranscript asks what Guix was asked, and wants Guix's answers: the
// narinfo byte for byte, signature included.
func TestTranscript(t *testing.T) {
	small := guixPath(t, "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-ersatz-small-1.0")
	hash, err := narinfo.ParseHash("sha256:1hhr79fmi8vpq527nh2ssqzn1f7b4qp0i0z3a9x7zwrmxcsiz58l")
	if err != nil {
		t.Fatal(err)
	}
	store := fixedStore{
		small.Hash: {
			Path: small, NarHash: hash, NarSize: 3328,
			References: []storepath.Path{guixPath(t, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1-ersatz-dep-1.0"), small},
		},
		"wr396f0gqnlw7xshn71nkhnyb8ndvlvz": {Path: guixPath(t, "wr396f0gqnlw7xshn71nkhnyb8ndvlvz-ersatz-many"), NarSize: 124153376},
	}
	baker := newFakeBaker(t)
	const day = 24 * time.Hour
	url := serve(t, store, publish.Options{
		Cache: baker.cache(), TTL: 30 * day, NegativeTTL: 90 * day, LogDir: t.TempDir(),
		Methods: []compress.Method{{Name: "zstd", Level: 19}, {Name: "lzip", Level: 9}},
	})
	exchanges := readTranscript(t, "testdata/publish-http.txt")
	if len(exchanges) != 20 {
		t.Fatalf("%d exchanges, want 20", len(exchanges))
	}
	for _, x := range exchanges {
		if x.path == "/"+small.Hash+".narinfo" && strings.Contains(x.body, "FileSize") {
			baker.write(t, small.Hash+".narinfo", []byte(x.body)) // the bake has ended
		}
		got := do(t, x.method, url+x.path)
		switch {
		case x.method == http.MethodPost:
			if got.StatusCode != http.StatusMethodNotAllowed || got.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("POST %s: %s, Allow %q", x.path, got.Status, got.Header.Get("Allow"))
			}
			continue
		case x.method == http.MethodHead: // Guix has 404 for all
			if get := do(t, http.MethodGet, url+x.path); got.StatusCode != 200 || len(got.body) != 0 || got.ContentLength != int64(len(get.body)) {
				t.Errorf("HEAD %s: %s, Content-Length %d", x.path, got.Status, got.ContentLength)
			}
			continue
		case x.path == "/" || x.path == "/index.html": // names this program
			x.body = strings.Replace(x.body, `<a href="https://guix.gnu.org/manual/en/html_node/Invoking-guix-publish.html"><tt>guix publish</tt></a>`, "<tt>ersatz publish</tt>", 1)
			x.body = "<!DOCTYPE html>" + x.body
			x.Header.Set("Content-Length", "")
		}
		if got.StatusCode != x.StatusCode || string(got.body) != x.body {
			t.Errorf("%s: %s\n%s\nwant %s\n%s", x.path, got.Status, got.body, x.Status, x.body)
		}
		for _, name := range []string{"Content-Type", "Content-Length", "Cache-Control", "X-Baking"} {
			if want := x.Header.Get(name); got.Header.Get(name) != want && (name != "Content-Length" || want != "") {
				t.Errorf("%s: %s %q, want %q", x.path, name, got.Header.Get(name), want)
			}
		}
	}
	if want := []string{small.Base(), "wr396f0gqnlw7xshn71nkhnyb8ndvlvz-ersatz-many"}; len(baker.queued) != 2 || baker.queued[0] != want[0] || baker.queued[1] != want[1] {
		t.Errorf("queued %v, want %v", baker.queued, want)
	}
	if len(baker.touched) == 0 || baker.touched[0] != small.Hash {
		t.Errorf("touched %v", baker.touched)
	}
}
