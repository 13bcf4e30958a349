package bake

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/storedb"
	"ersatz/internal/transport/n2r"
	"ersatz/storepath"
)

// listed returns the contents in a library, in its order.
func (s *site) listed(l block.Library) (all []block.Shared) {
	s.t.Helper()
	err := l.Each(s.t.Context(), func(x block.Shared) error {
		all = append(all, x)
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// shared returns what a library should say of a baked item.
func (s *site) shared(info storedb.Info) block.Shared {
	s.t.Helper()
	n, signed := s.narinfo(info.Path.Hash)
	rc, err := eris.ParseURN(signed.ERIS)
	if err != nil {
		s.t.Fatal(err)
	}
	return block.Shared{ReadCap: rc, Length: int64(n.Nars[0].FileSize)}
}

// has reports whether a library gives all of a content, by both ways, or
// nothing of it.
func (s *site) has(l block.Library, x block.Shared) bool {
	s.t.Helper()
	c, err := l.Open(s.t.Context(), x.ReadCap.Root)
	if errors.Is(err, eris.ErrNotFound) && c == nil {
		if _, err := l.Get(s.t.Context(), x.ReadCap.Root); !errors.Is(err, eris.ErrNotFound) {
			s.t.Errorf("cannot be opened, but a block of it is %v", err)
		}
		if has, err := l.(library).Has(s.t.Context(), x.ReadCap.Root); err != nil || has {
			s.t.Errorf("cannot be opened, but a block of it is known, %v", err)
		}
		return false
	}
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range c.Len() {
		ref, b, err := c.Block(s.t.Context(), i)
		if err != nil || eris.BlockRef(b) != ref {
			s.t.Errorf("block %d: %v", i, err)
		}
		if has, err := l.(library).Has(s.t.Context(), ref); err != nil || !has {
			s.t.Errorf("block %d is not known, %v", i, err)
		}
		got, err := l.Get(s.t.Context(), ref)
		if err != nil || !bytes.Equal(got, b) {
			s.t.Errorf("block %d by its reference: %v", i, err)
		}
	}
	root, come := x.ReadCap.Root, 0
	err = l.(n2r.Blocks).Batch(s.t.Context(), []eris.Ref{root, {1}, root}, func(i int, b []byte) error {
		come++
		if (b == nil) != (i == 1) || b != nil && eris.BlockRef(b) != root {
			s.t.Errorf("block %d of a batch is wrong", i)
		}
		return nil
	})
	if err := errors.Join(err, c.Close()); err != nil || come != 3 {
		s.t.Errorf("a batch has %d blocks, %v", come, err)
	}
	sent := 0
	err = l.(library).Frames(s.t.Context(), []eris.Ref{root, {1}, root}, func(frames []byte) error {
		sent += len(frames)
		return nil
	})
	if want := 2*int(x.ReadCap.Size) + 3*4; err != nil || sent != want {
		s.t.Errorf("as frames it has %d bytes, not %d; %v", sent, want, err)
	}
	return true
}

// What a client has asked for is in the library of all, and in that of the roots
// only while a root refers to it.
func TestLibraryOfRoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		dep := s.add("dep", nil, []byte("dep"))
		first := s.add("first", []storepath.Path{dep.Path}, random(1, 100_000))
		second := s.add("second", []storepath.Path{dep.Path}, random(2, 1000))
		private := s.add("private", nil, random(3, 1000))
		profile := filepath.Join(t.TempDir(), "profile")
		lead := func(to storepath.Path) {
			if err := errors.Join(os.RemoveAll(profile), os.Symlink(to.String(), profile)); err != nil {
				t.Fatal(err)
			}
		}
		s.bake(Options{}, private.Path, dep.Path) // by an earlier process

		lead(first.Path)
		c := s.open(Options{})
		defer s.close(c)
		all, roots := c.Library(), c.RootsLibrary()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		if err := roots.Each(ctx, func(block.Shared) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("listed before anything is known of the roots: %v", err)
		}
		cancel()
		if got := s.listed(all); len(got) != 2 {
			t.Errorf("%d items at first", len(got))
		}
		before := roots.Changed()
		s.run(c, func() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*rootsEvery-time.Minute)
			defer cancel()
			var work sync.WaitGroup
			work.Go(func() { c.BakeAhead(ctx, []string{profile}) })
			synctest.Wait()
			select {
			case <-before:
			default:
				t.Error("not told of what was baked")
			}
			sorted := func(items ...storedb.Info) (want []block.Shared) {
				slices.SortFunc(items, func(a, b storedb.Info) int { return strings.Compare(a.Path.Hash, b.Path.Hash) })
				for _, i := range items {
					want = append(want, s.shared(i))
				}
				return want
			}
			if got := s.listed(roots); !slices.Equal(got, sorted(dep, first)) {
				t.Errorf("roots refer to %v", got)
			}
			if got := s.listed(all); !slices.Equal(got, sorted(dep, first, private)) {
				t.Errorf("all is %v", got)
			}
			if s.has(roots, s.shared(private)) || !s.has(all, s.shared(private)) || !s.has(roots, s.shared(first)) {
				t.Error("what a client asked for is public, or not to be had, or the root is not public")
			}
			open, err := roots.Open(t.Context(), s.shared(first).ReadCap.Root)
			if err != nil {
				t.Fatal(err)
			}
			defer open.Close()
			if _, _, err := open.Block(t.Context(), 0); err != nil {
				t.Error(err)
			}
			before = roots.Changed()
			lead(second.Path)
			work.Wait()
			synctest.Wait()
			select {
			case <-before:
			default:
				t.Error("not told of another root")
			}
			if got := s.listed(roots); !slices.Equal(got, sorted(dep, second)) {
				t.Errorf("later roots refer to %v", got)
			}
			if s.has(roots, s.shared(first)) || !s.has(all, s.shared(first)) {
				t.Error("what no root refers to is public still, or lost")
			}
			if _, b, err := open.Block(t.Context(), 1); !errors.Is(err, eris.ErrNotFound) || b != nil {
				t.Errorf("what was being read when the root changed is public still: %v", err)
			}
		})
	})
}

