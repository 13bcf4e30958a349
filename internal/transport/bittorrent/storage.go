package bittorrent

import (
	"context"
	"errors"
	"fmt"
	"io"

	bt "github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/storage"

	"ersatz/internal/torrent"
)

// bytesOf is the file of one torrent, as its owner keeps it. The library calls
// it with its own lock held, so that nothing here may call the library.
type bytesOf interface {
	// accept is told the metadata, which has the right hash. An error refuses the
	// torrent.
	accept(torrent.Info) error
	// read fills b from off on, within one piece.
	read(b []byte, off int64) error
	// write keeps bytes that are not verified. It may drop those of a piece that
	// is.
	write(b []byte, off int64) error
	// verified is told that a piece is right.
	verified(piece int)
	// has reports whether a piece is there and right.
	has(piece int) bool
	// allow waits until n bytes may be sent to a peer.
	allow(n int) error
	// joined returns the torrent.
	joined() *bt.Torrent
}

// backend is a bytesOf as the library wants it.
type backend struct{ f bytesOf }

// OpenTorrent implements storage.ClientImpl. It makes sure of the hash: the library
// takes metadata of any (v1.60.0, Torrent.hashInfoBytes).
func (b backend) OpenTorrent(_ context.Context, info *metainfo.Info, want metainfo.Hash) (storage.TorrentImpl, error) {
	i := torrent.Info{Name: info.Name, Length: info.Length, Pieces: info.Pieces}
	if i.Hash() != hash(want) {
		return storage.TorrentImpl{}, fmt.Errorf("metadata is not that of a content's torrent: %w", ErrOther)
	}
	if err := b.f.accept(i); err != nil {
		return storage.TorrentImpl{}, err
	}
	return storage.TorrentImpl{
		Piece: func(p metainfo.Piece) storage.PieceImpl {
			return &piece{b.f, p.Index(), p.Offset()}
		},
		// Only what is sent to peers is read by this.
		NewReader: func() storage.TorrentReader { return sender(b) },
		Close:     func() error { return nil },
	}, nil
}

// piece implements storage.PieceImpl.
type piece struct {
	f     bytesOf
	index int
	start int64
}

func (p *piece) ReadAt(b []byte, off int64) (int, error)  { return all(b, p.f.read(b, p.start+off)) }
func (p *piece) WriteAt(b []byte, off int64) (int, error) { return all(b, p.f.write(b, p.start+off)) }
func (p *piece) MarkNotComplete() error                   { return nil } // what is right stays right
func (p *piece) MarkComplete() error                      { p.f.verified(p.index); return nil }
func (p *piece) Completion() storage.Completion {
	return storage.Completion{Ok: true, Complete: p.f.has(p.index)}
}

// all is what a reader or writer of all of b returns.
func all(b []byte, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// sender implements storage.TorrentReader.
type sender struct{ f bytesOf }

// ReadAt returns no error: the library panics if a read fails while a torrent is
// dropped (v1.60.0, PeerConn.servePeerRequest). Instead, all connections of the
// torrent are closed, so that nothing of b is sent; peers that come back are told
// which pieces there are.
func (s sender) ReadAt(b []byte, off int64) (int, error) {
	if err := s.fill(b, off); err != nil {
		t := s.f.joined()
		t.Piece(int(off / torrent.PieceLength)).UpdateCompletion()
		t.SetMaxEstablishedConns(0)
		t.SetMaxEstablishedConns(perTorrent)
	}
	return len(b), nil
}

func (s sender) fill(b []byte, off int64) error {
	if err := s.f.allow(len(b)); err != nil {
		return err
	}
	return s.f.read(b, off)
}

func (s sender) Close() error { return nil }

// noStorage is for torrents that bring no storage. There are none.
type noStorage struct{}

func (noStorage) OpenTorrent(context.Context, *metainfo.Info, metainfo.Hash) (storage.TorrentImpl, error) {
	return storage.TorrentImpl{}, errors.New("bittorrent: a torrent without a storage")
}

var (
	_ storage.ClientImpl    = backend{}
	_ storage.PieceImpl     = (*piece)(nil)
	_ storage.TorrentReader = sender{}
	_ io.ReaderAt           = sender{}
)

// add joins a torrent.
func (c *Client) add(h hash, f bytesOf) *bt.Torrent {
	t, _ := c.bt.AddTorrentOpt(bt.AddTorrentOpts{InfoHash: h, Storage: backend{f}, DisableInitialPieceCheck: true})
	return t
}

// allow waits until the Limiter lets n bytes go.
func (c *Client) allow(ctx context.Context, n int) error {
	const chunk = 16 << 10 // what a request of BitTorrent is about
	for c.o.Limit != nil && n > 0 {
		if err := c.o.Limit.WaitN(ctx, min(n, chunk)); err != nil {
			return err
		}
		n -= chunk
	}
	return ctx.Err()
}
