package bittorrent_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	bt "github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/storage"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/torrent"
	"ersatz/internal/transport/bittorrent"
	"ersatz/internal/transport/transporttest"
)

// BenchmarkTransport fetches blocks over loopback, each time by a new session,
// since one keeps the pieces that it has had: by our client, and by the library's
// own in a bare loop, with its storage of files and completion in memory. The
// seeder is the same library likewise. A single block takes a piece of 8.
func BenchmarkTransport(b *testing.B) {
	s, refs := transporttest.Blocks(b, transporttest.Many)
	tr := plant(b, s, refs)
	info := tr.info(b)
	file := tr.file(b)
	b.Run("ersatz/magnet link", func(b *testing.B) {
		_, addr := seed(b, tr, magnet(info), bittorrent.Options{})
		c := start(b, bittorrent.Options{})
		link := magnet(info, peer(addr))
		transporttest.Measure(b, transporttest.Func(func(ctx context.Context, refs []eris.Ref, got func(int, []byte) error) error {
			s := c.Open(block.Wanted{ReadCap: tr.cap, Magnet: link, Where: tr.where})
			defer s.Close()
			return s.Fetch(ctx, eris.Size32KiB, refs, got)
		}), refs)
	})
	b.Run("bare/magnet link", func(b *testing.B) {
		dir := b.TempDir()
		if err := os.WriteFile(filepath.Join(dir, info.Name), file, 0o644); err != nil {
			b.Fatal(err)
		}
		server, addr := library(b, dir, true)
		m := &metainfo.MetaInfo{InfoBytes: info.Bytes()}
		seeder, err := server.AddTorrent(m)
		if err != nil {
			b.Fatal(err)
		}
		if err := seeder.VerifyDataContext(b.Context()); err != nil {
			b.Fatal(err)
		}
		transporttest.Measure(b, bare(b, tr, m, addr), refs)
	})
}

// library starts a client of the library that listens if it seeds.
func library(b *testing.B, dir string, seeds bool) (*bt.Client, net.Addr) {
	cfg := bt.NewDefaultClientConfig()
	cfg.DisableTCP, cfg.DisableUTP, cfg.NoDHT, cfg.NoDefaultPortForwarding = true, true, true, true
	cfg.Seed = seeds
	cfg.Slogger = slog.New(slog.DiscardHandler)
	cfg.DefaultStorage = storage.NewFileWithCompletion(dir, storage.NewMapPieceCompletion())
	c, err := bt.NewClient(cfg)
	if err != nil {
		b.Fatal(err)
	}
	c.AddDialer(bt.NetworkDialer{Network: "tcp", Dialer: &net.Dialer{}})
	b.Cleanup(func() { c.Close() })
	if !seeds {
		return c, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	c.AddListener(l)
	b.Cleanup(func() { l.Close() })
	return c, l.Addr()
}

// bare is a Fetcher that downloads the pieces of the blocks by a new client and
// reads them.
func bare(b *testing.B, tr *tree, m *metainfo.MetaInfo, addr net.Addr) eris.Fetcher {
	return transporttest.Func(func(ctx context.Context, refs []eris.Ref, got func(int, []byte) error) error {
		c, _ := library(b, b.TempDir(), false)
		defer c.Close()
		t, err := c.AddTorrent(m)
		if err != nil {
			return err
		}
		t.AddPeers([]bt.PeerInfo{{Addr: addr}})
		for _, ref := range refs {
			i := int(tr.place[ref] * int64(eris.Size32KiB) / torrent.PieceLength)
			t.DownloadPieces(i, i+1)
		}
		r := t.NewReader()
		defer r.Close()
		buf := make([]byte, eris.Size32KiB)
		for i, ref := range refs {
			if _, err := r.Seek(tr.place[ref]*int64(eris.Size32KiB), io.SeekStart); err != nil {
				return err
			}
			if _, err := io.ReadFull(r, buf); err != nil {
				return err
			}
			if err := got(i, buf); err != nil {
				return err
			}
		}
		return nil
	})
}

// BenchmarkSeeds tells what it takes to seed contents that nobody asks for: their
// memory, and the time to offer one of 10 MB whose pieces are hashed.
func BenchmarkSeeds(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				c := start(b, bittorrent.Options{Listen: "127.0.0.1:0"})
				before := heap()
				for i := range n {
					i := info(i)
					w := block.Shared{ReadCap: i.cap, Magnet: magnet(i.info)}
					if err := c.Offer(b.Context(), w, func(context.Context) (block.Content, error) { return i, nil }); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(heap()-before)/float64(n), "bytes/seed")
				b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
				c.Close()
			}
		})
	}
}

// imagined is a content of 10 MB of which only the torrent is known.
type imagined struct {
	content
	cap  eris.ReadCap
	info torrent.Info
}

func (i imagined) Torrent(context.Context) (torrent.Info, error) { return i.info, nil }
func (imagined) Close() error                                    { return nil }

func info(n int) imagined {
	shape := eris.NewShape(eris.Size32KiB, 10_000_000)
	c := eris.ReadCap{Size: eris.Size32KiB, Level: uint8(shape.Level()), Root: eris.Ref{byte(n), byte(n >> 8)}}
	length := shape.Nodes() * int64(eris.Size32KiB)
	pieces := (length-1)/torrent.PieceLength + 1
	return imagined{cap: c, info: torrent.Info{Name: torrent.Name(c.Root), Length: length, Pieces: make([]byte, 20*pieces)}}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
