// Package spool holds the blocks of one content while it is encoded and as long
// as it is given to others, in a temporary file without a name.
package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/torrent"
)

// Spool is a block.Library of at most one content: none before Finish. It
// remembers some 100 bytes for each block. It is safe for concurrent use, but
// for Add and Finish, which one encoder calls.
type Spool struct {
	file *os.File
	size eris.BlockSize

	mu      sync.RWMutex
	at      map[eris.Ref]uint32 // where a block is in the file, counted in blocks
	levels  [][]uint32          // the same, for the nodes of each level
	shared  *block.Shared       // nil before Finish
	changed chan struct{}

	hashing sync.Mutex
	torrent *torrent.Info // nil before the first Torrent
}

var _ block.Library = (*Spool)(nil)

// New returns a Spool of blocks of a size, whose file is in the folder for
// temporary files. Close it.
func New(size eris.BlockSize) (*Spool, error) {
	f, err := os.CreateTemp("", "ersatz-spool-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Spool{file: f, size: size, at: map[eris.Ref]uint32{}, changed: make(chan struct{})}, nil
}

// Close frees the file. No content is open then.
func (s *Spool) Close() error { return s.file.Close() }

// Add takes a block of an Encoder.
func (s *Spool) Add(b eris.Block) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	pos, there := s.at[b.Ref]
	if !there {
		if len(s.at) == math.MaxUint32 {
			return errors.New("too many blocks")
		}
		pos = uint32(len(s.at))
		if _, err := s.file.WriteAt(b.Data, s.offset(pos)); err != nil {
			return fmt.Errorf("temporary file: %w", err)
		}
		s.at[b.Ref] = pos
	}
	for len(s.levels) <= b.Level {
		s.levels = append(s.levels, nil)
	}
	s.levels[b.Level] = append(s.levels[b.Level], pos)
	return nil
}

// Finish says what content the blocks are of, which is in the Library from then
// on.
func (s *Spool) Finish(c block.Shared) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shared = &c
	close(s.changed)
	s.changed = make(chan struct{})
}

// Torrent returns the torrent that the blocks make, all of which have been added,
// the last one being root. It reads them, once.
func (s *Spool) Torrent(ctx context.Context, root eris.Ref) (torrent.Info, error) {
	s.hashing.Lock()
	defer s.hashing.Unlock()
	if s.torrent != nil {
		return *s.torrent, nil
	}
	c := s.content()
	b := torrent.NewBuilder()
	for place := range c.Len() {
		_, data, err := c.Block(ctx, place)
		if err != nil {
			return torrent.Info{}, err
		}
		b.Write(data) // it never fails
	}
	info := b.Finish(root)
	s.torrent = &info
	return info, nil
}

func (s *Spool) content() *content { return &content{s: s, buf: make([]byte, s.size)} }

func (s *Spool) offset(pos uint32) int64 { return int64(pos) * int64(s.size) }

// Get implements block.Getter.
func (s *Spool) Get(ctx context.Context, ref eris.Ref) ([]byte, error) {
	s.mu.RLock()
	pos, ok := s.at[ref]
	s.mu.RUnlock()
	if !ok {
		return nil, &eris.MissingError{Ref: ref}
	}
	b := make([]byte, s.size)
	got, err := s.read(ctx, pos, b)
	if err == nil && got != ref {
		err = &block.CorruptError{Ref: ref, Source: "temporary file"}
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// read reads a block into b, and returns what its reference is now.
func (s *Spool) read(ctx context.Context, pos uint32, b []byte) (eris.Ref, error) {
	if err := ctx.Err(); err != nil {
		return eris.Ref{}, err
	}
	if _, err := s.file.ReadAt(b, s.offset(pos)); err != nil && !errors.Is(err, io.EOF) {
		return eris.Ref{}, fmt.Errorf("temporary file: %w", err)
	}
	return eris.BlockRef(b), nil
}

// Each implements block.Library.
func (s *Spool) Each(_ context.Context, visit func(block.Shared) error) error {
	s.mu.RLock()
	shared := s.shared
	s.mu.RUnlock()
	if shared == nil {
		return nil
	}
	return visit(*shared)
}

// Changed implements block.Library.
func (s *Spool) Changed() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.changed
}

// Open implements block.Library.
func (s *Spool) Open(_ context.Context, root eris.Ref) (block.Content, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.shared == nil || s.shared.ReadCap.Root != root {
		return nil, fmt.Errorf("content of %s: %w", root, eris.ErrNotFound)
	}
	return s.content(), nil
}

// content is the one content, read from the file.
type content struct {
	s   *Spool
	buf []byte
}

func (c *content) Len() (n int64) {
	for _, level := range c.s.levels { // it grows no more
		n += int64(len(level))
	}
	return n
}

func (c *content) Block(ctx context.Context, place int64) (eris.Ref, []byte, error) {
	for _, level := range c.s.levels {
		if place >= int64(len(level)) {
			place -= int64(len(level))
			continue
		}
		ref, err := c.s.read(ctx, level[place], c.buf)
		if err != nil {
			return eris.Ref{}, nil, err
		}
		if pos, ok := c.s.at[ref]; !ok || pos != level[place] {
			return eris.Ref{}, nil, fmt.Errorf("temporary file: %w", eris.ErrCorrupt)
		}
		return ref, c.buf, nil
	}
	return eris.Ref{}, nil, fmt.Errorf("temporary file: no block %d more: %w", place, eris.ErrNotFound)
}

// Torrent returns the torrent of the content, for a source that asks for it.
func (c *content) Torrent(ctx context.Context) (torrent.Info, error) {
	return c.s.Torrent(ctx, c.s.shared.ReadCap.Root)
}

func (c *content) Close() error { return nil }
