// Package transporttest is the suite that every transport passes: what a
// source of blocks does when its peer has a block or lacks it, gives another
// one, is slow, silent, gone or back again.
package transporttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/memstore"
)

// Transport is how the suite runs a transport.
type Transport struct {
	// Serve starts a peer that has blocks, at an address, or at any if that
	// is empty, and returns the address. refs are all that the store holds,
	// for a peer that must be given them first. stop ends it and its
	// connections; the test's cleanup calls it, too.
	Serve func(t testing.TB, address string, blocks block.Getter, refs []eris.Ref) (at string, stop func())

	// Dial returns a source that asks the peer at an address, and gives it up
	// when it is silent for idle. It sees to its end by t.Cleanup.
	Dial func(t testing.TB, address string, idle time.Duration) eris.Fetcher

	// Deaf returns the address of a peer that takes what is sent and never
	// answers. A foreign one needs none.
	Deaf func(t testing.TB) string

	// Foreign says that the peer is a program of others, which keeps blocks
	// of its own: it cannot be made to lie or to be silent, and gets another
	// address when it starts again. Those tests are left out.
	Foreign bool

	// Proxy returns the address by which Dial reaches the peer at an address
	// through a proxy. via makes one for a network, "tcp", "udp" or "unix", and
	// an address in it, and returns the proxy's. Only Faults needs it.
	Proxy func(t testing.TB, at string, via func(network, address string) string) string

	// SilenceIsMissing says that a block which does not come in time counts
	// as one that the peer lacks.
	SilenceIsMissing bool

	// WrongIsMissing says that anybody may put anything under a block's name, so
	// that wrong bytes are passed over and nobody is blamed for them. What comes
	// together with them may be missing, too.
	WrongIsMissing bool

	// NobodyIsMissing says that blocks are missing where no peer is there, as a
	// block.Session has it.
	NobodyIsMissing bool
}

// soon bounds what must not take long, on a busy machine.
const soon = 30 * time.Second

// idle is how long a silent peer is borne with, in tests of silence; patience,
// where nobody is silent.
const (
	idle     = 300 * time.Millisecond
	patience = 20 * time.Second
)

// Run runs the suite.
func Run(t *testing.T, tr Transport) {
	for name, test := range map[string]func(*testing.T, Transport){
		"missing":       testMissing,
		"whole content": testContent,
		"many":          testMany,
		"at once":       testAtOnce,
		"dead peer":     testDead,
		"cancelled":     testCancelled,
	} {
		t.Run(name, func(t *testing.T) { test(t, tr) })
	}
	if tr.Foreign {
		return
	}
	for name, test := range map[string]func(*testing.T, Transport){
		"wrong block":     testWrongBlock,
		"wrong size":      testWrongSize,
		"broken store":    testBroken,
		"slow peer":       testSlow,
		"silent peer":     testSilent,
		"deaf peer":       testDeaf,
		"cut in between":  testCut,
		"refused by got":  testRefused,
		"peer comes back": testRestart,
	} {
		t.Run(name, func(t *testing.T) { test(t, tr) })
	}
}

// fill returns a store of n blocks.
func fill(t testing.TB, size eris.BlockSize, n int) (*memstore.Store, []eris.Ref) {
	t.Helper()
	s := memstore.New()
	refs := make([]eris.Ref, n)
	for i := range refs {
		ref, b := blocktest.Make(size, uint64(i))
		refs[i] = ref
		if err := s.Put(t.Context(), ref, b); err != nil {
			t.Fatal(err)
		}
	}
	return s, refs
}

// start serves a store and returns a source that asks for it.
func start(t *testing.T, tr Transport, blocks block.Getter, refs []eris.Ref, idle time.Duration) (f eris.Fetcher, at string, stop func()) {
	t.Helper()
	at, stop = tr.Serve(t, "", blocks, refs)
	return tr.Dial(t, at, idle), at, stop
}

// taker is what a reader does with the blocks that come.
type taker struct {
	size eris.BlockSize
	refs []eris.Ref

	mu   sync.Mutex
	n    map[int]int // how often a block came, by index
	open bool        // Fetch runs
}

// fetch asks for all, verifies what comes, and waits for the end, but not for
// long.
func fetch(t *testing.T, ctx context.Context, f eris.Fetcher, size eris.BlockSize, refs []eris.Ref) (map[int]int, error) {
	t.Helper()
	k := &taker{size: size, refs: refs, n: map[int]int{}, open: true}
	done := make(chan error, 1)
	go func() { done <- f.Fetch(ctx, size, refs, k.take) }()
	select {
	case err := <-done:
		k.mu.Lock()
		defer k.mu.Unlock()
		k.open = false
		return k.n, err
	case <-time.After(soon):
		t.Fatalf("Fetch did not return in %v", soon)
		return nil, nil
	}
}

