package bittorrent_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/torrent"
	"ersatz/internal/transport/bittorrent"
	"ersatz/internal/transport/transporttest"
)

// swarm makes torrents of the suite's blocks and remembers them by the address
// of who seeds them.
type swarm struct {
	mu sync.Mutex
	at map[string]*tree
}

func (s *swarm) set(addr string, tr *tree) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[addr] = tr
}

func (s *swarm) get(addr string) *tree {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at[addr]
}

// plant makes a tree of blocks of chance: as many zero blocks follow as a tree
// needs to have such a number of nodes.
func plant(t testing.TB, blocks block.Getter, refs []eris.Ref) *tree {
	t.Helper()
	honest := map[eris.Ref][]byte{}
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		for i := range refs {
			ref, b := blocktest.Make(size, uint64(i))
			if ref != refs[i] {
				break
			}
			honest[ref] = b
		}
	}
	if len(honest) == 0 { // blocks of a content, whose store works
		for _, ref := range refs {
			b, err := blocks.Get(t.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			honest[ref] = b
		}
	}
	size := eris.BlockSize(len(honest[refs[0]]))
	zero := make([]byte, size)
	honest[eris.BlockRef(zero)] = zero
	all := append([]eris.Ref(nil), refs...)
	shape, ok := eris.ShapeOfNodes(size, int64(len(all)))
	for ; !ok; shape, ok = eris.ShapeOfNodes(size, int64(len(all))) {
		all = append(all, eris.BlockRef(zero))
	}
	c := eris.ReadCap{Size: size, Level: uint8(shape.Level()), Root: refs[len(refs)-1]}
	return newTree(c, shape, all, getter(func(_ context.Context, ref eris.Ref) ([]byte, error) { return honest[ref], nil }), 0)
}

type getter func(context.Context, eris.Ref) ([]byte, error)

func (g getter) Get(ctx context.Context, ref eris.Ref) ([]byte, error) { return g(ctx, ref) }

// TestTransport runs the suite between two clients, the one that fetches having
// the metadata from the other.
func TestTransport(t *testing.T) {
	t.Parallel()
	transporttest.Run(t, transport())
}

// TestFaults runs it over bad lines.
func TestFaults(t *testing.T) {
	t.Parallel()
	transporttest.Faults(t, transport())
}

func transport() transporttest.Transport {
	s := &swarm{at: map[string]*tree{}}
	return transporttest.Transport{
		Serve: func(t testing.TB, address string, blocks block.Getter, refs []eris.Ref) (string, func()) {
			honest := plant(t, blocks, refs)
			link := magnet(honest.info(t))
			padding := honest.blocks
			given := *honest
			given.blocks = getter(func(ctx context.Context, ref eris.Ref) ([]byte, error) {
				if int(given.place[ref]) >= len(refs) {
					return padding.Get(ctx, ref)
				}
				return blocks.Get(ctx, ref)
			})
			c, err := bittorrent.New(bittorrent.Options{Listen: listen(address)})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			described := func(context.Context) (block.Content, error) {
				return withInfo{content{&given, nil}, honest.info(t)}, nil
			}
			if err := c.Offer(t.Context(), block.Shared{ReadCap: given.cap, Magnet: link}, described); err != nil {
				t.Fatal(err)
			}
			s.set(c.Addr().String(), honest)
			return c.Addr().String(), func() { c.Close() }
		},
		Dial: func(t testing.TB, address string, idle time.Duration) eris.Fetcher {
			tree := s.get(address)
			link := magnet(tree.info(t), peer(address))
			return open(t, start(t, bittorrent.Options{Idle: min(idle, 2*time.Second)}), tree, link)
		},
		Deaf: func(t testing.TB) string {
			addr := deaf(t)
			s.set(addr, makeTree(t, eris.Size1KiB, 5000))
			return addr
		},
		Proxy: func(_ testing.TB, at string, via func(network, address string) string) string {
			addr := via("tcp", at)
			s.set(addr, s.get(at))
			return addr
		},
		SilenceIsMissing: true, WrongIsMissing: true, NobodyIsMissing: true,
	}
}

func listen(address string) string {
	if address == "" {
		return "127.0.0.1:0"
	}
	return address
}

// withInfo is a content that knows its torrent.
type withInfo struct {
	content
	info torrent.Info
}

func (w withInfo) Torrent(context.Context) (torrent.Info, error) { return w.info, nil }
