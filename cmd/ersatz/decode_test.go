package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"ersatz/eris"
	"ersatz/internal/transport/n2r"
)

// blockServer serves blocks, and lies from the nth on unless n is negative.
type blockServer struct {
	blocks map[eris.Ref][]byte
	lies   int64
	served atomic.Int64
}

func (s *blockServer) Get(_ context.Context, ref eris.Ref) ([]byte, error) {
	b, ok := s.blocks[ref]
	if !ok {
		return nil, eris.ErrNotFound
	}
	if n := s.served.Add(1); s.lies >= 0 && n > s.lies {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
	}
	return b, nil
}

func (s *blockServer) Batch(ctx context.Context, refs []eris.Ref, emit func(int, []byte) error) error {
	for i, ref := range refs {
		b, _ := s.Get(ctx, ref) // nil if it is not there
		if err := emit(i, b); err != nil {
			return err
		}
	}
	return nil
}

// encoded makes blocks of a content of n bytes.
func encoded(t *testing.T, n int64) (urn string, sum [32]byte, blocks map[eris.Ref][]byte) {
	t.Helper()
	blocks = map[eris.Ref][]byte{}
	h := sha256.New()
	content := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), n), h)
	c, _, err := eris.Encode(content, eris.Size32KiB, eris.Secret{}, func(b eris.Block) error {
		blocks[b.Ref] = bytes.Clone(b.Data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c.URN(), [32]byte(h.Sum(nil)), blocks
}

// decodeFrom runs "ersatz decode" and returns the exit status, the hash of
// what it wrote and what it said.
func decodeFrom(t *testing.T, urn string, servers ...*blockServer) (code int, sum [32]byte, stderr string, urls []string) {
	t.Helper()
	args := []string{"decode", urn}
	for _, s := range servers {
		srv := httptest.NewServer(n2r.Handler(s))
		t.Cleanup(srv.Close)
		urls = append(urls, srv.URL)
		args = append(args, "--from", srv.URL)
	}
	h := sha256.New()
	var said bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: h, stderr: &said, getenv: func(string) string { return "" }}
	code = a.main(t.Context(), args)
	return code, [32]byte(h.Sum(nil)), said.String(), urls
}

// TestDecodeFromLiar: one of two servers lies from the middle on. The content
// is whole, the liar named, and what came from where is said.
func TestDecodeFromLiar(t *testing.T) {
	urn, sum, blocks := encoded(t, 64e6)
	good, liar := &blockServer{blocks: blocks, lies: -1}, &blockServer{blocks: blocks, lies: 500}
	code, got, stderr, urls := decodeFrom(t, urn, liar, good)
	if code != exitOK || got != sum {
		t.Fatalf("status %d, right content: %v\n%s", code, got == sum, stderr)
	}
	for _, want := range []string{
		`level=WARN msg="source of blocks dropped" source=` + urls[0] + " block=",
		`level=INFO msg="source of blocks" source=` + urls[0] + " blocks=",
		`level=INFO msg="source of blocks" source=` + urls[1] + " blocks=",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%s is not in:\n%s", want, stderr)
		}
	}
	if strings.Count(stderr, "WARN") != 1 {
		t.Errorf("said:\n%s", stderr)
	}
}

// TestDecodeFromParts: no server has all, one block nobody has, or only a liar.
func TestDecodeFromParts(t *testing.T) {
	urn, sum, blocks := encoded(t, 5e6)
	parts := []*blockServer{{lies: -1}, {lies: -1}, {lies: -1}}
	for _, p := range parts {
		p.blocks = map[eris.Ref][]byte{}
	}
	for ref, b := range blocks {
		parts[ref[0]%3].blocks[ref] = b
	}
	if code, got, stderr, _ := decodeFrom(t, urn, parts...); code != exitOK || got != sum {
		t.Errorf("status %d\n%s", code, stderr)
	}
	if code, _, stderr, _ := decodeFrom(t, urn, parts[:2]...); code != exitNotFound || !strings.Contains(stderr, "not found") {
		t.Errorf("status %d\n%s", code, stderr)
	}
	parts[2].lies = 0
	code, _, stderr, urls := decodeFrom(t, urn, parts...)
	if code != exitCorrupt || !strings.Contains(stderr, "ersatz: ") || !strings.Contains(stderr, urls[2]+": ") {
		t.Errorf("status %d\n%s", code, stderr)
	}
}

func TestDecodeSources(t *testing.T) {
	urn, _, _ := encoded(t, 10)
	for _, args := range [][]string{
		{"--from", "ftp://server.example"},
		{"--from", "http://server.example/?q"},
		{"--ipfs", "/ip4/127.0.0.1/tcp/5001"},
	} {
		var said bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: &said, getenv: func(string) string { return "" }}
		if code := a.main(t.Context(), append([]string{"decode", urn}, args...)); code != exitUsage || !strings.Contains(said.String(), args[0]) {
			t.Errorf("%v: status %d, %s", args, code, &said)
		}
	}
}
