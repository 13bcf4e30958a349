package keep

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"ersatz/eris"
	"ersatz/internal/block"
)

// An item that is fetched again is there at any time, as it was or as it is: who
// asks meanwhile waits.
func TestReplacedIsThere(t *testing.T) {
	s := open(t, memory(t), Options{})
	defer closing(t, s)
	x, gone := makeThing(t, 0, 40_000), makeThing(t, 1, 1000)
	put(t, s, x)
	var over atomic.Bool
	var asked atomic.Int64
	var reading sync.WaitGroup
	for range 4 {
		reading.Go(func() {
			b := s.Blocks(nil)
			for !over.Load() {
				asked.Add(1)
				if _, err := s.Get(x.Path.Hash); err != nil {
					t.Errorf("Get: %v", err)
				}
				f, err := s.Open(x.Path.Hash)
				if err != nil {
					t.Errorf("Open: %v", err)
					continue
				}
				if fi, err := f.Stat(); err != nil || fi.Size() != f.Item.Size {
					t.Errorf("%d bytes of a nar of %d, %v", fi.Size(), f.Item.Size, err)
				}
				closing(t, f)
				if ok, err := b.allowHash(x.Path.Hash); !ok || err != nil {
					t.Errorf("Blocks: %t, %v", ok, err)
				}
				if _, err := s.Get(gone.Path.Hash); !errors.Is(err, ErrNone) {
					t.Errorf("what never came: %v", err)
				}
			}
		})
	}
	for range 30 {
		put(t, s, x)
	}
	over.Store(true)
	reading.Wait()
	if asked.Load() < 30 {
		t.Errorf("asked %d times", asked.Load())
	}
	if u := s.Usage(); u.Items != 1 {
		t.Errorf("%+v", u)
	}
}

// What cannot be read because the process has no files left is not taken for what is
// not there, by nobody who asks.
func TestNoFilesLeft(t *testing.T) {
	dir := memory(t)
	s := open(t, dir, Options{})
	x := makeThing(t, 0, 40_000)
	put(t, s, x)
	gone := makeThing(t, 1, 1000)
	closing(t, s)
	s = unsettled(t, dir, Options{})
	defer closing(t, s)
	l := s.Library(func(Item) (string, bool) { return "", true }, "")
	ask := func(want func(what string, err error)) {
		ref := x.nodes[0].Ref
		_, err := s.Get(x.Path.Hash)
		want("Get", err)
		_, err = s.ByNarHash(x.NarHash)
		want("ByNarHash", err)
		f, err := s.Open(x.Path.Hash)
		want("Open", err)
		if err == nil {
			closing(t, f)
		}
		b := s.Blocks(func(Item) bool { return true })
		_, err = b.Get(t.Context(), ref)
		want("block", err)
		want("frames", b.Frames(t.Context(), []eris.Ref{ref}, func([]byte) error { return nil }))
		_, err = b.item(x.NarHash)
		want("Have", err)
		n := 0
		err = l.Each(t.Context(), func(block.Shared) error { n++; return nil })
		if err == nil && n != 1 {
			t.Errorf("%d items in the library", n)
		}
		want("Each", err)
		_, err = l.Get(t.Context(), ref)
		want("block of the library", err)
		_, err = l.(*library).Has(t.Context(), ref)
		want("Has", err)
		c, err := l.Open(t.Context(), x.ReadCap.Root)
		want("content", err)
		if err == nil {
			closing(t, c)
		}
	}
	// What SQLite opens at its first query is not what this is about.
	if _, err := s.Blocks(nil).Get(t.Context(), gone.nodes[0].Ref); !errors.Is(err, eris.ErrNotFound) {
		t.Fatal(err)
	}
	restore := noFiles(t)
	ask(func(what string, err error) {
		if err == nil || errors.Is(err, ErrNone) || errors.Is(err, eris.ErrNotFound) {
			t.Errorf("%s without files: %v", what, err)
		}
	})
	restore()
	ask(func(what string, err error) {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	})
	kept(t, s, x)
}

// noFiles has the process open no more files until restore.
func noFiles(t *testing.T) (restore func()) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	restore = func() {
		once.Do(func() {
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Cleanup(restore)
	return restore
}
