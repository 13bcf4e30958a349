package keep

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
				if e, err := b.items.served(x.Path.Hash); e == nil || err != nil {
					t.Errorf("Blocks: %v, %v", e, err)
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

// An item that cannot be read hides neither the blocks that another one has too, nor
// that one in a library.
func TestUnreadableHidesNothing(t *testing.T) {
	dir := memory(t)
	s := open(t, dir, Options{})
	x := makeThing(t, 0, 40_000)
	y := x.twin(t, 1)
	put(t, s, x)
	put(t, s, y)
	closing(t, s)
	record := filepath.Join(dir, infoDir, x.Path.Hash)
	if err := errors.Join(os.Remove(record), os.Mkdir(record, 0o755)); err != nil {
		t.Fatal(err)
	}
	s = unsettled(t, dir, Options{})
	defer closing(t, s)
	if _, err := s.Get(x.Path.Hash); err == nil || errors.Is(err, ErrNone) {
		t.Fatalf("of the broken record: %v", err)
	}
	l := s.Library(nil, "").(*library)
	ref := x.nodes[0].Ref
	for _, g := range []block.Getter{l, s.Blocks(nil)} {
		if b, err := g.Get(t.Context(), ref); err != nil || !bytes.Equal(b, x.blocks[ref]) {
			t.Errorf("%T: %v", g, err)
		}
	}
	if has, err := l.Has(t.Context(), ref); !has || err != nil {
		t.Errorf("Has: %t, %v", has, err)
	}
	n := 0
	each := func(b []byte) {
		if n++; !bytes.Equal(b, x.blocks[ref]) {
			t.Error("another block")
		}
	}
	err := l.Batch(t.Context(), []eris.Ref{ref, ref}, func(_ int, b []byte) error { each(b); return nil })
	if err != nil || n != 2 {
		t.Errorf("%d of a batch, %v", n, err)
	}
	n = 0
	if err := l.Each(t.Context(), func(block.Shared) error { n++; return nil }); n != 1 || err == nil {
		t.Errorf("%d items in the library, %v", n, err)
	}
}

// Who reads on in a content whose item was replaced does not bring the old one back.
func TestReadOnAfterReplaced(t *testing.T) {
	s := open(t, memory(t), Options{})
	defer closing(t, s)
	x, y := makeThing(t, 0, 40_000), makeThing(t, 1, 50_000)
	y.Path = x.Path
	put(t, s, x)
	c, err := s.Library(nil, "").Open(t.Context(), x.ReadCap.Root)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, c)
	read := func() {
		t.Helper()
		if ref, b, err := c.Block(t.Context(), 0); err != nil || !bytes.Equal(b, x.blocks[ref]) {
			t.Error(err)
		}
	}
	forgotten := func(want *thing) (now *entry) {
		t.Helper()
		e, err := s.lookup(x.Path.Hash)
		if err != nil {
			t.Fatal(err)
		}
		s.forget(e)
		read()
		if now, err = s.lookup(x.Path.Hash); err != nil || now.narHash != want.NarHash {
			t.Errorf("the other item is there, %v", err)
		}
		return now
	}
	if e := forgotten(x); e.served.IsZero() {
		t.Error("what is read does not count as in use")
	}
	put(t, s, y)
	if e := forgotten(y); !e.served.IsZero() {
		t.Error("nobody reads the new one")
	}
}

// An item came when its record's file says, where that holds less of a time than the
// clock gives (here a year that ext4 does not have; file systems with whole seconds).
func TestCameAsTheFileHasIt(t *testing.T) {
	far := time.Date(1800, 1, 1, 0, 0, 0, 7, time.UTC)
	s := open(t, t.TempDir(), Options{Now: func() time.Time { return far }})
	defer closing(t, s)
	x := makeThing(t, 0, 40_000)
	put(t, s, x)
	l := s.Library(nil, "")
	for range 2 {
		if roots := listed(t, l); len(roots) != 1 {
			t.Errorf("%d items are listed", len(roots))
		}
		e, err := s.lookup(x.Path.Hash)
		if err != nil {
			t.Fatal(err)
		}
		s.forget(e)
		l = s.Library(nil, "")
	}
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
