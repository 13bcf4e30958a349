package block_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/memstore"
)

// getter is a Getter made of a function.
type getter func(context.Context, eris.Ref) ([]byte, error)

func (g getter) Get(ctx context.Context, ref eris.Ref) ([]byte, error) { return g(ctx, ref) }

var errBroken = errors.New("source is broken")

func TestVerify(t *testing.T) {
	ref, good := blocktest.Make(eris.Size1KiB, 1)
	_, other := blocktest.Make(eris.Size1KiB, 2)
	odd := []byte("a block of no size")
	for _, c := range []struct {
		name  string
		ref   eris.Ref
		bytes []byte
		err   error
		want  error
	}{
		{"good", ref, good, nil, nil},
		{"other", ref, other, nil, eris.ErrCorrupt},
		{"short", ref, good[:1023], nil, eris.ErrCorrupt},
		{"none", ref, nil, nil, eris.ErrCorrupt},
		{"right hash, wrong size", eris.BlockRef(odd), odd, nil, eris.ErrCorrupt},
		{"missing", ref, nil, &eris.MissingError{Ref: ref}, eris.ErrNotFound},
		{"broken", ref, good, errBroken, errBroken},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := getter(func(context.Context, eris.Ref) ([]byte, error) { return c.bytes, c.err })
			b, err := block.Verify(g, "peer").Get(t.Context(), c.ref)
			if !errors.Is(err, c.want) || (b == nil) != (c.want != nil) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
			if errors.Is(err, eris.ErrCorrupt) && !strings.Contains(err.Error(), "peer") {
				t.Errorf("the source is not named: %v", err)
			}
		})
	}
}

// collect counts what got is called with.
type collect struct {
	mu  sync.Mutex
	got map[int]int
}

func (c *collect) take(i int, _ []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.got == nil {
		c.got = map[int]int{}
	}
	c.got[i]++
	return nil
}

func makeRefs(t *testing.T, n int) (*memstore.Store, []eris.Ref) {
	t.Helper()
	s := memstore.New()
	refs := make([]eris.Ref, n)
	for i := range refs {
		ref, b := blocktest.Make(eris.Size1KiB, uint64(i))
		refs[i] = ref
		if err := s.Put(t.Context(), ref, b); err != nil {
			t.Fatal(err)
		}
	}
	return s, refs
}

func TestFetcherLeavesOutWhatIsMissing(t *testing.T) {
	s, refs := makeRefs(t, 20)
	for i := 0; i < 20; i += 2 {
		refs[i] = eris.Ref{byte(i), 1}
	}
	var c collect
	if err := block.Fetcher(s, 3).Fetch(t.Context(), eris.Size1KiB, refs, c.take); err != nil {
		t.Fatal(err)
	}
	for i := range refs {
		if c.got[i] != i%2 {
			t.Errorf("block %d came %d times", i, c.got[i])
		}
	}
	if err := block.Fetcher(s, 3).Fetch(t.Context(), eris.Size1KiB, nil, c.take); err != nil {
		t.Errorf("no references: %v", err)
	}
}

// reader is a block.Reader over a store.
type reader struct {
	block.Getter
	fail eris.Ref
}

func (r reader) Read(ctx context.Context, ref eris.Ref, buf []byte) (int, error) {
	if ref == r.fail {
		return 0, errBroken
	}
	b, err := r.Get(ctx, ref)
	return copy(buf, b), err
}

