package substitute_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/compress"
	"ersatz/internal/substitute"
	"ersatz/internal/transport/n2r"
	"ersatz/nar"
	"ersatz/narinfo"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

const storeDir = "/gnu/store"

// key returns a signing key that depends on n only.
func key(t testing.TB, n byte) *guixsig.PrivateKey {
	t.Helper()
	k, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// item is a store item as a server has it.
type item struct {
	path   storepath.Path
	nar    []byte
	info   nar.Info
	fields narinfo.Fields
	files  map[string][]byte // by URL, relative to the server
	nars   []narinfo.Nar
	blocks blocks
	last   eris.Ref // of the last leaf
}

// blocks is what a server of blocks has.
type blocks = blocktest.Blocks

// noise returns n bytes that do not compress and depend on seed.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	x := seed*2 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x >> 24)
	}
	return b
}

// tree writes a small tree with a file of size bytes and returns its path.
func tree(t testing.TB, size int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	must(t, os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "bin/run"), []byte("#!/bin/sh\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "data"), noise(size, uint64(size)), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "text"), bytes.Repeat([]byte("text "), 4000), 0o644))
	must(t, os.Symlink("bin/run", filepath.Join(dir, "link")))
	return dir
}

// newItem makes an item of the tree at path, compressed by each method, with
// blocks of the first.
func newItem(t testing.TB, name, path string, methods ...string) *item {
	t.Helper()
	var b bytes.Buffer
	info, err := nar.Dump(&b, path)
	must(t, err)
	return narItem(t, name, b.Bytes(), info.Hash, methods...)
}

// narItem makes an item of any bytes, as if they were a nar.
func narItem(t testing.TB, name string, archive []byte, hash [32]byte, methods ...string) *item {
	t.Helper()
	p, err := storepath.Parse(storeDir + "/" + nixbase32.Encode(hash[:20]) + "-" + name)
	must(t, err)
	it := &item{
		path: p, nar: archive, info: nar.Info{Hash: hash, Size: int64(len(archive))},
		files: map[string][]byte{}, blocks: blocks{},
		fields: narinfo.Fields{
			StorePath: p, NarHash: hash, NarSize: uint64(len(archive)),
			References: []string{p.Base()}, Deriver: strings.Repeat("d", 32) + "-x.drv",
		},
	}
	for i, m := range methods {
		method, err := compress.ParseMethod(m)
		if m == "xz" {
			method, err = compress.Method{Name: "xz"}, nil
		}
		must(t, err)
		file := compressed(t, archive, method)
		url := "nar/" + method.Name + "/" + p.Base()
		it.files[url] = file
		it.nars = append(it.nars, narinfo.Nar{URL: url, Compression: method.Name, FileSize: uint64(len(file))})
		if i == 0 {
			rc, _, err := eris.Encode(bytes.NewReader(file), eris.Recommended(int64(len(file))), eris.Secret{}, func(b eris.Block) error {
				it.blocks[b.Ref] = bytes.Clone(b.Data)
				if b.Level == 0 {
					it.last = b.Ref
				}
				return nil
			})
			must(t, err)
			it.fields.ERISFormat, it.fields.ERIS = method.Format(), rc.URN()
		}
	}
	return it
}

// in moves the item to another store.
func (it *item) in(dir string) *item {
	it.path.Dir = dir
	it.fields.StorePath = it.path
	return it
}

// narinfo returns the item's text, signed by k, or unsigned.
func (it *item) narinfo(t testing.TB, k *guixsig.PrivateKey) []byte {
	t.Helper()
	body := it.fields.Body()
	if k != nil {
		var err error
		body, err = narinfo.SignGuix(body, k, "test")
		must(t, err)
	}
	return append(body, narinfo.Locations(it.nars)...)
}

// fakeServer is a substitute server with faults.
type fakeServer struct {
	URL     string
	handler func(http.ResponseWriter, *http.Request) bool

	mu       sync.Mutex
	files    map[string][]byte // by path without its first slash
	requests map[string]int    // by method and path
	accepts  atomic.Int32
	blocks   blocks
}

func newServer(t testing.TB) *fakeServer {
	s := &fakeServer{files: map[string][]byte{}, requests: map[string]int{}, blocks: blocks{}}
	hs := httptest.NewUnstartedServer(s)
	hs.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.accepts.Add(1)
		}
	}
	hs.Start()
	t.Cleanup(hs.Close)
	s.URL = hs.URL
	return s
}

