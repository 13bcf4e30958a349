package eris_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
)

// slowSource is a blockMap that takes a while for each call, gives its blocks
// from several goroutines in any order, and counts.
type slowSource struct {
	*blockMap
	delay time.Duration

	mu            sync.Mutex
	calls, most   int // calls that run, and the most that ever did
	widest, given int
}

func (s *slowSource) Fetch(ctx context.Context, _ eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	s.mu.Lock()
	s.calls++
	s.most = max(s.most, s.calls)
	s.widest = max(s.widest, len(refs))
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.calls--
		s.given += len(refs)
		s.mu.Unlock()
	}()
	select {
	case <-time.After(s.delay):
	case <-ctx.Done():
		return ctx.Err()
	}
	order := rand.Perm(len(refs))
	errs := make(chan error, 3)
	for part := range cap(errs) {
		go func() {
			var err error
			for k := part; k < len(order); k += cap(errs) {
				i := order[k]
				b := bytes.Clone(s.blocks[refs[i]])
				err = errors.Join(err, got(i, b), got(i, b)) // once more does no harm
				clear(b)                                     // nor is it kept
			}
			errs <- err
		}()
	}
	var err error
	for range cap(errs) {
		err = errors.Join(err, <-errs)
	}
	return err
}

// encoded returns a content and a source of its blocks.
func encoded(t testing.TB, n int64, size eris.BlockSize) ([]byte, eris.ReadCap, *blockMap) {
	t.Helper()
	content, err := io.ReadAll(keystream(t, "reader test", n))
	if err != nil {
		t.Fatal(err)
	}
	m := newMap()
	c, _, err := eris.Encode(bytes.NewReader(content), size, eris.Secret{}, m.put)
	if err != nil {
		t.Fatal(err)
	}
	return content, c, m
}

// TestReadAhead reads 4096 leaves from a source that answers after 10 ms. If
// the requests for leaves ever waited for an internal node that was not asked
// for ahead, there would be more rounds.
func TestReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const batch, ahead = 16, 256
		content, c, m := encoded(t, 4<<20-1, eris.Size1KiB)
		s := &slowSource{blockMap: m, delay: 10 * time.Millisecond}
		r := eris.NewReader(t.Context(), c, s, eris.ReaderOptions{Batch: batch, Ahead: ahead})
		start := time.Now()
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		rounds := int(time.Since(start) / s.delay)
		if least := 4096 / ahead; rounds > least+2*int(c.Level) {
			t.Errorf("%d rounds, %d would do", rounds, least)
		}
		if s.widest > batch {
			t.Errorf("asked for %d blocks in one call", s.widest)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestAheadIsBounded wants a reader that is not read from to stop asking.
func TestAheadIsBounded(t *testing.T) {
	for _, o := range []eris.ReaderOptions{{}, {Batch: 1, Ahead: 1}, {Batch: 8, Ahead: 32}, {Batch: 100, Ahead: 10}} {
		t.Run(fmt.Sprintf("%d of %d", o.Batch, o.Ahead), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				content, c, m := encoded(t, 4<<20-1, eris.Size1KiB)
				s := &slowSource{blockMap: m, delay: time.Millisecond}
				r := eris.NewReader(t.Context(), c, s, o)
				defer r.Close()
				if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				batch, ahead := o.Batch, o.Ahead
				if batch == 0 {
					batch, ahead = 512, 2048
				}
				ahead = max(ahead, batch)
				// The leaves, then 16 to 1 above them, two batches a level at least.
				if bound := ahead + 2*batch + (ahead+8*batch)/4 + 16*int(c.Level); s.given > bound {
					t.Errorf("%d blocks fetched for one byte, bound %d", s.given, bound)
				}
				if rest, err := io.ReadAll(r); err != nil || !bytes.Equal(rest, content[1:]) {
					t.Errorf("rest: %d bytes, %v", len(rest), err)
				}
			})
		})
	}
}

