// Package block is what stores and sources of ERIS blocks have in common: two
// small interfaces, the decorator that verifies, and the way from a Getter to
// the eris.Fetcher that a reader of contents needs.
//
// Stores and their shared suite are in the folders below.
package block

import (
	"context"
	"fmt"

	"ersatz/eris"
)

// Getter is a source of blocks.
type Getter interface {
	// Get returns the block named ref, unverified: see Verify. The caller
	// owns the slice. An error matches eris.ErrNotFound if the source
	// answered that it lacks the block; once ctx has ended, it is ctx's. Get
	// is safe for concurrent use.
	Get(ctx context.Context, ref eris.Ref) ([]byte, error)
}

// Putter is a sink of blocks.
type Putter interface {
	// Put stores block under ref, which the caller has computed or verified.
	// It keeps no part of the slice. To put a block again is no error. Once ctx has ended, the error is ctx's. A
	// length that no block has is an error that matches eris.ErrCorrupt. Put
	// is safe for concurrent use, also of one reference.
	Put(ctx context.Context, ref eris.Ref, block []byte) error
}

// Store is both.
type Store interface {
	Getter
	Putter
}

// MaxSize is the size of the largest block in bytes.
const MaxSize = int(eris.Size32KiB)

// CorruptError says that bytes were not the block that they were given for. It
// matches eris.ErrCorrupt.
type CorruptError struct {
	Ref    eris.Ref
	Source string // peer or store that sent the bytes
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("block %s: %s gave other bytes", e.Ref, e.Source)
}

// Is reports whether target is eris.ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == eris.ErrCorrupt }

// CheckSize returns an error that matches eris.ErrCorrupt unless block is as
// long as a block can be. Stores call it before they store.
func CheckSize(ref eris.Ref, block []byte) error {
	if !eris.BlockSize(len(block)).Valid() {
		return fmt.Errorf("block %s: %w: no block has %d bytes", ref, eris.ErrCorrupt, len(block))
	}
	return nil
}
