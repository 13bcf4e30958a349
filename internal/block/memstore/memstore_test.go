package memstore_test

import (
	"testing"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/memstore"
)

func TestStore(t *testing.T) {
	blocktest.Run(t, func(*testing.T) block.Store { return memstore.New() })
}

func TestLen(t *testing.T) {
	s := memstore.New()
	for seed := range uint64(3) {
		for range 2 {
			ref, b := blocktest.Make(eris.Size1KiB, seed)
			if err := s.Put(t.Context(), ref, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s.Len() != 3 {
		t.Errorf("%d blocks", s.Len())
	}
}
