package fetch_test

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
)

var errBroken = errors.New("connection reset")

// fake is a source with a line: its calls share it, one block at a time.
type fake struct {
	first time.Duration // until a call is heard
	pace  time.Duration // per block on the line

	lacks func(eris.Ref) bool
	fault func(call, block int) error // before a block of a call, both from 0
	lies  func(call, block int) bool

	line  chan struct{} // a mutex that synctest can wait for
	mu    sync.Mutex
	calls int
	now   int
	most  int // calls at once
	sent  int // blocks
}

func newFake(first, pace time.Duration) *fake {
	return &fake{first: first, pace: pace, line: make(chan struct{}, 1)}
}

// errHang is a fault: nothing more comes until the call is cancelled.
var errHang = errors.New("hang")

func (f *fake) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	f.mu.Lock()
	call := f.calls
	f.calls++
	f.now++
	f.most = max(f.most, f.now)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.now--
		f.mu.Unlock()
	}()
	if err := sleep(ctx, f.first); err != nil {
		return err
	}
	for i, ref := range refs {
		if f.fault != nil {
			switch err := f.fault(call, i); {
			case errors.Is(err, errHang):
				<-ctx.Done()
				return ctx.Err()
			case err != nil:
				return err
			}
		}
		if f.lacks != nil && f.lacks(ref) {
			continue
		}
		f.line <- struct{}{}
		err := sleep(ctx, f.pace)
		<-f.line
		if err != nil {
			return err
		}
		b := content(size, ref)
		if f.lies != nil && f.lies(call, i) {
			b[0] ^= 1
		}
		f.mu.Lock()
		f.sent++
		f.mu.Unlock()
		if err := got(i, b); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ref and content make blocks that are told right from wrong at no cost: a
// block begins with its reference.
func ref(n int) (r eris.Ref) {
	binary.BigEndian.PutUint64(r[:], uint64(n))
	return r
}

func number(r eris.Ref) int { return int(binary.BigEndian.Uint64(r[:])) }

func content(size eris.BlockSize, r eris.Ref) []byte {
	b := make([]byte, size)
	copy(b, r[:])
	return b
}

// taker takes blocks as an eris.Reader does.
type taker struct {
	t    *testing.T
	refs []eris.Ref

	mu    sync.Mutex
	times map[int]int // each block came
	over  bool        // Fetch has returned
}

func take(t *testing.T, from, n int) *taker {
	k := &taker{t: t, times: map[int]int{}}
	for i := range n {
		k.refs = append(k.refs, ref(from+i))
	}
	return k
}

func (k *taker) got(i int, b []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.over {
		k.t.Error("got was called after Fetch had returned")
	}
	if eris.Ref(b[:32]) != k.refs[i] {
		return &eris.CorruptError{Ref: k.refs[i], Msg: "bytes do not match the reference"}
	}
	k.times[i]++
	return nil
}

func (k *taker) fetch(ctx context.Context, f eris.Fetcher) error {
	err := f.Fetch(ctx, eris.Size1KiB, k.refs, k.got)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = true
	return err
}

// whole fails the test unless every block came.
func (k *taker) whole() {
	k.t.Helper()
	for i := range k.refs {
		if k.times[i] == 0 {
			k.t.Errorf("block %d of %d did not come", i, len(k.refs))
			return
		}
	}
}