// add serves an item, signed by k: narinfo, nars and blocks.
func (s *fakeServer) add(t testing.TB, it *item, k *guixsig.PrivateKey) {
	s.set(it.path.Hash+".narinfo", it.narinfo(t, k))
	maps.Copy(s.files, it.files)
	maps.Copy(s.blocks, it.blocks)
}

func (s *fakeServer) set(path string, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[path] = content
}

// count returns how many requests had the prefix "METHOD /path".
func (s *fakeServer) count(prefix string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for r, times := range s.requests {
		if strings.HasPrefix(r, prefix) {
			n += times
		}
	}
	return n
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests[r.Method+" "+r.URL.Path]++
	content, ok := s.files[strings.TrimPrefix(r.URL.Path, "/")]
	handler := s.handler
	s.mu.Unlock()
	switch {
	case handler != nil && handler(w, r):
	case r.URL.Path == n2r.BatchPath || r.URL.Path == n2r.BlockPath:
		n2r.Handler(s.blocks).ServeHTTP(w, r)
	case ok:
		w.Write(content)
	default:
		http.NotFound(w, r)
	}
}

// intercept has handler answer what it wants to: it returns false for the rest.
func (s *fakeServer) intercept(handler func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler = handler
}

// machine is a client of substitutes: a store, an ACL and a state folder.
type machine struct {
	t        testing.TB
	store    string // where items go; their paths are of storeDir
	o        substitute.Options
	daemon   substitute.DaemonOptions
	messages safeBuffer
	log      safeBuffer
}

// newMachine returns a machine that accepts key 1 and asks the servers.
func newMachine(t testing.TB, servers ...string) *machine {
	t.Helper()
	m := &machine{t: t, store: t.TempDir()}
	m.o = substitute.Options{
		ACL: filepath.Join(t.TempDir(), "acl"), States: []string{t.TempDir()},
		Discovered: filepath.Join(t.TempDir(), "none"), Stall: 2 * time.Second,
	}
	m.daemon = substitute.DaemonOptions{Servers: servers, Trace: true}
	m.accept(key(t, 1))
	t.Cleanup(func() { makeWritable(m.store) })
	return m
}

// makeWritable lets an ordinary user remove a store.
func makeWritable(dir string) {
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(path, 0o755)
		}
		return nil
	})
}

// accept makes the ACL one of exactly these keys.
func (m *machine) accept(keys ...*guixsig.PrivateKey) {
	m.t.Helper()
	var acl guixsig.ACL
	for _, k := range keys {
		acl = acl.Add(k.Public())
	}
	must(m.t, os.WriteFile(m.o.ACL, acl.Text(), 0o644))
}

func (m *machine) dest(it *item) string { return filepath.Join(m.store, it.path.Base()) }

// open returns a substituter that is closed with the test.
func (m *machine) open() *substitute.Substituter {
	m.t.Helper()
	s := m.start()
	m.t.Cleanup(func() { must(m.t, s.Close()) })
	return s
}

