package bench

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"ersatz/internal/storedb"
	"ersatz/storepath"
)

func TestKitchen(t *testing.T) {
	k, err := newKitchen(Options{})
	if err != nil {
		t.Skip(err) // too little memory
	}
	paths, err := k.files(t.Context(), "file", 3, func(i int) int64 { return int64(1000 * i) })
	if err != nil {
		t.Fatal(err)
	}
	db, err := storedb.Open(storedb.Options{StoreDir: k.store, StateDir: k.dir + "/guix", Socket: "/nonexistent"})
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range paths {
		info, err := db.Info(t.Context(), p)
		if least := uint64(1000 * i); err != nil || info.NarSize < least || info.NarSize > least+500 {
			t.Errorf("%s: nar of %d bytes, %v", p, info.NarSize, err)
		}
	}
	if err := closing(db.Close(), k.close); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(k.dir); err == nil {
		t.Error("the store is left")
	}
}

func TestAskSteadily(t *testing.T) {
	var n atomic.Int64
	paths := []storepath.Path{{Hash: strings.Repeat("a", 32)}, {Hash: strings.Repeat("b", 32)}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/aaa") && !strings.HasPrefix(r.URL.Path, "/bbb") {
			t.Errorf("asked for %s", r.URL)
		}
		if n.Add(1) > 100 {
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	defer s.Close()
	_, err := askSteadily(t.Context(), s.Listener.Addr().String(), paths)
	if err == nil || !strings.Contains(err.Error(), "teapot") {
		t.Errorf("an answer that is none: %v", err)
	}
	if n.Load() < 101 {
		t.Errorf("asked %d times", n.Load())
	}
}
