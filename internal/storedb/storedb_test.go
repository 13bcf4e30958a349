package storedb_test

import (
	"errors"
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
	}
	if _, err := db.Info(t.Context(), b); !errors.Is(err, storedb.ErrNotFound) {
		t.Errorf("info of a forgotten item: %v", err)
	}
}

func TestNoStore(t *testing.T) {
	if _, err := storedb.Open(storedb.Options{StateDir: t.TempDir()}); err == nil {
		t.Error("opened a store that is not there")
	}
}
