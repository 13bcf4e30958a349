package node

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/internal/keep"
	"ersatz/nixbase32"
)

// BenchmarkNarinfo is the narinfo of an item that is kept, of many by turns: where
// every narinfo counts, and where those of a key do.
func BenchmarkNarinfo(b *testing.B) {
	const many = 50
	dir, err := os.MkdirTemp("/dev/shm", "node-bench-")
	if err != nil {
		b.Skip(err)
	}
	defer os.RemoveAll(dir)
	store, err := keep.Open(dir, keep.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	var urls []string
	for k := range many {
		it := makeItem(b, "/gnu/store/"+nixbase32.Encode(fmt.Appendf(nil, "%020d", k))+"-item-1.0", fmt.Sprint("nar ", k), true, "")
		urls = append(urls, "/"+it.path.Hash+".narinfo")
		keepIn(b, store, it)
	}
	keys := Keys{Guix: guixsig.ACL{}.Add(testKey(b, 1).Public())}
	for name, judges := range map[string]func() (Keys, error){"any": nil, "keys": func() (Keys, error) { return keys, nil }} {
		b.Run(name, func(b *testing.B) {
			n, err := New(b.Context(), b.TempDir(), Keep(store), &fakeTransfers{}, newClient(), nil, Options{Keys: judges, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			k := 0
			for b.Loop() {
				req := httptest.NewRequest(http.MethodGet, urls[k%many], nil)
				req.RemoteAddr = "127.0.0.1:1"
				w := httptest.NewRecorder()
				n.Web().ServeHTTP(w, req)
				if w.Code != http.StatusOK {
					b.Fatal(w.Code, w.Body)
				}
				k++
			}
		})
	}
}

// keepIn has a store keep an item, whose nar comes as it is.
func keepIn(tb testing.TB, s *keep.Store, it testItem) {
	tb.Helper()
	item := keptItem(guixServer, it)
	item.Method, item.ReadCap, item.Format, item.Asked = "none", eris.ReadCap{}, "", true
	a := keep.About{Item: item}
	p, err := s.Part(keep.NarID(a), a)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := p.Append([]byte(it.nar)); err != nil {
		tb.Fatal(err)
	}
	p.Finish(int64(len(it.nar)))
	if _, err := p.Commit(tb.Context(), item, nil); err != nil {
		tb.Fatal(err)
	}
	if err := p.Close(); err != nil {
		tb.Fatal(err)
	}
}
