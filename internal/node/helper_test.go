package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"

	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/keep"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// fakeClient answers for servers by URL.
type fakeClient struct {
	mu    sync.Mutex
	files map[string]string    // by URL; missing ones are absent
	down  map[string]bool      // servers
	until time.Time            // Expires of all answers but those of
	lives map[string]time.Time // these servers
	asked []string             // URLs
}

func newClient() *fakeClient {
	return &fakeClient{files: map[string]string{}, down: map[string]bool{}}
}

func (c *fakeClient) get(sv *upstream.Server, name string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	url := sv.String() + "/" + name
	c.asked = append(c.asked, url)
	if c.down[sv.String()] {
		return "", errors.New("connection refused")
	}
	text, ok := c.files[url]
	if !ok {
		return "", fs.ErrNotExist
	}
	return text, nil
}

func (c *fakeClient) AskHash(_ context.Context, servers []*upstream.Server, hash string) []upstream.Answer {
	answers := make([]upstream.Answer, len(servers))
	for i, sv := range servers {
		text, err := c.get(sv, hash+".narinfo")
		answers[i] = upstream.Answer{Server: sv, Err: err}
		if err == nil {
			answers[i].Text = []byte(text)
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			answers[i].Expires = c.until
			if at, ok := c.lives[sv.String()]; ok {
				answers[i].Expires = at
			}
		}
	}
	return answers
}

func (c *fakeClient) Open(_ context.Context, sv *upstream.Server, ref string) (*upstream.Body, error) {
	text, err := c.get(sv, ref)
	if err != nil {
		return nil, err
	}
	return &upstream.Body{ReadCloser: io.NopCloser(strings.NewReader(text)), Size: int64(len(text))}, nil
}

// count returns how often a URL was asked for.
func (c *fakeClient) count(url string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range c.asked {
		if u == url {
			n++
		}
	}
	return n
}

// fakeStore keeps items and serves no blocks but those of items by NarHash.
type fakeStore map[string]keep.Item

func (s fakeStore) Get(hash string) (keep.Item, error) {
	item, ok := s[hash]
	if !ok {
		return keep.Item{}, keep.ErrNone
	}
	return item, nil
}

func (s fakeStore) Usage() keep.Usage { return keep.Usage{Items: len(s), Quota: 7} }

func (s fakeStore) Blocks(allow func(keep.Item) bool) Blocks { return fakeBlocks{s, allow} }

// fakeBlocks has one block per item, whose reference and content are NarHash.
type fakeBlocks struct {
	store fakeStore
	allow func(keep.Item) bool
}

func (b fakeBlocks) Have(h [32]byte) (keep.Held, bool) {
	for _, item := range b.store {
		if item.NarHash == h && (b.allow == nil || b.allow(item)) {
			return keep.Held{ReadCap: item.ReadCap, Format: item.Format}, true
		}
	}
	return keep.Held{}, false
}

func (b fakeBlocks) Get(_ context.Context, ref eris.Ref) ([]byte, error) {
	if _, ok := b.Have(ref); !ok {
		return nil, eris.ErrNotFound
	}
	return ref[:], nil
}

func (b fakeBlocks) Batch(ctx context.Context, refs []eris.Ref, emit func(int, []byte) error) error {
	for i, ref := range refs {
		block, err := b.Get(ctx, ref)
		if err != nil {
			block = nil
		}
		if err := emit(i, block); err != nil {
			return err
		}
	}
	return nil
}

// fakeTransfers gives nars by base name.
type fakeTransfers struct {
	mu    sync.Mutex
	nars  map[string]string
	cut   map[string]bool // whose end does not come
	err   error           // of what is not there; default ErrNone
	join  func(context.Context, Want) Want
	wants []Want
	sets  [][]Want
}

func (f *fakeTransfers) Get(ctx context.Context, w Want) (Nar, error) {
	if f.join != nil {
		w = f.join(ctx, w)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wants = append(f.wants, w)
	text, ok := f.nars[w.Path.Base()]
	switch {
	case !ok && f.err != nil:
		return nil, f.err
	case !ok:
		return nil, ErrNone
	case f.cut[w.Path.Base()]:
		return fakeNar{io.MultiReader(strings.NewReader(text[:len(text)/2]), broken{})}, nil
	}
	return fakeNar{strings.NewReader(text)}, nil
}

func (f *fakeTransfers) Ahead(wants []Want) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sets = append(f.sets, wants)
}

type fakeNar struct{ io.Reader }

