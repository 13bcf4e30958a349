package bittorrent_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	bt "github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/storage"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/torrent"
	"ersatz/internal/transport/bittorrent"
)

// TestAbsent has a peer that has half of the pieces: what it lacks is missing
// soon, and comes when another peer has it.
func TestAbsent(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 4_000_000)
	info := tr.info(t)
	link := magnet(info)
	whole, addr := seed(t, tr, link, bittorrent.Options{})
	half := start(t, bittorrent.Options{Listen: "127.0.0.1:0"})
	s := open(t, half, tr, magnet(info, peer(addr)))
	wants(t, s, tr, tr.every()[:64]...)
	whole.Close() // half would tell of it

	c := start(t, bittorrent.Options{Idle: time.Minute})
	s = open(t, c, tr, magnet(info, peer(half.Addr().String())))
	begin := time.Now()
	if err := gives(t.Context(), s, tr, tr.every()...); !errors.Is(err, errMissing) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
	wants(t, s, tr, tr.every()[:64]...)
	begin = time.Now()
	if err := gives(t.Context(), s, tr, 100); !errors.Is(err, errMissing) || time.Since(begin) > 500*time.Millisecond {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}

// liar is a peer that says of itself what it wants: it speaks by the library.
func liar(t *testing.T, h [20]byte, info []byte, file []byte) string {
	t.Helper()
	cfg := bt.NewDefaultClientConfig()
	cfg.DisableTCP, cfg.DisableUTP, cfg.NoDHT, cfg.NoDefaultPortForwarding = true, true, true, true
	cfg.Seed, cfg.AlwaysWantConns = true, true
	cfg.DefaultStorage = lie(nil)
	cfg.Slogger = slog.New(slog.DiscardHandler)
	c, err := bt.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.AddListener(l)
	t.Cleanup(func() { c.Close(); l.Close() })
	tt, _ := c.AddTorrentOpt(bt.AddTorrentOpts{InfoHash: h, Storage: lie(file), DisableInitialPieceCheck: true})
	if err := tt.SetInfoBytes(info); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// lie is a storage that says that all of it is right.
type lie []byte

func (l lie) OpenTorrent(context.Context, *metainfo.Info, metainfo.Hash) (storage.TorrentImpl, error) {
	return storage.TorrentImpl{Piece: func(p metainfo.Piece) storage.PieceImpl { return liedPiece{l, p.Offset()} }, Close: func() error { return nil }}, nil
}

type liedPiece struct {
	lie
	off int64
}

func (p liedPiece) ReadAt(b []byte, off int64) (int, error) {
	return copy(b, p.lie[min(p.off+off, int64(len(p.lie))):]) + 0, nil
}
func (p liedPiece) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
func (p liedPiece) MarkComplete() error                    { return nil }
func (p liedPiece) MarkNotComplete() error                 { return nil }
func (p liedPiece) Completion() storage.Completion {
	return storage.Completion{Ok: true, Complete: true}
}

// TestLiars has peers that give wrong metadata and wrong pieces, and an honest
// one. Nothing wrong is taken, and the honest one's comes.
func TestLiars(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 2_000_000)
	other := makeTree(t, eris.Size32KiB, 2_000_001)
	info := tr.info(t)
	wrong := make([]byte, info.Length)
	for name, tt := range map[string]struct{ info, file []byte }{
		"metadata of another": {other.info(t).Bytes(), wrong},
		"metadata with more":  {[]byte(strings.TrimSuffix(string(info.Bytes()), "e") + "7:privatei1ee"), wrong},
		"other pieces":        {info.Bytes(), wrong},
		"some other pieces":   {info.Bytes(), append(tr.file(t)[:len(wrong)/2], wrong[len(wrong)/2:]...)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := liar(t, info.Hash(), tt.info, tt.file)
			c := start(t, bittorrent.Options{Idle: 2 * time.Second})
			s := open(t, c, tr, magnet(info, peer(bad)))
			if err := gives(t.Context(), s, tr, 60); !errors.Is(err, errMissing) {
				t.Errorf("alone: %v", err)
			}
			// Whoever has given wrong bytes is banned by the address.
			_, good := seed(t, tr, magnet(info), bittorrent.Options{Listen: "127.0.0.2:0"})
			s = open(t, start(t, bittorrent.Options{Idle: 5 * time.Second}), tr, magnet(info, peer(bad), peer(good)))
			within(t, 25*time.Second, "all comes", func() bool { return gives(t.Context(), s, tr, tr.every()...) == nil })
		})
	}
}

// TestOtherTorrent has a magnet link whose torrent is whole and right, and not of
// the content.
func TestOtherTorrent(t *testing.T) {
	t.Parallel()
	tr, other := makeTree(t, eris.Size32KiB, 2_000_000), makeTree(t, eris.Size32KiB, 900_000)
	info := other.info(t)
	_, addr := seed(t, other, magnet(info), bittorrent.Options{})
	srv := startWebServer(t, info, other.file(t))
	link := magnet(info, peer(addr), func(m *torrent.Magnet) { m.Sources = []string{srv.URL + "/eris/torrent/" + info.Name + ".torrent"} })
	s := open(t, start(t, bittorrent.Options{}), tr, link)
	if err := gives(t.Context(), s, tr, 1); !errors.Is(err, errMissing) {
		t.Errorf("got %v", err)
	}
}

// TestOpen: what a client cannot have, and two sessions of one content.
func TestOpen(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 1_000_000)
	_, addr := seed(t, tr, magnet(tr.info(t)), bittorrent.Options{})
	link := magnet(tr.info(t), peer(addr))
	c := start(t, bittorrent.Options{})
	for name, w := range map[string]block.Wanted{
		"no magnet link":    {ReadCap: tr.cap, Where: tr.where},
		"a bad magnet link": {ReadCap: tr.cap, Where: tr.where, Magnet: "magnet:?xt=urn:btih:1"},
	} {
		if s := c.Open(w); s != nil {
			t.Errorf("%s: a session", name)
		}
	}
	one, two := open(t, c, tr, link), open(t, c, tr, link)
	if s := c.Open(block.Wanted{ReadCap: makeTree(t, eris.Size32KiB, 5).cap, Where: tr.where, Magnet: link}); s != nil {
		t.Error("two contents share a torrent")
	}
	wants(t, one, tr, 1, 2)
	one.Close()
	one.Close()
	wants(t, two, tr, tr.every()...)
	two.Close()
	if err := gives(t.Context(), two, tr, 1); err == nil {
		t.Error("a closed session gives blocks")
	}
	three := open(t, c, tr, link)
	wants(t, three, tr, tr.every()...)
	c.Close()
	if s := c.Open(block.Wanted{ReadCap: tr.cap, Where: tr.where, Magnet: link}); s != nil {
		t.Error("a closed client has a session")
	}
	if err := c.Offer(t.Context(), shared(tr, link), tr.open); err == nil {
		t.Error("a closed client seeds")
	}
}

// TestOptions refuses what cannot be.
func TestOptions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]bittorrent.Options{
		"MaxSeeds":  {MaxSeeds: -1},
		"Idle":      {Idle: -1},
		"Listen":    {Listen: "127.0.0.1"},
		"in use":    {Listen: deaf(t)},
		"Peers":     {Peers: []string{"127.0.0.1"}},
		"Bootstrap": {Bootstrap: []string{"localhost"}},
	} {
		if c, err := bittorrent.New(o); err == nil {
			c.Close()
			t.Errorf("%s: no error", name)
		}
	}
	c, err := bittorrent.New(bittorrent.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Addr() != nil {
		t.Error("it listens")
	}
	c.Close()
	c.Close()
}
