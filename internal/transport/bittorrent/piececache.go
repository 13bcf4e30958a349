package bittorrent

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/torrent"
)

const (
	// cachedPieces bounds the pieces that are kept for the next request, 16 MiB:
	// peers ask for the 16 parts of a piece one by one.
	cachedPieces = 64

	// openContents bounds the contents that are open at a time, and the reads
	// that run.
	openContents = 16
)

// pieceCache reads pieces of seeds, each once for all who ask at a time, and
// keeps some, and the contents that they are of.
type pieceCache struct {
	slots chan struct{} // reads that run

	mu     sync.Mutex
	pieces map[pieceKey]*list.Element
	order  *list.List // of *cached, the one that was used last at the front
	open   map[*seed]*opened
	uses   int // counts the uses of contents
	closed bool
}

type pieceKey struct {
	s *seed
	i int
}

type cached struct {
	key  pieceKey
	done chan struct{} // closed when data or err is set
	data []byte
	err  error
}

// opened is a content that is open. Its fields but content are guarded by
// pieceCache.mu.
type opened struct {
	reading sync.Mutex // held to use content
	content block.Content
	users   int
	last    int // when it was used
	gone    bool
}

func newPieceCache() *pieceCache {
	return &pieceCache{slots: make(chan struct{}, openContents), pieces: map[pieceKey]*list.Element{},
		order: list.New(), open: map[*seed]*opened{}}
}

// get returns a piece. The slice is not to be changed.
func (c *pieceCache) get(s *seed, i int) ([]byte, error) {
	c.mu.Lock()
	if e := c.pieces[pieceKey{s, i}]; e != nil {
		c.order.MoveToFront(e)
		c.mu.Unlock()
		p := e.Value.(*cached)
		select {
		case <-p.done:
			return p.data, p.err
		case <-s.ctx.Done():
			return nil, s.ctx.Err()
		}
	}
	p := &cached{key: pieceKey{s, i}, done: make(chan struct{})}
	c.pieces[p.key] = c.order.PushFront(p)
	for c.order.Len() > cachedPieces {
		delete(c.pieces, c.order.Remove(c.order.Back()).(*cached).key)
	}
	c.mu.Unlock()
	p.data, p.err = c.read(s, i)
	close(p.done)
	if p.err != nil {
		c.drop(p)
	}
	return p.data, p.err
}

// drop has a piece read again that could not be read.
func (c *pieceCache) drop(p *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.pieces[p.key]; e != nil && e.Value == p {
		delete(c.pieces, p.key)
		c.order.Remove(e)
	}
}

// read reads a piece from the content, which verifies each block.
func (c *pieceCache) read(s *seed, i int) ([]byte, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
	o := c.acquire(s)
	defer c.release(s, o)
	o.reading.Lock()
	defer o.reading.Unlock()
	if o.content == nil {
		content, err := s.open(s.ctx)
		if err != nil {
			return nil, err
		}
		o.content = content
	}
	data, err := readPiece(s.ctx, s, o.content, i)
	if err != nil {
		o.content.Close() // the next one who reads opens it anew
		o.content = nil
	}
	return data, err
}

func readPiece(ctx context.Context, s *seed, content block.Content, i int) ([]byte, error) {
	size := int64(s.s.ReadCap.Size)
	off := int64(i) * torrent.PieceLength
	data := make([]byte, 0, min(torrent.PieceLength, s.length-off))
	for place := off / size; len(data) < cap(data); place++ {
		ref, b, err := content.Block(ctx, place)
		if err != nil {
			return nil, err
		}
		if int64(len(b)) != size {
			return nil, fmt.Errorf("block %s: %w: it has %d bytes", ref, eris.ErrCorrupt, len(b))
		}
		data = append(data, b...)
	}
	return data, nil
}

// acquire returns the content of a seed, which may have to be opened. Who calls
// it has a slot, so that one of as many as may be open is not used.
func (c *pieceCache) acquire(s *seed) *opened {
	c.mu.Lock()
	o := c.open[s]
	var idle *opened
	if o == nil {
		o = &opened{}
		if len(c.open) >= openContents {
			idle = c.evict()
		}
		c.open[s] = o
	}
	o.users++
	c.uses++
	o.last = c.uses
	c.mu.Unlock()
	if idle != nil && idle.content != nil {
		idle.content.Close()
	}
	return o
}

// evict takes the unused content that was used longest ago out of open.
func (c *pieceCache) evict() *opened {
	var at *seed
	for s, o := range c.open {
		if o.users == 0 && (at == nil || o.last < c.open[at].last) {
			at = s
		}
	}
	o := c.open[at]
	delete(c.open, at)
	return o
}

func (c *pieceCache) release(s *seed, o *opened) {
	c.mu.Lock()
	o.users--
	last := o.users == 0 && (o.gone || c.closed)
	if last {
		delete(c.open, s)
	}
	c.mu.Unlock()
	if last && o.content != nil {
		o.content.Close()
	}
}

// forget closes what belongs to a seed, once nobody reads it.
func (c *pieceCache) forget(s *seed) {
	c.mu.Lock()
	for key, e := range c.pieces {
		if key.s == s {
			delete(c.pieces, key)
			c.order.Remove(e)
		}
	}
	o := c.open[s]
	idle := o != nil && o.users == 0
	if idle {
		delete(c.open, s)
	} else if o != nil {
		o.gone = true
	}
	c.mu.Unlock()
	if idle && o.content != nil {
		o.content.Close()
	}
}

// close closes the contents. Those that are read just now are closed afterwards.
func (c *pieceCache) close() error {
	c.mu.Lock()
	c.closed = true
	var idle []*opened
	for s, o := range c.open {
		if o.users == 0 {
			delete(c.open, s)
			idle = append(idle, o)
		}
	}
	c.mu.Unlock()
	var errs []error
	for _, o := range idle {
		if o.content != nil {
			errs = append(errs, o.content.Close())
		}
	}
	return errors.Join(errs...)
}
