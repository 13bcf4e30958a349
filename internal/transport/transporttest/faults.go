package transporttest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block/blocktest"
)

// testWrongBlock has the peer give another block for one of many. Who asks is
// told by its own error.
func testWrongBlock(t *testing.T, tr Transport) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		s, refs := fill(t, size, 20)
		_, other := blocktest.Make(size, 1000)
		f, _, _ := start(t, tr, getter(func(ctx context.Context, ref eris.Ref) ([]byte, error) {
			if ref == refs[7] {
				return other, nil
			}
			return s.Get(ctx, ref)
		}), refs, patience)
		got, err := fetch(t, t.Context(), f, size, refs)
		blamed := errors.Is(err, eris.ErrCorrupt)
		if tr.WrongIsMissing {
			blamed = err == nil && len(got) < len(refs)
		}
		if !blamed || got[7] != 0 {
			t.Errorf("%v: %v, wrong block taken %d times", size, err, got[7])
		}
	}
}

// testWrongSize has the peer give blocks of the other size. That is either wrong
// bytes or no such block.
func testWrongSize(t *testing.T, tr Transport) {
	for asked, held := range map[eris.BlockSize]eris.BlockSize{eris.Size1KiB: eris.Size32KiB, eris.Size32KiB: eris.Size1KiB} {
		s, refs := fill(t, held, 3)
		f, _, _ := start(t, tr, s, refs, patience)
		got, err := fetch(t, t.Context(), f, asked, refs)
		if err != nil && !errors.Is(err, eris.ErrCorrupt) || len(got) != 0 {
			t.Errorf("asked for %v, held are %v: %d blocks, %v", asked, held, len(got), err)
		}
		if got, err := fetch(t, t.Context(), f, held, refs); err != nil || len(got) != len(refs) {
			t.Errorf("asked for %v then: %d blocks, %v", held, len(got), err)
		}
	}
}

// testBroken has the peer's store fail. Nothing comes, and nobody is blamed for
// wrong bytes.
func testBroken(t *testing.T, tr Transport) {
	_, refs := fill(t, eris.Size1KiB, 5)
	f, _, _ := start(t, tr, getter(func(context.Context, eris.Ref) ([]byte, error) {
		return nil, errors.New("disk is broken")
	}), refs, patience)
	if got, err := fetch(t, t.Context(), f, eris.Size1KiB, refs); len(got) != 0 || errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("%d blocks, %v", len(got), err)
	}
}

// testSlow has each block take a while, all of them longer than the peer may be
// silent.
func testSlow(t *testing.T, tr Transport) {
	s, refs := fill(t, eris.Size32KiB, 60)
	var one sync.Mutex
	f, _, _ := start(t, tr, getter(func(ctx context.Context, ref eris.Ref) ([]byte, error) {
		one.Lock() // one block after the other
		defer one.Unlock()
		wait(ctx, idle/10)
		return s.Get(ctx, ref)
	}), refs, 5*idle)
	got, err := fetch(t, t.Context(), f, eris.Size32KiB, refs)
	wantAll(t, got, len(refs), err)
}

// testSilent has the peer stop answering after some blocks.
func testSilent(t *testing.T, tr Transport) {
	s, refs := fill(t, eris.Size1KiB, 20)
	var n atomic.Int32
	f, _, _ := start(t, tr, getter(func(ctx context.Context, ref eris.Ref) ([]byte, error) {
		if n.Add(1) > 5 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return s.Get(ctx, ref)
	}), refs, idle)
	got, err := fetch(t, t.Context(), f, eris.Size1KiB, refs)
	if len(got) > 5 || errors.Is(err, eris.ErrCorrupt) || err == nil && !tr.SilenceIsMissing {
		t.Errorf("%d blocks, %v", len(got), err)
	}
}

// testDeaf asks a peer that does not speak at all.
func testDeaf(t *testing.T, tr Transport) {
	f := tr.Dial(t, tr.Deaf(t), idle)
	got, err := fetch(t, t.Context(), f, eris.Size1KiB, []eris.Ref{{1}, {2}})
	if len(got) != 0 || errors.Is(err, eris.ErrCorrupt) || err == nil && !tr.SilenceIsMissing {
		t.Errorf("%d blocks, %v", len(got), err)
	}
}

// testCut ends the peer in the middle of a transfer.
func testCut(t *testing.T, tr Transport) {
	s, refs := fill(t, eris.Size32KiB, 40)
	var n atomic.Int32
	half := make(chan struct{})
	f, _, stop := start(t, tr, getter(func(ctx context.Context, ref eris.Ref) ([]byte, error) {
		if i := n.Add(1); i > 10 {
			if i == 11 {
				close(half)
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return s.Get(ctx, ref)
	}), refs, 5*time.Second)
	var end sync.WaitGroup
	end.Go(func() { <-half; stop() })
	got, err := fetch(t, t.Context(), f, eris.Size32KiB, refs)
	if len(got) > 10 || errors.Is(err, eris.ErrCorrupt) || err == nil && !tr.SilenceIsMissing {
		t.Errorf("%d blocks, %v", len(got), err)
	}
	end.Wait()
}

// testRefused has who asks refuse a block: its error is what Fetch returns, and
// the source is as good as before.
func testRefused(t *testing.T, tr Transport) {
	s, refs := fill(t, eris.Size32KiB, 40)
	f, _, _ := start(t, tr, s, refs, patience)
	refused := errors.New("disk is full")
	for range 5 {
		if err := f.Fetch(t.Context(), eris.Size32KiB, refs, func(int, []byte) error { return refused }); !errors.Is(err, refused) {
			t.Errorf("got %v", err)
		}
	}
	got, err := fetch(t, t.Context(), f, eris.Size32KiB, refs)
	wantAll(t, got, len(refs), err)
}

// testRestart ends the peer and starts it again at the same address: the same
// source goes on. It is asked for other blocks each time, since it may keep those
// that it has had.
func testRestart(t *testing.T, tr Transport) {
	s, refs := fill(t, eris.Size32KiB, 100)
	f, at, stop := start(t, tr, s, refs, 2*time.Second)
	next := func() []eris.Ref {
		part := refs[:16]
		refs = refs[16:]
		return part
	}
	all := refs
	for range 3 {
		part := next()
		got, err := fetch(t, t.Context(), f, eris.Size32KiB, part)
		wantAll(t, got, len(part), err)
		stop()
		_, stop = tr.Serve(t, at, s, all)
	}
	stop()
	part := next()
	if got, err := fetch(t, t.Context(), f, eris.Size32KiB, part); (err == nil) != tr.NobodyIsMissing || len(got) != 0 {
		t.Errorf("while nobody listens: %d blocks, %v", len(got), err)
	}
	tr.Serve(t, at, s, all)
	got, err := fetch(t, t.Context(), f, eris.Size32KiB, part)
	wantAll(t, got, len(part), err)
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