func (k *taker) take(i int, b []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.open {
		panic("a block came after Fetch had returned")
	}
	if i < 0 || i >= len(k.refs) || len(b) != int(k.size) || eris.BlockRef(b) != k.refs[i] {
		return eris.ErrCorrupt
	}
	k.n[i]++
	return nil
}

// wantAll fails the test unless each of n blocks came once.
func wantAll(t *testing.T, got map[int]int, n int, err error) {
	t.Helper()
	if err != nil || len(got) != n {
		t.Fatalf("%d of %d blocks, %v", len(got), n, err)
	}
	for i, times := range got {
		if times != 1 {
			t.Errorf("block %d came %d times", i, times)
		}
	}
}

// getter is a store made of a function.
type getter func(ctx context.Context, ref eris.Ref) ([]byte, error)

func (g getter) Get(ctx context.Context, ref eris.Ref) ([]byte, error) { return g(ctx, ref) }

// testMissing asks for what is there and what is not, in turn: what is missing
// is no error.
func testMissing(t *testing.T, tr Transport) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		s, refs := fill(t, size, 20)
		f, _, _ := start(t, tr, s, refs, patience)
		asked := make([]eris.Ref, 0, 2*len(refs))
		for i, ref := range refs {
			asked = append(asked, ref, eris.Ref{byte(i), 0xff, byte(size >> 8)})
		}
		got, err := fetch(t, t.Context(), f, size, asked)
		wantAll(t, got, len(refs), err)
		for i := range asked {
			if got[i] != 1-i%2 {
				t.Errorf("block %d came %d times", i, got[i])
			}
		}
		if got, err := fetch(t, t.Context(), f, size, nil); err != nil || len(got) != 0 {
			t.Errorf("no references: %d blocks, %v", len(got), err)
		}
	}
}

// testContent reads a content, as all readers do.
func testContent(t *testing.T, tr Transport) {
	content := make([]byte, 1_000_000)
	rand.NewChaCha8([32]byte{2}).Read(content)
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		s := memstore.New()
		var refs []eris.Ref
		c, _, err := eris.Encode(bytes.NewReader(content), size, eris.Secret{}, func(b eris.Block) error {
			refs = append(refs, b.Ref)
			return s.Put(t.Context(), b.Ref, b.Data)
		})
		if err != nil {
			t.Fatal(err)
		}
		f, _, _ := start(t, tr, s, refs, patience)
		r := eris.NewReader(t.Context(), c, f, eris.ReaderOptions{})
		defer r.Close()
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%v: %d bytes, %v", size, len(got), err)
		}
	}
}

// testMany asks for 10,000 blocks at once.
func testMany(t *testing.T, tr Transport) {
	s, refs := fill(t, eris.Size1KiB, 10_000)
	f, _, _ := start(t, tr, s, refs, patience)
	got, err := fetch(t, t.Context(), f, eris.Size1KiB, refs)
	wantAll(t, got, len(refs), err)
}

// testAtOnce has many ask the same source.
func testAtOnce(t *testing.T, tr Transport) {
	s, refs := fill(t, eris.Size32KiB, 30)
	f, _, _ := start(t, tr, s, refs, patience)
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			k := &taker{size: eris.Size32KiB, refs: refs, n: map[int]int{}, open: true}
			if err := f.Fetch(t.Context(), eris.Size32KiB, refs, k.take); err != nil || len(k.n) != len(refs) {
				t.Errorf("%d of %d blocks, %v", len(k.n), len(refs), err)
			}
		})
	}
	work.Wait()
}

// testDead asks where nobody listens any more.
func testDead(t *testing.T, tr Transport) {
	s, refs := fill(t, eris.Size1KiB, 3)
	f, _, stop := start(t, tr, s, refs, 2*time.Second)
	stop()
	if got, err := fetch(t, t.Context(), f, eris.Size1KiB, refs); (err == nil) != tr.NobodyIsMissing || len(got) != 0 || errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("%d blocks, %v", len(got), err)
	}
}

// testCancelled ends a request that would wait for long, and asks again.
func testCancelled(t *testing.T, tr Transport) {
	s, refs := fill(t, eris.Size32KiB, 20)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	blocks := block.Getter(s)
	var once sync.Once
	if !tr.Foreign {
		blocks = getter(func(req context.Context, ref eris.Ref) ([]byte, error) {
			once.Do(cancel) // in the middle of it
			select {
			case <-ctx.Done():
				return s.Get(req, ref)
			case <-req.Done():
				return nil, req.Err()
			}
		})
	} else {
		cancel()
	}
	f, _, _ := start(t, tr, blocks, refs, patience)
	if _, err := fetch(t, ctx, f, eris.Size32KiB, refs); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	got, err := fetch(t, t.Context(), f, eris.Size32KiB, refs)
	wantAll(t, got, len(refs), err)
}