func (fakeNar) Close() error   { return nil }
func (fakeNar) Source() string { return "http://origin.example\nnext" }

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("every source failed") }

// rig is a node on fakes.
type rig struct {
	t         *testing.T
	dir       string
	client    *fakeClient
	store     fakeStore
	transfers *fakeTransfers
	o         Options
	node      *Node
}

const (
	guixServer = "http://guix.example"
	nixServer  = "http://nix.example"
)

// newRig returns what a node is made of. start makes it.
func newRig(t *testing.T) *rig {
	r := &rig{
		t: t, dir: t.TempDir(), client: newClient(), store: fakeStore{},
		transfers: &fakeTransfers{nars: map[string]string{}, cut: map[string]bool{}},
		o:         Options{Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))},
	}
	r.client.files[guixServer+"/nix-cache-info"] = "StoreDir: /gnu/store\nWantMassQuery: 0\nPriority: 100\n"
	r.client.files[nixServer+"/nix-cache-info"] = "StoreDir: /nix/store\nPriority: 40\n"
	return r
}

func servers(t testing.TB, urls ...string) []*upstream.Server {
	t.Helper()
	var list []*upstream.Server
	for _, u := range urls {
		sv, err := upstream.ParseServer(u)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, sv)
	}
	return list
}

func (r *rig) start(urls ...string) {
	r.t.Helper()
	var err error
	r.node, err = New(r.t.Context(), r.dir, r.store, r.transfers, r.client, servers(r.t, urls...), r.o)
	if err != nil {
		r.t.Fatal(err)
	}
}

// item is an item of an upstream.
type testItem struct {
	path storepath.Path
	nar  string
	text string // narinfo
}

// makeItem makes an item whose narinfo key signs, unless that is nil.
func makeItem(t testing.TB, path, nar string, sign_ bool, extra string) testItem {
	t.Helper()
	p, err := storepath.Parse(path)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("StorePath: %s\nNarHash: %s\nNarSize: %d\nReferences: \n%s",
		p, narinfo.FormatHash(sha256.Sum256([]byte(nar))), len(nar), extra)
	if sign_ {
		text = sign(t, text, testKey(t, 1))
	}
	return testItem{p, nar, text + "URL: nar/zstd/" + p.Base() + "\nCompression: zstd\n"}
}

// publish has a server offer an item.
func (r *rig) publish(server string, it testItem) {
	r.client.files[server+"/"+it.path.Hash+".narinfo"] = it.text
	r.transfers.nars[it.path.Base()] = it.nar
}

// keptItem returns what is kept of an item that a server has given.
func keptItem(server string, it testItem) keep.Item {
	return keep.Item{
		Path: it.path, NarHash: sha256.Sum256([]byte(it.nar)), NarSize: int64(len(it.nar)),
		Narinfo: []byte(it.text), Server: server, Method: "zstd", ReadCap: someHint().readCap, Format: someHint().format,
	}
}

// keep has the node keep an item.
func (r *rig) keep(server string, it testItem) {
	r.store[it.path.Hash] = keptItem(server, it)
	r.transfers.nars[it.path.Base()] = it.nar
}

// get asks from an address, "" for loopback.
func (r *rig) get(from, method, path string) *httptest.ResponseRecorder {
	r.t.Helper()
	return r.send(from, method, path, "")
}

func (r *rig) send(from, method, path, body string) *httptest.ResponseRecorder {
	r.t.Helper()
	req := httptest.NewRequest(method, path, nil)
	if body != "" {
		req = httptest.NewRequest(method, path, bytes.NewReader([]byte(body)))
	}
	req.RemoteAddr = "127.0.0.1:1234"
	if from != "" {
		req.RemoteAddr = from
	}
	w := httptest.NewRecorder()
	if strings.HasPrefix(path, "/v1/") {
		r.node.Socket().ServeHTTP(w, req)
	} else {
		r.node.Web().ServeHTTP(w, req)
	}
	return w
}

// want wants a status, and returns the body.
func (r *rig) want(w *httptest.ResponseRecorder, status int) string {
	r.t.Helper()
	if w.Code != status {
		r.t.Fatalf("status %d, want %d; %s", w.Code, status, w.Body)
	}
	if got := w.Header().Get("Content-Length"); got != fmt.Sprint(w.Body.Len()) && w.Code == http.StatusOK {
		r.t.Fatalf("Content-Length %s of a body of %d", got, w.Body.Len())
	}
	return w.Body.String()
}
