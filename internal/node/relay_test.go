package node

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// upstreamOf serves files by path, and returns what asks it.
func upstreamOf(t *testing.T, files map[string][]byte) (*upstream.Client, *upstream.Server) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write(body)
	}))
	t.Cleanup(s.Close)
	c := upstream.New(s.Client(), nil, upstream.Options{})
	t.Cleanup(func() { c.Close() })
	return c, servers(t, s.URL)[0]
}

func gz(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestRelay(t *testing.T) {
	for _, size := range []int{1, 511, heldBack, heldBack + 1, 3 * heldBack} {
		nar := bytes.Repeat([]byte{7}, size)
		bad := append(bytes.Clone(nar[1:]), 8)
		packed := gz(t, nar)
		files := map[string][]byte{
			"/good": nar, "/gz": packed, "/short": nar[:size-1], "/cut": packed[:len(packed)/2], "/bad": bad, "/long": append(bytes.Clone(nar), 7),
			"/bomb": gz(t, make([]byte, 10<<20)),
		}
		c, sv := upstreamOf(t, files)
		p, err := storepath.Parse(guixItem)
		if err != nil {
			t.Fatal(err)
		}
		get := func(urls ...string) ([]byte, string, error) {
			b := &upstream.Build{Signed: narinfo.Signed{StorePath: p, NarHash: sha256.Sum256(nar), NarSize: uint64(size), HasNarSize: true}}
			for _, u := range urls {
				method := "none"
				if strings.Contains("/gz /cut /bomb", u) {
					method = "gzip"
				}
				b.Nars = append(b.Nars, upstream.Offer{Server: sv, Nar: narinfo.Nar{URL: u, Compression: method}})
			}
			n, err := Relay{c}.Get(context.Background(), Want{Path: p, Choice: upstream.Choice{Path: p, Builds: []*upstream.Build{b}}})
			if err != nil {
				return nil, "", err
			}
			got, err := io.ReadAll(n)
			return got, n.Source(), errors.Join(err, n.Close())
		}
		for _, urls := range [][]string{{"/good"}, {"/gz"}, {"/missing", "/gz"}, {"/long"}} {
			got, source, err := get(urls...)
			if err != nil || !bytes.Equal(got, nar) || !strings.HasSuffix(source, urls[len(urls)-1]) {
				t.Errorf("%d bytes, %v: %d bytes from %s, %v", size, urls, len(got), source, err)
			}
		}
		for _, u := range []string{"/short", "/bad", "/cut", "/bomb", "/missing"} {
			got, _, err := get(u)
			if u == "/cut" && bytes.Equal(got, nar) {
				continue // all that matters was there
			}
			if err == nil || len(got) > max(0, size-heldBack) {
				t.Errorf("%d bytes, %s: %d bytes, %v", size, u, len(got), err)
			}
		}
		if _, _, err := get(); !errors.Is(err, ErrNone) {
			t.Errorf("no offer: %v", err)
		}
	}
}
