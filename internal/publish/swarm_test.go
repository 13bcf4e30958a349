package publish_test

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/bake"
	"ersatz/internal/block"
	"ersatz/internal/torrent"
	"ersatz/internal/transport/bittorrent"
)

// TestSwarm: by the signed magnet link, a client of ours has all blocks of a baked
// item from the server's web seed alone, and from a peer that seeds the cache.
func TestSwarm(t *testing.T) {
	b := newBakery(t, 1_500_000, bake.Options{Torrents: true})
	var shared block.Shared
	err := b.cache.Library().Each(t.Context(), func(s block.Shared) error {
		shared = s
		return nil
	})
	if err != nil || shared.Magnet == "" {
		t.Fatal(shared, err)
	}
	content, err := b.cache.Blocks().Open(t.Context(), b.info.Path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	var refs []eris.Ref
	places := map[eris.Ref]int64{}
	for ref := range content.Refs() {
		places[ref] = int64(len(refs))
		refs = append(refs, ref)
	}
	shape := eris.NewShape(shared.ReadCap.Size, shared.Length)
	want := block.Wanted{
		ReadCap: shared.ReadCap, Magnet: shared.Magnet,
		Where: func(ref eris.Ref) (level int, index int64, ok bool) {
			place, ok := places[ref]
			level, index = shape.Locate(place)
			return level, index, ok
		},
	}
	for name, by := range map[string]func(w *block.Wanted){
		"web seed": func(w *block.Wanted) { w.Servers = []string{serve(t, b.store.db, b.options())} },
		"peer": func(w *block.Wanted) {
			seeder := client(t, bittorrent.Options{Listen: "127.0.0.1:0"})
			err := seeder.Offer(t.Context(), shared, func(ctx context.Context) (block.Content, error) {
				return b.cache.Library().Open(ctx, b.root)
			})
			if err != nil {
				t.Fatal(err)
			}
			m, err := torrent.ParseMagnet(w.Magnet)
			if err != nil {
				t.Fatal(err)
			}
			m.Peers = []string{seeder.Addr().String()}
			w.Magnet = m.String()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := want
			by(&w)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			s := client(t, bittorrent.Options{Dir: t.TempDir()}).Open(w)
			defer s.Close()
			size := int(w.ReadCap.Size)
			var mu sync.Mutex
			got := 0
			err := s.Fetch(ctx, w.ReadCap.Size, refs, func(i int, data []byte) error {
				mu.Lock()
				defer mu.Unlock()
				got++
				if !bytes.Equal(data, b.blocks[i*size:][:size]) {
					t.Errorf("block %d is another", i)
				}
				return nil
			})
			if err != nil || got != len(refs) {
				t.Errorf("%d blocks of %d, %v", got, len(refs), err)
			}
		})
	}
}

func client(t *testing.T, o bittorrent.Options) *bittorrent.Client {
	t.Helper()
	c, err := bittorrent.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}
