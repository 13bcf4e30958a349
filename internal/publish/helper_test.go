package publish_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/internal/bake"
	"ersatz/internal/block/memstore"
	"ersatz/internal/compress"
	"ersatz/internal/publish"
	"ersatz/internal/storedb"
	"ersatz/nar"
	"ersatz/storepath"
)

const host = "vm" // the transcripts'

func signer(t testing.TB) bake.Signer { return bake.Signer{Guix: signingKey(t), Host: host} }

// signingKey is the one that signed the transcripts.
func signingKey(t testing.TB) *guixsig.PrivateKey {
	t.Helper()
	text, err := os.ReadFile("testdata/signing-key.sec")
	if err != nil {
		t.Fatal(err)
	}
	key, err := guixsig.ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// scratch is a store with its database in a temporary folder.
type scratch struct {
	dir, logs string
	state     string
	w         *storedb.Scratch
	db        *storedb.DB
}

func newScratch(t testing.TB) *scratch {
	t.Helper()
	top := t.TempDir()
	s := &scratch{dir: filepath.Join(top, "store"), logs: filepath.Join(top, "log"), state: filepath.Join(top, "state")}
	for _, dir := range []string{s.dir, s.logs} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if s.w, err = storedb.Create(s.state); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.w.Close() })
	if s.db, err = storedb.Open(storedb.Options{StoreDir: s.dir, StateDir: s.state}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.db.Close() })
	return s
}

// register makes what lies at an item's path valid.
func (s *scratch) register(t testing.TB, p storepath.Path, deriver string) storedb.Info {
	t.Helper()
	got, err := nar.Dump(io.Discard, p.String())
	if err != nil {
		t.Fatal(err)
	}
	info := storedb.Info{Path: p, NarHash: got.Hash, NarSize: uint64(got.Size), Deriver: deriver, Registered: time.Unix(1, 0)}
	if err := s.w.Register(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	return info
}

func (s *scratch) path(t testing.TB, base string) storepath.Path {
	t.Helper()
	p, err := storepath.ParseBase(s.dir, base)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// tree adds an item with a program, a link and a file of size random bytes.
func (s *scratch) tree(t testing.TB, base string, size int) storedb.Info {
	t.Helper()
	p := s.path(t, base)
	if err := os.MkdirAll(p.String()+"/bin", 0o755); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, uint64(size)))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(rng.Uint32() & 0x3f)
	}
	err := errors.Join(
		os.WriteFile(p.String()+"/bin/run", []byte("#!/bin/sh\n"), 0o755),
		os.WriteFile(p.String()+"/data", data, 0o644),
		os.Symlink("bin/run", p.String()+"/link"),
	)
	if err != nil {
		t.Fatal(err)
	}
	return s.register(t, p, "")
}

// dump returns the nar of an item.
func dump(t testing.TB, info storedb.Info) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := nar.Dump(&b, info.Path.String()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// fakeBaker notes what it is asked and bakes nothing by itself.
type fakeBaker struct {
	dir    string
	layout bake.Layout
	blocks *memstore.Store

	mu      sync.Mutex
	queued  []string
	touched []string
	adopt   map[string]storepath.Path
	err     error // of Bake
}

func newFakeBaker(t testing.TB) *fakeBaker {
	return &fakeBaker{dir: t.TempDir(), layout: bake.Layout{NarPath: "nar"}, blocks: memstore.New()}
}

func (b *fakeBaker) Bake(p storepath.Path) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queued = append(b.queued, p.Base())
	return b.err
}

func (b *fakeBaker) Adoptable(_ context.Context, hash string) (storepath.Path, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.adopt[hash]
	return p, ok
}

func (b *fakeBaker) Touch(hash string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.touched = append(b.touched, hash)
}

// Get and Batch make it an n2r.Blocks.
func (b *fakeBaker) Get(ctx context.Context, ref eris.Ref) ([]byte, error) {
	return b.blocks.Get(ctx, ref)
}

func (b *fakeBaker) Batch(ctx context.Context, refs []eris.Ref, emit func(int, []byte) error) error {
	for i, ref := range refs {
		block, err := b.blocks.Get(ctx, ref)
		if err != nil {
			block = nil
		}
		if err := emit(i, block); err != nil {
			return err
		}
	}
	return nil
}

func (b *fakeBaker) cache() *publish.Baked { return &publish.Baked{Dir: b.dir, Baker: b, Blocks: b} }

// write puts a file into the cache as a bake does: by a rename.
func (b *fakeBaker) write(t testing.TB, name string, data []byte) {
	t.Helper()
	name = filepath.Join(b.dir, name)
	err := errors.Join(
		os.MkdirAll(filepath.Dir(name), 0o755),
		os.WriteFile(name+".new", data, 0o644),
		os.Rename(name+".new", name),
	)
	if err != nil {
		t.Fatal(err)
	}
}

// serve starts a real server that signs for Guix, and returns its URL.
func serve(t testing.TB, store publish.Store, o publish.Options) string {
	t.Helper()
	return serveAs(t, store, signer(t), o)
}

// serveAs starts a real server that signs by signer, and returns its URL.
func serveAs(t testing.TB, store publish.Store, signer bake.Signer, o publish.Options) string {
	t.Helper()
	if o.Log == nil {
		o.Log = testLog(t)
	}
	s, err := publish.New(store, signer, o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	t.Cleanup(func() {
		server.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.URL
}

// answer is a response that was read to its end.
type answer struct {
	*http.Response
	body []byte
	err  error // of reading the body
}

func do(t testing.TB, method, url string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "identity") // or the client unpacks gzip
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res, body, err}
}

func pack(t testing.TB, data []byte, m compress.Method) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := compress.NewWriter(&b, m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpack(t testing.TB, data []byte, method string) []byte {
	t.Helper()
	r, err := compress.NewReader(bytes.NewReader(data), method)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// hashOf returns 32 characters of a hash part that begin with c.
func hashOf(c string) string { return strings.Repeat(c, 31) + "1" }
