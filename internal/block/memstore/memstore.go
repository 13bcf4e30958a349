// Package memstore keeps ERIS blocks in memory, for tests and for contents
// that are known to be small: it has no limit of its own.
package memstore

import (
	"bytes"
	"context"
	"sync"

	"ersatz/eris"
	"ersatz/internal/block"
)

// Store is a block.Store. Make it with New.
type Store struct {
	mu     sync.RWMutex
	blocks map[eris.Ref][]byte
}

var _ block.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store { return &Store{blocks: make(map[eris.Ref][]byte)} }

// Get implements block.Getter.
func (s *Store) Get(ctx context.Context, ref eris.Ref) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	b, ok := s.blocks[ref]
	s.mu.RUnlock()
	if !ok {
		return nil, &eris.MissingError{Ref: ref}
	}
	return bytes.Clone(b), nil
}

// Put implements block.Putter.
func (s *Store) Put(ctx context.Context, ref eris.Ref, b []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := block.CheckSize(ref, b); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.blocks[ref]; !ok {
		s.blocks[ref] = bytes.Clone(b)
	}
	return nil
}

// Len returns the number of blocks.
func (s *Store) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.blocks)
}
