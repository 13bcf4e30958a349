// Package blocktest is the suite that every block.Store passes, and a map of
// blocks for servers of tests.
package blocktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"ersatz/eris"
	"ersatz/internal/block"
)

// Make returns a block of a size and its reference, others for each seed.
func Make(size eris.BlockSize, seed uint64) (eris.Ref, []byte) {
	b := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	rng.Read(b) // never fails
	return eris.BlockRef(b), b
}

// Blocks is what a server of blocks has, as n2r.Handler wants it. What it holds
// need not be what the reference says.
type Blocks map[eris.Ref][]byte

// Get returns a block. The error matches eris.ErrNotFound if there is none.
func (b Blocks) Get(_ context.Context, ref eris.Ref) ([]byte, error) {
	if block, ok := b[ref]; ok {
		return block, nil
	}
	return nil, &eris.MissingError{Ref: ref}
}

// Batch calls emit for each reference in order, with nil for one that is not
// there. It returns the first error of emit.
func (b Blocks) Batch(_ context.Context, refs []eris.Ref, emit func(i int, block []byte) error) error {
	for i, ref := range refs {
		if err := emit(i, b[ref]); err != nil {
			return err
		}
	}
	return nil
}

// Run runs the suite. open returns an empty store and sees to its end by
// t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) block.Store) {
	for name, test := range map[string]func(*testing.T, block.Store){
		"missing":       testMissing,
		"sizes":         testSizes,
		"wrong block":   testWrongBlock,
		"duplicate":     testDuplicate,
		"ownership":     testOwnership,
		"concurrent":    testConcurrent,
		"cancelled":     testCancelled,
		"whole content": testContent,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func testMissing(t *testing.T, s block.Store) {
	here, b := Make(eris.Size1KiB, 1)
	put(t, s, here, b)
	for _, ref := range []eris.Ref{{}, {1}, {0xff, 31: 0xff}} {
		if b, err := s.Get(t.Context(), ref); !errors.Is(err, eris.ErrNotFound) || b != nil {
			t.Errorf("%s: %d bytes, %v", ref, len(b), err)
		}
	}
}

func testSizes(t *testing.T, s block.Store) {
	for i, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		ref, b := Make(size, uint64(i))
		put(t, s, ref, b)
		wants(t, s, ref, b)
	}
	for _, n := range []int{0, 1, 1023, 1025, 4096, 32767, 32769, 65536} {
		b := make([]byte, n)
		ref := eris.BlockRef(b)
		if err := s.Put(t.Context(), ref, b); !errors.Is(err, eris.ErrCorrupt) {
			t.Errorf("put of %d bytes: %v", n, err)
		}
		if _, err := s.Get(t.Context(), ref); !errors.Is(err, eris.ErrNotFound) {
			t.Errorf("get of %d bytes: %v", n, err)
		}
	}
}

// testWrongBlock puts bytes under another's name. A store may refuse them; one
// that does not is caught by Verify.
func testWrongBlock(t *testing.T, s block.Store) {
	ref, _ := Make(eris.Size1KiB, 1)
	_, other := Make(eris.Size1KiB, 2)
	if err := s.Put(t.Context(), ref, other); err != nil {
		if !errors.Is(err, eris.ErrCorrupt) {
			t.Errorf("put: %v", err)
		}
		return
	}
	b, err := block.Verify(s, "the store").Get(t.Context(), ref)
	var corrupt *block.CorruptError
	if !errors.As(err, &corrupt) || !errors.Is(err, eris.ErrCorrupt) || b != nil {
		t.Fatalf("get: %d bytes, %v", len(b), err)
	}
	if corrupt.Ref != ref || corrupt.Source != "the store" {
		t.Errorf("error names %s, %s", corrupt.Ref, corrupt.Source)
	}
}

func testDuplicate(t *testing.T, s block.Store) {
	ref, b := Make(eris.Size32KiB, 1)
	for range 3 {
		put(t, s, ref, b)
	}
	wants(t, s, ref, b)
}

// testOwnership changes what was put and what was got.
func testOwnership(t *testing.T, s block.Store) {
	ref, b := Make(eris.Size1KiB, 1)
	mine := bytes.Clone(b)
	put(t, s, ref, mine)
	clear(mine)
	got, err := s.Get(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	clear(got)
	wants(t, s, ref, b)
}

func testConcurrent(t *testing.T, s block.Store) {
	const workers, blocks = 8, 40
	var work sync.WaitGroup
	for w := range uint64(workers) {
		work.Go(func() {
			rng := rand.New(rand.NewPCG(w, 0))
			for _, i := range rng.Perm(blocks) {
				ref, b := Make(eris.Size1KiB, uint64(i))
				got, err := s.Get(t.Context(), ref)
				if err == nil && !bytes.Equal(got, b) {
					err = errors.New("other bytes")
				}
				if err != nil && !errors.Is(err, eris.ErrNotFound) {
					t.Errorf("get: %v", err)
				}
				if err := s.Put(t.Context(), ref, b); err != nil {
					t.Errorf("put: %v", err)
				}
				if got, err := s.Get(t.Context(), ref); err != nil || !bytes.Equal(got, b) {
					t.Errorf("get after put: %d bytes, %v", len(got), err)
				}
			}
		})
	}
	work.Wait()
}

func testCancelled(t *testing.T, s block.Store) {
	ref, b := Make(eris.Size1KiB, 1)
	put(t, s, ref, b)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, ref); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	other, b := Make(eris.Size1KiB, 2)
	if err := s.Put(ctx, other, b); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	if _, err := s.Get(t.Context(), other); !errors.Is(err, eris.ErrNotFound) {
		t.Errorf("get of what was not put: %v", err)
	}
}

// testContent encodes a content into the store and reads it back.
func testContent(t *testing.T, s block.Store) {
	content := make([]byte, 300_000)
	rand.NewChaCha8([32]byte{1}).Read(content)
	c, _, err := eris.Encode(bytes.NewReader(content), eris.Size1KiB, eris.Secret{}, func(b eris.Block) error {
		return s.Put(t.Context(), b.Ref, b.Data)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, parallel := range []int{0, 1, 7} {
		t.Run(fmt.Sprint(parallel), func(t *testing.T) {
			r := eris.NewReader(t.Context(), c, block.Fetcher(s, parallel), eris.ReaderOptions{})
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

func put(t *testing.T, s block.Store, ref eris.Ref, b []byte) {
	t.Helper()
	if err := s.Put(t.Context(), ref, b); err != nil {
		t.Fatal(err)
	}
}

func wants(t *testing.T, s block.Store, ref eris.Ref, b []byte) {
	t.Helper()
	if got, err := s.Get(t.Context(), ref); err != nil || !bytes.Equal(got, b) {
		t.Errorf("%s: %d bytes, %v", ref, len(got), err)
	}
}