// A list of no roots says that nothing is public, and does so at once.
func TestLibraryOfNoRoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		item := s.add("item", nil, []byte("item"))
		s.bake(Options{}, item.Path)
		list := filepath.Join(t.TempDir(), "list")
		if err := os.WriteFile(list, []byte("# none\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		c := s.open(Options{})
		defer s.close(c)
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		work.Go(func() { c.BakeAhead(ctx, []string{list}) })
		if got := s.listed(c.RootsLibrary()); got != nil || s.has(c.RootsLibrary(), s.shared(item)) {
			t.Errorf("no roots refer to %v", got)
		}
		cancel()
		work.Wait()
	})
}

// A root that is being baked for long is left as soon as the names are looked at
// again.
func TestBakeAheadLooksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		first, second := s.add("first", nil, []byte("first")), s.add("second", nil, []byte("second"))
		list := filepath.Join(t.TempDir(), "list")
		write := func(p storepath.Path) {
			if err := os.WriteFile(list, []byte(p.String()+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write(first.Path)
		c := s.open(Options{})
		defer s.close(c)
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		work.Go(func() { c.BakeAhead(ctx, []string{list}) }) // and no worker
		synctest.Wait()
		roots := c.RootsLibrary().(library)
		if !roots.allow(first.Path.Hash) {
			t.Error("the first is not public")
		}
		write(second.Path)
		time.Sleep(rootsEvery + time.Second)
		if roots.allow(first.Path.Hash) || !roots.allow(second.Path.Hash) {
			t.Error("the names were not looked at again while an item waits")
		}
		cancel()
		work.Wait()
		if log := s.log.String(); strings.Contains(log, "deadline") {
			t.Errorf("logged what is no fault:\n%s", log)
		}
	})
}

// What expires leaves the libraries, and what is broken is passed over.
func TestLibraryExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		old, broken := s.add("old", nil, []byte("old")), s.add("broken", nil, []byte("broken"))
		s.bake(Options{}, old.Path, broken.Path)
		x, y := s.shared(old), s.shared(broken)
		c := s.open(Options{TTL: time.Hour})
		defer s.close(c)
		l := c.Library()
		if err := os.Truncate(filepath.Join(s.cache, "eris/tree", broken.Path.Base()), 10); err != nil {
			t.Fatal(err)
		}
		if got := s.listed(l); !slices.Equal(got, []block.Shared{x}) || s.has(l, y) {
			t.Errorf("listed %v", got)
		}
		gone := l.Changed()
		s.collect(old.Path)
		s.now = s.now.Add(2 * time.Hour)
		if err := c.Expire(t.Context()); err != nil {
			t.Error(err)
		}
		select {
		case <-gone:
		default:
			t.Error("not told that an item is gone")
		}
		if got := s.listed(l); got != nil || s.has(l, x) {
			t.Errorf("listed %v", got)
		}
	})
}
