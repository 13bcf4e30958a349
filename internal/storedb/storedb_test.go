package storedb_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"ersatz/internal/storedb"
	"ersatz/storepath"
)

func path(t *testing.T, base string) storepath.Path {
	t.Helper()
	p, err := storepath.ParseBase(storepath.Guix, base)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSQLite(t *testing.T) {
	state := t.TempDir()
	w, err := storedb.Create(state)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	a, b := path(t, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1-dep"), path(t, "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-item")
	want := storedb.Info{
		Path: b, NarHash: [32]byte{1, 2, 3}, NarSize: 99, References: []storepath.Path{a, b},
		Deriver: "/gnu/store/ccccccccccccccccccccccccccccccc3-item.drv", Registered: time.Unix(1234, 0),
	}
	if err := w.Register(t.Context(), want); !errors.Is(err, storedb.ErrNotFound) {
		t.Errorf("registered before its reference: %v", err)
	}
	if err := w.Register(t.Context(), storedb.Info{Path: a, Registered: time.Unix(1, 0)}); err != nil {
		t.Fatal(err)
	}
	if err := w.Register(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	db, err := storedb.Open(storedb.Options{StateDir: state})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if db.Source() != "sqlite" {
		t.Errorf("source %s", db.Source())
	}
	if got, err := db.ByHash(t.Context(), b.Hash); err != nil || got != b {
		t.Errorf("by hash: %v, %v", got, err)
	}
	if got, err := db.Info(t.Context(), b); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("info %+v, %v", got, err)
	}
	if got, err := db.Lookup(t.Context(), b.Hash); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("look-up %+v, %v", got, err)
	}
	if got, err := db.Lookup(t.Context(), a.Hash); err != nil || got.Path != a || got.References != nil {
		t.Errorf("look-up %+v, %v", got, err)
	}
	if got, err := db.Closure(t.Context(), []storepath.Path{b}); err != nil || !reflect.DeepEqual(got, []storepath.Path{a, b}) {
		t.Errorf("closure %v, %v", got, err)
	}
	if err := w.Forget(t.Context(), b.String()); err != nil {
		t.Fatal(err)
	}
	for _, hash := range []string{b.Hash, "", "b%", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"} {
		if got, err := db.ByHash(t.Context(), hash); !errors.Is(err, storedb.ErrNotFound) {
			t.Errorf("hash %q: %v, %v", hash, got, err)
		}
		if got, err := db.Lookup(t.Context(), hash); !errors.Is(err, storedb.ErrNotFound) {
			t.Errorf("look-up of %q: %v, %v", hash, got, err)
		}
	}
	if _, err := db.Info(t.Context(), b); !errors.Is(err, storedb.ErrNotFound) {
		t.Errorf("info of a forgotten item: %v", err)
	}
}

// TestCollected asks while items come and go: what is said of one is all of
// one moment, and no item loses its references before itself.
func TestCollected(t *testing.T) {
	state := t.TempDir()
	w, err := storedb.Create(state)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	a, b := path(t, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1-dep"), path(t, "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-item")
	if err := w.Register(t.Context(), storedb.Info{Path: a}); err != nil {
		t.Fatal(err)
	}
	db, err := storedb.Open(storedb.Options{StateDir: state})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	done := make(chan error)
	go func() {
		var err error
		for i := 0; i < 500 && err == nil; i++ {
			err = errors.Join(w.Register(t.Context(), storedb.Info{Path: b, References: []storepath.Path{a}}),
				w.Forget(t.Context(), b.String()))
		}
		done <- err
	}()
	for n := 0; ; {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
		ask := func() (storedb.Info, error) { return db.Info(t.Context(), b) }
		if n++; n%2 == 0 {
			ask = func() (storedb.Info, error) { return db.Lookup(t.Context(), b.Hash) }
		}
		got, err := ask()
		if err != nil && !errors.Is(err, storedb.ErrNotFound) || err == nil && len(got.References) != 1 {
			t.Errorf("references %v, %v", got.References, err)
			<-done
			return
		}
	}
}

func TestNoStore(t *testing.T) {
	if _, err := storedb.Open(storedb.Options{StateDir: t.TempDir()}); err == nil {
		t.Error("opened a store that is not there")
	}
}

// TestLookupContext: a context that can end costs a lookup nothing, and one that
// has ended stops it, and so what makes many.
func TestLookupContext(t *testing.T) {
	state := t.TempDir()
	w, err := storedb.Create(state)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p, err := storepath.ParseBase(storepath.Guix, fmt.Sprintf("%032d-item", 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Register(t.Context(), storedb.Info{Path: p}); err != nil {
		t.Fatal(err)
	}
	db, err := storedb.Open(storedb.Options{StateDir: state})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lookup := func(ctx context.Context) func() {
		return func() {
			if _, err := db.Lookup(ctx, p.Hash); err != nil {
				t.Error(err)
			}
		}
	}
	if with, without := testing.AllocsPerRun(50, lookup(ctx)), testing.AllocsPerRun(50, lookup(context.Background())); with > without+1 {
		t.Errorf("%v allocations with a context that can end, %v without", with, without)
	}
	cancel()
	for name, call := range map[string]func() error{
		"Lookup":  func() error { _, err := db.Lookup(ctx, p.Hash); return err },
		"ByHash":  func() error { _, err := db.ByHash(ctx, p.Hash); return err },
		"Info":    func() error { _, err := db.Info(ctx, p); return err },
		"Closure": func() error { _, err := db.Closure(ctx, []storepath.Path{p}); return err },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// BenchmarkLookup is what a narinfo that is signed on request takes of the
// database, in one query and in two.
func BenchmarkLookup(b *testing.B) {
	state := b.TempDir()
	w, err := storedb.Create(state)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	var refs []storepath.Path
	var p storepath.Path
	for i := range 20 {
		if p, err = storepath.ParseBase(storepath.Guix, fmt.Sprintf("%032d-item", i)); err != nil {
			b.Fatal(err)
		}
		if err := w.Register(b.Context(), storedb.Info{Path: p, References: refs}); err != nil {
			b.Fatal(err)
		}
		refs = append(refs[:min(len(refs), 4)], p)
	}
	db, err := storedb.Open(storedb.Options{StateDir: state})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := db.Lookup(b.Context(), p.Hash); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("two", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			q, err := db.ByHash(b.Context(), p.Hash)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := db.Info(b.Context(), q); err != nil {
				b.Fatal(err)
			}
		}
	})
}
