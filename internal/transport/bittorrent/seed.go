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

// seed is a content that is given to others. Nothing of it is kept here but its
// metadata.
type seed struct {
	c      *Client
	s      block.Shared
	open   func(context.Context) (block.Content, error)
	t      *bt.Torrent
	length int64 // of the file
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
// a method Torrent which knows it; that says fs.ErrNotExist if it does not. The
// error matches torrent.ErrTooLong if it is too long for one.
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
		if b.Length() > torrent.MaxLength {
			return torrent.Info{}, fmt.Errorf("%w: more than %d bytes", torrent.ErrTooLong, torrent.MaxLength)
		}
	}
	return b.Finish(root), nil
}

// Offer implements block.Sink: the content is seeded. One without a magnet link
// has no torrent, and is left out. The error matches ErrFull when as many as
// Options.MaxSeeds are, and ErrOther if the magnet link is none, or not of the
// content.
// Offering again tells nobody anew: trackers and the DHT are told every while.
func (c *Client) Offer(ctx context.Context, s block.Shared, open func(context.Context) (block.Content, error)) error {
	if s.Magnet == "" {
		return nil
	}
	m, err := torrent.ParseMagnet(s.Magnet)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOther, err)
	}
	if there, err := c.seeded(m.Hash); err != nil || there {
		return err
	}
	info, err := c.describe(ctx, s, open)
	if err != nil {
		return fmt.Errorf("bittorrent: torrent of %s: %w", s.ReadCap.Root, err)
	}
	if _, err := info.Shape(s.ReadCap); err != nil || info.Hash() != m.Hash {
		return fmt.Errorf("%w: %s", ErrOther, s.ReadCap.Root)
	}
	return c.seed(m, info.Bytes(), &seed{c: c, s: s, open: open, length: info.Length, lost: map[int]bool{}})
}

// seeded reports whether a torrent is seeded. The error says that it cannot be.
func (c *Client) seeded(h hash) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return false, errEnded
	case c.seeds[h] != nil:
		return true, nil
	case len(c.seeds) >= c.o.MaxSeeds:
		return false, fmt.Errorf("%w: limit %d", ErrFull, c.o.MaxSeeds)
	}
	return false, nil
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
func (c *Client) seed(m torrent.Magnet, info []byte, s *seed) error {
	c.offering.Lock()
	defer c.offering.Unlock()
	if there, err := c.seeded(m.Hash); err != nil || there {
		return err
	}
	c.mu.Lock()
	d := c.downloads[m.Hash]
	delete(c.downloads, m.Hash)
	c.seeds[m.Hash] = s // so that it is not downloaded again
	c.mu.Unlock()
	if d != nil {
		d.end()
	}
	s.ctx, s.cancel = context.WithCancel(c.ctx)
	s.t = c.add(m.Hash, s)
	if err := s.t.SetInfoBytes(info); err != nil {
		c.withdraw(m.Hash)
		return err
	}
	c.known.Store(m.Hash, &metadata{info})
	c.announce(s.ctx, s.t, m, false)
	if c.dht != nil {
		c.dht.add(m.Hash, s.t, false)
	}
	if c.locals != nil {
		c.locals.add(m.Hash, s.t, false)
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
	c.offering.Lock()
	defer c.offering.Unlock()
	c.withdraw(m.Hash)
	return nil
}

func (c *Client) withdraw(h hash) {
	c.mu.Lock()
	s := c.seeds[h]
	c.mu.Unlock()
	if s == nil {
		return
	}
	if c.dht != nil {
		c.dht.remove(h)
	}
	if c.locals != nil {
		c.locals.remove(h)
	}
	c.known.Delete(h)
	s.cancel() // the reads that run end by hanging up
	s.t.Drop()
	c.pieces.forget(s)
	c.mu.Lock()
	delete(c.seeds, h) // now it may be fetched
	c.mu.Unlock()
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