// TestCalls wants few calls of the Fetcher, each of which may be a request: inner
// nodes do not come one by one either.
func TestCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content, c, m := encoded(t, 8<<20-1, eris.Size1KiB)
		var calls atomic.Int64
		s := fetcherFunc(func(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
			calls.Add(1)
			time.Sleep(time.Millisecond)
			return m.Fetch(ctx, size, refs, got)
		})
		r := eris.NewReader(t.Context(), c, s, eris.ReaderOptions{})
		defer r.Close()
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		// 8,192 leaves by 512, 512 nodes by 32 and then 64, 32 by 2, 4, 8 and 16, 2, 1: some 33.
		if n := calls.Load(); n > 40 {
			t.Errorf("%d calls", n)
		}
	})
}

// manySource gives all that is asked for at once.
type manySource struct{ *blockMap }

func (s manySource) FetchMany(_ context.Context, _ eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	is, blocks := make([]int, 0, len(refs)), make([][]byte, 0, len(refs))
	for i, ref := range refs {
		if b, ok := s.blocks[ref]; ok {
			is, blocks = append(is, i), append(blocks, b)
		}
	}
	n, err := got(is, blocks)
	if err == nil && n != len(is) {
		err = fmt.Errorf("%d of %d blocks taken without a reason", n, len(is))
	}
	return err
}

// TestDecodeAllocations wants none for a block: a hundred at the start, and some for
// each call of the Fetcher, which asks for 512 blocks of 1 KiB, or 64 of 32 KiB.
func TestDecodeAllocations(t *testing.T) {
	for size, n := range map[eris.BlockSize]int64{eris.Size1KiB: 8 << 20, eris.Size32KiB: 32 << 20} {
		_, c, m := encoded(t, n, size)
		got := testing.AllocsPerRun(1, func() {
			r := eris.NewReader(t.Context(), c, manySource{m}, eris.ReaderOptions{})
			if length, err := r.WriteTo(io.Discard); err != nil || length != n {
				t.Fatal(length, err)
			}
			r.Close()
		})
		if most := 200 + float64(n)/float64(size)/16; got > most {
			t.Errorf("%v: %.0f allocations for %d blocks, limit %.0f", size, got, n/int64(size), most)
		}
	}
}

// TestManyAtOnce reads, fills and seeks in what a source gives many of at once: with a
// block that is wrong or missing among them, the first fault is told.
func TestManyAtOnce(t *testing.T) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		content, c, m := encoded(t, 70*int64(size)+5, size)
		decoders := maps.Clone(decoders)
		delete(decoders, "bytes") // which is as "whole" here, and slow
		for name, how := range decoders {
			if got, err := decode(t, c, manySource{m}, how); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%v %s: %d bytes, %v", size, name, len(got), err)
			}
		}
		var leaves []eris.Ref
		if _, _, err := eris.Encode(bytes.NewReader(content), size, eris.Secret{}, func(b eris.Block) error {
			if b.Level == 0 {
				leaves = append(leaves, b.Ref)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for _, at := range []int{0, 7, 8, 33, 70} {
			right := m.blocks[leaves[at]]
			for fault, wrong := range map[string][]byte{
				"do not match": append([]byte{right[0] ^ 1}, right[1:]...),
				"wrong length": right[1:],
			} {
				m.blocks[leaves[at]] = wrong
				for name, how := range decoders {
					_, err := decode(t, c, manySource{m}, how)
					var corrupt *eris.CorruptError
					if !errors.As(err, &corrupt) || corrupt.Ref != leaves[at] || !strings.Contains(err.Error(), fault) {
						t.Errorf("%v %s, leaf %d: %v, want %q", size, name, at, err, fault)
					}
				}
			}
			delete(m.blocks, leaves[at])
			for name, how := range decoders {
				var missing *eris.MissingError
				if _, err := decode(t, c, manySource{m}, how); !errors.As(err, &missing) || missing.Ref != leaves[at] {
					t.Errorf("%v %s, leaf %d: %v, want it to be missing", size, name, at, err)
				}
			}
			m.blocks[leaves[at]] = right
		}
	}
}

// TestClose ends a reader in the middle of its requests, in the several ways
// there are. The bubble fails if a goroutine is left.
func TestClose(t *testing.T) {
	for name, end := range map[string]func(r *eris.Reader, cancel func()) error{
		"close": func(r *eris.Reader, _ func()) error { return r.Close() },
		"twice": func(r *eris.Reader, _ func()) error { return errors.Join(r.Close(), r.Close()) },
		"cancel": func(r *eris.Reader, cancel func()) error {
			cancel()
			if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
				return fmt.Errorf("read after cancel: %w", err)
			}
			if _, err := r.ReadAt(make([]byte, 1), 0); !errors.Is(err, context.Canceled) {
				return fmt.Errorf("ReadAt after cancel: %w", err)
			}
			return nil
		},
		"seek": func(r *eris.Reader, _ func()) error {
			_, err := r.Seek(1<<20, io.SeekStart)
			return err
		},
	} {
		for _, delay := range []time.Duration{0, time.Millisecond, time.Hour} {
			t.Run(fmt.Sprint(name, " ", delay), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					_, c, m := encoded(t, 2<<20, eris.Size1KiB)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					s := &slowSource{blockMap: m, delay: delay}
					r := eris.NewReader(ctx, c, s, eris.ReaderOptions{})
					defer r.Close()
					if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
						t.Fatal(err)
					}
					if err := end(r, cancel); err != nil {
						t.Fatal(err)
					}
					if s.mu.Lock(); s.calls > 0 && name != "seek" {
						t.Errorf("%d calls still run", s.calls)
					}
					s.mu.Unlock()
				})
			})
		}
	}
}