func (m *machine) start() *substitute.Substituter {
	m.t.Helper()
	if m.o.Log == nil {
		m.o.Log = slog.New(slog.NewTextHandler(&m.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := substitute.New(m.daemon, &m.messages, m.o)
	must(m.t, err)
	return s
}

// substitute asks for items in one process and returns the replies.
func (m *machine) substitute(items ...*item) []string {
	m.t.Helper()
	return m.substituteBy(m.open(), items...)
}

func (m *machine) substituteBy(s *substitute.Substituter, items ...*item) []string {
	m.t.Helper()
	var in strings.Builder
	for _, it := range items {
		fmt.Fprintf(&in, "substitute %s %s\n", it.path, m.dest(it))
	}
	var out bytes.Buffer
	must(m.t, s.Substitute(m.t.Context(), strings.NewReader(in.String()), &out))
	return lines(out.String())
}

// query sends one line to a process of its own and returns the reply's lines.
func (m *machine) query(line string) []string {
	m.t.Helper()
	s := m.start()
	var out bytes.Buffer
	must(m.t, s.Query(m.t.Context(), strings.NewReader(line+"\n"), &out))
	must(m.t, s.Close())
	return lines(out.String())
}

// wantInstalled checks reply, content and metadata.
func (m *machine) wantInstalled(reply string, it *item) {
	m.t.Helper()
	want := fmt.Sprintf("success sha256:%s %d", nixbase32.Encode(it.info.Hash[:]), it.info.Size)
	if reply != want {
		m.t.Fatalf("reply %q, want %q\n%s", reply, want, m.messages.String())
	}
	info, err := nar.Dump(io.Discard, m.dest(it))
	if err != nil || info != it.info {
		m.t.Fatalf("installed %v (%v), want %v", info, err, it.info)
	}
	must(m.t, filepath.Walk(m.dest(it), func(path string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if perm := fi.Mode().Perm(); fi.Mode()&os.ModeSymlink == 0 && perm != 0o444 && perm != 0o555 {
			m.t.Errorf("%s has mode %v", path, fi.Mode())
		}
		if fi.ModTime().Unix() != 1 {
			m.t.Errorf("%s has time %v", path, fi.ModTime())
		}
		return nil
	}))
	m.wantNothingElse(it)
}

// wantNothing checks the reply and that the store has nothing.
func (m *machine) wantNothing(reply, want string) {
	m.t.Helper()
	if !strings.HasPrefix(reply, want) {
		m.t.Fatalf("reply %q, want %q\n%s", reply, want, m.messages.String())
	}
	m.wantNothingElse()
}

// wantNothingBut is wantNothing where some items are installed already.
func (m *machine) wantNothingBut(reply, want string, items ...*item) {
	m.t.Helper()
	if !strings.HasPrefix(reply, want) {
		m.t.Fatalf("reply %q, want %q\n%s", reply, want, m.messages.String())
	}
	m.wantNothingElse(items...)
}

func (m *machine) wantNothingElse(items ...*item) {
	m.t.Helper()
	expected := map[string]bool{".links": true}
	for _, it := range items {
		expected[it.path.Base()] = true
	}
	entries, err := os.ReadDir(m.store)
	must(m.t, err)
	for _, e := range entries {
		if !expected[e.Name()] {
			m.t.Errorf("%s is in the store", e.Name())
		}
	}
}

// wantMessage checks what people see.
func (m *machine) wantMessage(parts ...string) {
	m.t.Helper()
	for _, part := range parts {
		if !strings.Contains(m.messages.String(), part) {
			m.t.Errorf("messages lack %q:\n%s", part, m.messages.String())
		}
	}
}

// source returns the URI that the last successful download is from.
func (m *machine) source() string {
	for _, line := range lines(m.messages.String()) {
		if f := strings.Fields(line); len(f) == 5 && f[1] == "download-succeeded" {
			return f[3]
		}
	}
	return ""
}

func lines(s string) []string { return strings.Split(strings.TrimSuffix(s, "\n"), "\n") }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// safeBuffer is a buffer for several goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// compressed compresses, by xz too.
func compressed(t testing.TB, data []byte, m compress.Method) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := newCompressor(&b, m)
	must(t, err)
	_, err = w.Write(data)
	must(t, err)
	must(t, w.Close())
	return b.Bytes()
}