// TestFetcherReads wants the blocks of a Reader several at a time, those before a
// failure too, and all by one network that asks for everything.
func TestFetcherReads(t *testing.T) {
	const n = 100
	s, refs := makeRefs(t, n)
	for i := 0; i < n; i += 10 {
		refs[i] = eris.Ref{byte(i), 1}
	}
	var mu sync.Mutex
	came := map[int]bool{}
	most := 0
	got := func(is []int, blocks [][]byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		most = max(most, len(is))
		for k, i := range is {
			if eris.BlockRef(blocks[k]) != refs[i] || came[i] {
				return k, eris.ErrCorrupt
			}
			came[i] = true
		}
		return len(is), nil
	}
	f := block.Everything(block.Fetcher(reader{Getter: s}, 3)).Open(block.Wanted{})
	if err := eris.FetchMany(t.Context(), f, eris.Size1KiB, refs, got); err != nil || len(came) != n-10 {
		t.Errorf("%d blocks, %v", len(came), err)
	}
	if together := eris.Together(eris.Size1KiB); most > together || most < together/2 {
		t.Errorf("%d at a time", most)
	}
	clear(came)
	f = block.Everything(block.Fetcher(reader{s, refs[7]}, 1)).Open(block.Wanted{})
	if err := eris.FetchMany(t.Context(), f, eris.Size1KiB, refs, got); !errors.Is(err, errBroken) || len(came) != 6 {
		t.Errorf("before the failure: %d blocks, %v", len(came), err)
	}
	refused := func(is []int, blocks [][]byte) (int, error) { return 1, eris.ErrCorrupt }
	if err := eris.FetchMany(t.Context(), f, eris.Size1KiB, refs[:5], refused); !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("refused: %v", err)
	}
	// One block at a time comes from a Reader, too.
	var c collect
	if err := block.Fetcher(reader{Getter: s}, 3).Fetch(t.Context(), eris.Size1KiB, refs, c.take); err != nil || len(c.got) != n-10 {
		t.Errorf("%d blocks, %v", len(c.got), err)
	}
}

// TestFetcherIsBounded runs several calls at once against a slow source.
func TestFetcherIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const parallel, calls = 5, 4
		s, refs := makeRefs(t, 50)
		var mu sync.Mutex
		now, most := 0, 0
		slow := getter(func(ctx context.Context, ref eris.Ref) ([]byte, error) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return s.Get(ctx, ref)
		})
		f := block.Fetcher(slow, parallel)
		start := time.Now()
		var work sync.WaitGroup
		for range calls {
			work.Go(func() {
				var c collect
				if err := f.Fetch(t.Context(), eris.Size1KiB, refs, c.take); err != nil || len(c.got) != len(refs) {
					t.Errorf("%d blocks, %v", len(c.got), err)
				}
			})
		}
		work.Wait()
		if most != parallel {
			t.Errorf("%d at once, want %d", most, parallel)
		}
		if d := time.Since(start); d != calls*time.Duration(len(refs))*time.Second/parallel {
			t.Errorf("took %v", d)
		}
	})
}

// TestFetcherStops wants the first failure, of the source or of got, to end
// the call and the requests that run.
func TestFetcherStops(t *testing.T) {
	for name, c := range map[string]struct{ source, got, want error }{
		"source": {errBroken, nil, errBroken},
		"got":    {nil, eris.ErrCorrupt, eris.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, refs := makeRefs(t, 30)
				var mu sync.Mutex
				asked := 0
				g := getter(func(ctx context.Context, ref eris.Ref) ([]byte, error) {
					mu.Lock()
					asked++
					mu.Unlock()
					if ref == refs[3] {
						if c.source != nil {
							return nil, c.source
						}
						return s.Get(ctx, ref)
					}
					<-ctx.Done()
					return nil, ctx.Err()
				})
				err := block.Fetcher(g, 6).Fetch(t.Context(), eris.Size1KiB, refs, func(int, []byte) error { return c.got })
				if !errors.Is(err, c.want) {
					t.Errorf("got %v", err)
				}
				if asked > 6 {
					t.Errorf("asked %d times", asked)
				}
			})
		})
	}
}

func TestFetcherCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, refs := makeRefs(t, 30)
		g := getter(func(ctx context.Context, _ eris.Ref) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		f := block.Fetcher(g, 2)
		var work sync.WaitGroup
		for range 3 { // the third waits for a token
			work.Go(func() {
				if err := f.Fetch(ctx, eris.Size1KiB, refs, func(int, []byte) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
			})
		}
		work.Wait()
	})
}