func TestAfterClose(t *testing.T) {
	_, c, m := encoded(t, 100_000, eris.Size1KiB)
	r := eris.NewReader(t.Context(), c, m, eris.ReaderOptions{})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	_, read := r.Read(make([]byte, 1))
	_, at := r.ReadAt(make([]byte, 1), 0)
	_, length := r.Length()
	_, seek := r.Seek(0, io.SeekStart)
	_, write := r.WriteTo(io.Discard)
	for _, err := range []error{read, at, length, seek, write} {
		if !errors.Is(err, eris.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
	if m.asked > 0 {
		t.Errorf("asked for %d blocks", m.asked)
	}
}

// TestCancelDuringFetch cancels while a call waits for its source.
func TestCancelDuringFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, m := encoded(t, 2<<20, eris.Size1KiB)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s := &slowSource{blockMap: m, delay: time.Hour}
		r := eris.NewReader(ctx, c, s, eris.ReaderOptions{})
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Read: %v", err)
		}
		if _, err := r.ReadAt(make([]byte, 1), 5); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ReadAt: %v", err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if s.calls > 0 {
			t.Errorf("%d calls still run", s.calls)
		}
	})
}

// TestReadAtConcurrently reads at random from many goroutines beside a reader
// in order.
func TestReadAtConcurrently(t *testing.T) {
	content, c, m := encoded(t, 300_000, eris.Size1KiB)
	r := eris.NewReader(t.Context(), c, &slowSource{blockMap: m}, eris.ReaderOptions{})
	defer r.Close()
	var work sync.WaitGroup
	for seed := range uint64(8) {
		work.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 0))
			for range 30 {
				off := rng.IntN(len(content))
				p := make([]byte, rng.IntN(100_000))
				n, err := r.ReadAt(p, int64(off))
				want := content[off:min(off+len(p), len(content))]
				if !bytes.Equal(p[:n], want) || (n < len(p)) != errors.Is(err, io.EOF) || n == len(p) && err != nil {
					t.Errorf("ReadAt %d bytes at %d: %d, %v", len(p), off, n, err)
				}
			}
		})
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("in order: %d bytes, %v", len(got), err)
	}
	work.Wait()
}

func TestSeekBounds(t *testing.T) {
	content, c, m := encoded(t, 40_000, eris.Size1KiB)
	r := eris.NewReader(t.Context(), c, m, eris.ReaderOptions{})
	defer r.Close()
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("seek before the start succeeded")
	}
	if _, err := r.Seek(0, 7); err == nil {
		t.Error("seek with whence 7 succeeded")
	}
	if _, err := r.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("ReadAt before the start succeeded")
	}
	for _, off := range []int64{40_000, 40_001, 1 << 50} {
		if _, err := r.Seek(off, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("read at %d: %d, %v", off, n, err)
		}
	}
	for _, off := range []int64{0, 1, 1023, 1024, 16384, 39_936, 39_999} {
		if _, err := r.Seek(off, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content[off:]) {
			t.Errorf("from %d: %d bytes, %v", off, len(got), err)
		}
	}
}

