package upstream

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestSweep(t *testing.T) {
	now := time.Now()
	state := t.TempDir()
	c := openCache([]string{state}, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	sv, err := ParseServer("http://a.example")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(filepath.Dir(c.file(sv, "x")), name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list := func() []string {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(state, "*/*"))
		if err != nil {
			t.Fatal(err)
		}
		for i, f := range files {
			files[i] = filepath.Base(f)
		}
		return files
	}
	c.put(sv, "found", []byte("text"), now.Add(foundTTL))
	c.put(sv, "absent", nil, now.Add(absentTTL))
	c.put(sv, "never", []byte("text"), time.Time{})
	write("torn")
	write(".tmp-0") // is being written
	c.sweep(t.Context())
	if got := list(); !slices.Equal(got, []string{".tmp-0", "absent", "found"}) {
		t.Errorf("after the first sweep: %q", got)
	}
	write("torn")
	now = now.Add(sweepEvery - time.Minute)
	c.sweep(t.Context())
	if got := list(); len(got) != 4 {
		t.Errorf("swept twice a day: %q", got)
	}
	now = now.Add(2 * time.Minute)
	write(".tmp-1")
	c.sweep(t.Context())
	if got := list(); !slices.Equal(got, []string{"found"}) {
		t.Errorf("after a day: %q", got)
	}
	now = now.Add(2 * sweepEvery)
	c.sweep(t.Context())
	if got := list(); len(got) != 0 {
		t.Errorf("after three days: %q", got)
	}
	if _, err := os.Stat(filepath.Dir(c.file(sv, "x"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder of a server that nobody asks any more: %v", err)
	}
	if e, ok := c.get(sv, "found"); ok {
		t.Errorf("what was removed is still known: %q", e.text)
	}
}

// TestPutDuringSweep: a folder that was just made is not lost to a sweep.
func TestPutDuringSweep(t *testing.T) {
	c := openCache([]string{t.TempDir()}, time.Now, slog.New(slog.DiscardHandler))
	for i := range 100 {
		sv := server(t, fmt.Sprintf("http://a%d.example", i))
		dir := filepath.Dir(c.file(sv, "x"))
		swept := make(chan struct{})
		go func() {
			defer close(swept)
			for range 1000 { // the moment in which it is there, and empty
				if os.Remove(dir) == nil {
					return
				}
			}
		}()
		c.put(sv, "hash", []byte("text"), time.Now().Add(time.Hour))
		<-swept
		if _, ok := c.get(sv, "hash"); !ok {
			t.Fatalf("entry %d is lost", i)
		}
	}
}

// TestServersApart: what one server says is not taken for another's answer.
func TestServersApart(t *testing.T) {
	c := openCache([]string{t.TempDir()}, time.Now, slog.New(slog.DiscardHandler))
	a, errA := ParseServer("http://a.example/")
	b, errB := ParseServer("http://a.example/b")
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	c.put(a, "hash", []byte("of a"), time.Now().Add(time.Hour))
	if e, ok := c.get(a, "hash"); !ok || string(e.text) != "of a" {
		t.Errorf("a says %q, %v", e.text, ok)
	}
	if _, ok := c.get(b, "hash"); ok {
		t.Error("b has a's answer")
	}
}
