package noded

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/bake"
	"ersatz/internal/compress"
	"ersatz/internal/publish"
	"ersatz/internal/storedb"
	"ersatz/internal/web"
	"ersatz/nar"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// soakItem is an item that the origin has.
type soakItem struct {
	info storedb.Info
	text []byte // narinfo, as the origin gives it
}

// soakOrigin is `ersatz publish` with items, on a line.
type soakOrigin struct {
	*line
	dir   string
	key   *guixsig.PrivateKey
	items []*soakItem
	texts map[string][]byte // by path, of narinfos without a signed URN
}

// newSoakOrigin bakes n items and serves them until the end of the test.
func newSoakOrigin(t *testing.T, rng *mathrand.Rand, n int, large []int) *soakOrigin {
	t.Helper()
	key, err := guixsig.GenerateKey(rand.Reader)
	check(t, err)
	dir := t.TempDir()
	storeDir := filepath.Join(dir, "store")
	check(t, os.Mkdir(storeDir, 0o755))
	scratch, err := storedb.Create(filepath.Join(dir, "state"))
	check(t, err)
	db, err := storedb.Open(storedb.Options{StoreDir: storeDir, StateDir: filepath.Join(dir, "state")})
	check(t, err)
	o := &soakOrigin{line: newLine(t, 4<<10), dir: dir, key: key, texts: map[string][]byte{}}
	for k := range n {
		o.items = append(o.items, &soakItem{info: addItem(t, scratch, storeDir, o.items, k, soakContent(rng, k, large))})
	}
	methods := []compress.Method{{Name: "zstd", Level: 1}, {Name: "gzip", Level: 1}}
	signer := bake.Signer{Guix: key, Host: "origin"}
	cache, err := bake.Open(filepath.Join(dir, "cache"), db, signer, bake.Options{Methods: methods})
	check(t, err)
	h, err := publish.New(db, signer, publish.Options{
		Methods: methods, Cache: &publish.Baked{Dir: cache.Dir(), Baker: cache, Blocks: cache.Blocks()},
	})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	var baked, served error
	work.Go(func() { baked = cache.Run(ctx) })
	l := o.plug()
	work.Go(func() { served = web.Serve(ctx, []net.Listener{l}, o.handler(h), slog.New(slog.DiscardHandler)) })
	t.Cleanup(func() {
		cancel()
		o.unplug()
		work.Wait()
		check(t, errors.Join(baked, served, h.Close(), cache.Close(), db.Close(), scratch.Close()))
	})
	for k, i := range o.items {
		i.text = o.bakedText(t, h, i, k%3 == 1)
	}
	// Or else nodes on this machine take the items for installed ones.
	check(t, os.RemoveAll(storeDir))
	return o
}

// soakContent returns what is in the file of item k: noise with gaps.
func soakContent(rng *mathrand.Rand, k int, large []int) []byte {
	size := 100 + rng.IntN(40<<10)
	switch {
	case k < len(large):
		size = large[k]
	case k%4 == 0:
		size = rng.IntN(1 << 20)
	}
	b := make([]byte, size)
	noise := mathrand.NewChaCha8([32]byte{byte(k)})
	for part := range slices.Chunk(b, 48<<10) {
		noise.Read(part[:len(part)*2/3]) // never fails
	}
	return b
}

// addItem adds a file to the store, which refers to some of the items before it.
// Each eighth has the content of the one before.
func addItem(t *testing.T, scratch *storedb.Scratch, dir string, before []*soakItem, k int, content []byte) storedb.Info {
	t.Helper()
	file := filepath.Join(dir, "new")
	if k%8 == 7 {
		check(t, os.Link(before[k-1].info.Path.String(), file))
	} else {
		check(t, os.WriteFile(file, content, 0o444))
	}
	d, err := nar.Dump(io.Discard, file)
	check(t, err)
	var refs []storepath.Path
	for i := k - k%6; i < k; i++ {
		refs = append(refs, before[i].info.Path)
	}
	slices.SortFunc(refs, func(a, b storepath.Path) int { return strings.Compare(a.String(), b.String()) })
	p, err := storepath.Source(dir, "item-"+strconv.Itoa(k), d.Hash, refs)
	check(t, err)
	check(t, os.Rename(file, p.String()))
	info := storedb.Info{Path: p, NarHash: d.Hash, NarSize: uint64(d.Size), References: refs, Registered: time.Unix(1, 0)}
	check(t, scratch.Register(t.Context(), info))
	return info
}

// bakedText has an item baked and returns its narinfo: without a signed URN if
// plain is set.
func (o *soakOrigin) bakedText(t *testing.T, h http.Handler, i *soakItem, plain bool) []byte {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	path := "/" + i.info.Path.Hash + ".narinfo"
	for range 12000 {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
		n, err := narinfo.Parse(rec.Body.Bytes())
		if rec.Code != http.StatusOK || err != nil || n.ERIS == "" {
			<-tick.C
			continue
		}
		if !plain {
			return rec.Body.Bytes()
		}
		f := narinfo.Fields{StorePath: i.info.Path, NarHash: i.info.NarHash, NarSize: i.info.NarSize, References: n.References}
		text, err := narinfo.SignGuix(f.Body(), o.key, "origin")
		check(t, err)
		o.texts[path] = append(text, narinfo.Locations(n.Nars)...)
		return o.texts[path]
	}
	t.Fatalf("%s is not baked", i.info.Path)
	return nil
}

// handler answers as publish does, but for the narinfos without a signed URN.
func (o *soakOrigin) handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if text := o.texts[r.URL.Path]; text != nil {
			w.Header().Set("Content-Type", "text/x-nix-narinfo")
			w.Write(text) // an error is the client's going away
			return
		}
		h.ServeHTTP(w, r)
	})
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