// faulty answers the call with a number in a way of its own.
type faulty struct {
	*blockMap
	mu    sync.Mutex
	call  int
	fault func(refs []eris.Ref, got func(int, []byte) error) error
	at    int
}

func (f *faulty) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	f.mu.Lock()
	f.call++
	now := f.call == f.at
	f.mu.Unlock()
	if now {
		return f.fault(refs, got)
	}
	return f.blockMap.Fetch(ctx, size, refs, got)
}

var errBroken = errors.New("source is broken")

// TestFaultySource has call n of the source fail, lie or leave out, for every
// n, and wants the error and nothing of the content after it.
func TestFaultySource(t *testing.T) {
	content, c, m := encoded(t, 100_000, eris.Size1KiB)
	for name, fault := range map[string]struct {
		answer func([]eris.Ref, func(int, []byte) error) error
		want   error
	}{
		"fails":   {func([]eris.Ref, func(int, []byte) error) error { return errBroken }, errBroken},
		"is mute": {func([]eris.Ref, func(int, []byte) error) error { return nil }, eris.ErrNotFound},
		"lies": {func(refs []eris.Ref, got func(int, []byte) error) error {
			return got(len(refs)-1, make([]byte, 1024))
		}, eris.ErrCorrupt},
		"truncates": {func(refs []eris.Ref, got func(int, []byte) error) error {
			return got(0, m.blocks[refs[0]][:1023])
		}, eris.ErrCorrupt},
		"swaps": {func(refs []eris.Ref, got func(int, []byte) error) error {
			return got(0, m.blocks[c.Root])
		}, eris.ErrCorrupt},
		"lies and goes on": {func(refs []eris.Ref, got func(int, []byte) error) error {
			if err := got(0, nil); !errors.Is(err, eris.ErrCorrupt) {
				t.Errorf("got accepts nothing: %v", err)
			}
			return nil
		}, eris.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			for at := 2; ; at++ {
				f := &faulty{blockMap: m, fault: fault.answer, at: at}
				r := eris.NewReader(t.Context(), c, f, eris.ReaderOptions{Batch: 8, Ahead: 16})
				var b bytes.Buffer
				_, err := r.WriteTo(&b)
				r.Close()
				if f.call < at {
					if err != nil || !bytes.Equal(b.Bytes(), content) {
						t.Errorf("without a fault: %v", err)
					}
					return
				}
				if !errors.Is(err, fault.want) {
					t.Errorf("call %d: %v, want %v", at, err, fault.want)
				}
				if !bytes.HasPrefix(content, b.Bytes()) {
					t.Errorf("call %d: wrong content", at)
				}
			}
		})
	}
}

// TestErrorsName wants the block in the error that it is about.
func TestErrorsName(t *testing.T) {
	_, c, m := encoded(t, 100_000, eris.Size1KiB)
	root := m.blocks[c.Root]
	delete(m.blocks, c.Root)
	r := eris.NewReader(t.Context(), c, m, eris.ReaderOptions{})
	defer r.Close()
	_, err := r.Read(make([]byte, 1))
	var missing *eris.MissingError
	if !errors.As(err, &missing) || missing.Ref != c.Root || !strings.Contains(err.Error(), c.Root.String()) {
		t.Errorf("missing: %v", err)
	}
	m.blocks[c.Root] = append(root[:1023:1023], root[1023]^1)
	_, err = r.ReadAt(make([]byte, 1), 0)
	var corrupt *eris.CorruptError
	if !errors.As(err, &corrupt) || corrupt.Ref != c.Root || !strings.Contains(err.Error(), c.Root.String()) {
		t.Errorf("corrupt: %v", err)
	}
}
