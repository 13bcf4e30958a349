package publish_test

import (
	"io"
	"net/http"
	"testing"

	"ersatz/internal/bake"
	"ersatz/internal/publish"
)

// benchmark asks for a path over 8 connections.
func benchmark(b *testing.B, url string) {
	b.ReportAllocs()
	transport := &http.Transport{MaxIdleConnsPerHost: 8, DisableCompression: true}
	defer transport.CloseIdleConnections()
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
			if err != nil {
				b.Error(err)
				return
			}
			res, err := transport.RoundTrip(req)
			if err != nil {
				b.Error(err)
				return
			}
			_, err = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != 200 {
				b.Errorf("%s, %v", res.Status, err)
				return
			}
		}
	})
}

func BenchmarkBakedNarinfo(b *testing.B) {
	baker := newFakeBaker(b)
	baker.write(b, hashOf("a")+".narinfo", make([]byte, 1100))
	benchmark(b, serve(b, newScratch(b).db, publish.Options{Cache: baker.cache()})+"/"+hashOf("a")+".narinfo")
}

func BenchmarkLiveNarinfo(b *testing.B) {
	store := newScratch(b)
	info := store.tree(b, hashOf("a")+"-tree", 100)
	for name, by := range map[string]bake.Signer{"Guix": signer(b), "Nix": {Nix: nixKey(b)}} {
		b.Run(name, func(b *testing.B) {
			benchmark(b, serveAs(b, store.db, by, publish.Options{})+"/"+info.Path.Hash+".narinfo")
		})
	}
}

func BenchmarkBakedNar(b *testing.B) {
	baker := newFakeBaker(b)
	baker.write(b, "nar/zstd/"+hashOf("a")+"-x", make([]byte, 32<<20))
	b.SetBytes(32 << 20)
	benchmark(b, serve(b, newScratch(b).db, publish.Options{Cache: baker.cache()})+"/nar/zstd/"+hashOf("a")+"-x")
}

func BenchmarkLiveNar(b *testing.B) {
	store := newScratch(b)
	info := store.tree(b, hashOf("a")+"-tree", 32<<20)
	benchmark(b, serve(b, store.db, publish.Options{})+"/nar/"+info.Path.Base())
}

// BenchmarkTorrentFile is what a web seed does per byte, beside BenchmarkBakedNar:
// read, encrypt, hash.
func BenchmarkTorrentFile(b *testing.B) {
	s := newBakery(b, 32<<20, bake.Options{})
	b.SetBytes(int64(len(s.blocks)))
	benchmark(b, serve(b, s.store.db, s.options())+s.path())
}
