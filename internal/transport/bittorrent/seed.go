package bittorrent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	bt "github.com/anacrolix/torrent"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/torrent"
)

// seed is a content that is given to others. Nothing of it is kept here but the
// hashes of its pieces.
type seed struct {
	c      *Client
	s      block.Shared
	open   func(context.Context) (block.Content, error)
	t      *bt.Torrent
	info   torrent.Info
	ctx    context.Context
	cancel context.CancelFunc

	mu   sync.Mutex
	lost map[int]bool // pieces that could not be read
}

// described is a Content that knows its torrent, so that not all of it has to be
// read to offer it.
type described interface {
	Torrent(ctx context.Context) (torrent.Info, error)
}

// Describe returns the torrent of a content, which it reads whole unless that has
// a method Torrent which knows it; that says fs.ErrNotExist if it does not.
func Describe(ctx context.Context, root eris.Ref, content block.Content) (torrent.Info, error) {
	if d, ok := content.(described); ok {
		if i, err := d.Torrent(ctx); !errors.Is(err, fs.ErrNotExist) {
			return i, err
		}
	}
	b := torrent.NewBuilder()
	for place := range content.Len() {
		_, data, err := content.Block(ctx, place)
		if err != nil {
			return torrent.Info{}, err
		}
		b.Write(data) // its error is nil
	}
	return b.Finish(root), nil
}

// Offer implements block.Sink: the content is seeded. One without a magnet link
// has no torrent, and is left out. The error matches ErrFull when as many as
// Options.MaxSeeds are, and ErrOther if the magnet link is not of the content.
// Offering again tells nobody anew: trackers and the DHT are told every while.
func (c *Client) Offer(ctx context.Context, s block.Shared, open func(context.Context) (block.Content, error)) error {
	if s.Magnet == "" {
		return nil
	}
	m, err := torrent.ParseMagnet(s.Magnet)
	if err != nil {
		return err
	}
	if err := c.room(m.Hash); err != nil || c.offered(m.Hash) {
		return err
	}
	info, err := c.describe(ctx, s, open)
	if err != nil {
		return fmt.Errorf("bittorrent: torrent of %s: %w", s.ReadCap.Root, err)
	}
	if _, err := info.Shape(s.ReadCap); err != nil || info.Hash() != m.Hash {
		return fmt.Errorf("%w: %s", ErrOther, s.ReadCap.Root)
	}
	return c.seed(m, &seed{c: c, s: s, open: open, info: info, lost: map[int]bool{}})
}

func (c *Client) room(h hash) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return errEnded
	case c.seeds[h] == nil && len(c.seeds) >= c.o.MaxSeeds:
		return fmt.Errorf("%w: limit %d", ErrFull, c.o.MaxSeeds)
	}
	return nil
}

func (c *Client) offered(h hash) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seeds[h] != nil
}

func (c *Client) describe(ctx context.Context, s block.Shared, open func(context.Context) (block.Content, error)) (torrent.Info, error) {
	content, err := open(ctx)
	if err != nil {
		return torrent.Info{}, err
	}
	defer content.Close()
	return Describe(ctx, s.ReadCap.Root, content)
}

// seed begins to give a torrent to others. A download of it ends: all is here.
func (c *Client) seed(m torrent.Magnet, s *seed) error {
	if err := c.room(m.Hash); err != nil {
		return err
	}
	c.mu.Lock()
	if c.closed || c.seeds[m.Hash] != nil {
		c.mu.Unlock()
		return nil
	}
	d := c.downloads[m.Hash]
	delete(c.downloads, m.Hash)
	s.ctx, s.cancel = context.WithCancel(c.ctx)
	c.seeds[m.Hash] = s
	c.mu.Unlock()
	if d != nil {
		d.end()
	}
	s.t = c.add(m.Hash, s)
	if err := s.t.SetInfoBytes(s.info.Bytes()); err != nil {
		return errors.Join(err, c.Withdraw(s.ctx, s.s))
	}
	c.known.Store(m.Hash, s.info)
	c.announce(s.t, m)
	if c.dht != nil {
		c.dht.add(m.Hash, s.t, false)
	}
	return nil
}

// Withdraw implements block.Sink.
func (c *Client) Withdraw(_ context.Context, s block.Shared) error {
	if s.Magnet == "" {
		return nil
	}
	m, err := torrent.ParseMagnet(s.Magnet)
	if err != nil {
		return err
	}
	c.mu.Lock()
	held := c.seeds[m.Hash]
	delete(c.seeds, m.Hash)
	c.mu.Unlock()
	if held == nil {
		return nil
	}
	if c.dht != nil {
		c.dht.remove(m.Hash)
	}
	c.known.Delete(m.Hash)
	held.cancel() // ends reads that Drop would wait for
	held.t.Drop()
	c.pieces.forget(held)
	return nil
}

// accept implements bytesOf: the metadata is the seed's own.
func (s *seed) accept(torrent.Info) error { return nil }
func (s *seed) joined() *bt.Torrent       { return s.t }

func (s *seed) allow(n int) error { return s.c.allow(s.ctx, n) }

// read reads from a piece, which is read whole from the content.
func (s *seed) read(b []byte, off int64) error {
	i := int(off / torrent.PieceLength)
	p, err := s.c.pieces.get(s, i)
	switch {
	case errors.Is(err, eris.ErrNotFound) || errors.Is(err, eris.ErrCorrupt):
		s.mu.Lock()
		s.lost[i] = true
		s.mu.Unlock()
		fallthrough
	case err != nil:
		return err
	}
	copy(b, p[off%torrent.PieceLength:])
	return nil
}

// write and verified are for the pieces that are lost; those are not fetched.
func (s *seed) write([]byte, int64) error { return errors.New("bittorrent: a seed is written to") }
func (s *seed) verified(int)              {}

func (s *seed) has(piece int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.lost[piece]
}
