package bench

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/block/narindex"
	"ersatz/internal/keep"
	"ersatz/narinfo"
)

// TestCrowdIsBelieved: what is written directly is what publish and node write.
func TestCrowdIsBelieved(t *testing.T) {
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	const n = 30
	w, err := makeCrowd(t.Context(), t.TempDir(), n, key)
	if err != nil {
		t.Fatal(err)
	}
	x, err := narindex.Open(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	for i := range n {
		p := crowdItem(i)
		text, err := os.ReadFile(filepath.Join(w.dir, p.Hash+".narinfo"))
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := narinfo.Parse(text)
		if err != nil || parsed.StorePath != p.String() || len(parsed.Nars) != 1 || parsed.Nars[0].FileSize != uint64(len(w.nar)) {
			t.Fatalf("%+v, %v", parsed, err)
		}
		if _, err := parsed.VerifyGuix(guixsig.ACL{}.Add(key.Public())); err != nil {
			t.Errorf("%s: %v", p, err)
		}
		item, err := x.Item(t.Context(), p.Hash)
		if err != nil || item.Base != p.Base() {
			t.Fatalf("%+v, %v", item, err)
		}
		if c, length, err := x.Shape(item); err != nil || c != w.c || length != int64(len(w.nar)) {
			t.Errorf("%s: %d bytes of %s, %v", p, length, c.URN(), err)
		}
	}
	if size, err := w.indexSize(); err != nil || size < n*w.nodes*8 {
		t.Errorf("index of %d bytes, %v", size, err)
	}
	store, err := keep.Open(w.dir, keep.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if u := store.Usage(); u.Items != n {
		t.Errorf("%+v", u)
	}
	for i := range n {
		if _, err := os.Stat(filepath.Join(w.dir, crowdNar, crowdItem(i).Base())); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := makeCrowd(ctx, t.TempDir(), n, key); !errors.Is(err, context.Canceled) {
		t.Errorf("nothing stops it: %v", err)
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int]string{1: "1", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := grouped(n); got != want {
			t.Errorf("%d is printed as %s", n, got)
		}
	}
}

func TestMemoryDir(t *testing.T) {
	dir, err := memoryDir(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/dev/shm"); err != nil {
		t.Skip(err)
	}
	if dir, err := memoryDir(math.MaxInt64); err == nil && strings.HasPrefix(dir, "/dev/shm") {
		t.Errorf("%s has room for everything", dir)
	}
}

// TestSettle: a process that has ended its work is told from one that has not.
func TestSettle(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }() // it is killed
	if u, err := settle(ctx, cmd, settled); err != nil || u.cpu > time.Second || u.peak < 100<<10 {
		t.Errorf("%+v, %v", u, err)
	}
	busy := exec.CommandContext(ctx, "sh", "-c", "while :; do :; done")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = busy.Wait() }() // it is killed
	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	if u, err := settle(ctx, busy, 200*time.Millisecond); err != nil || u.cpu > time.Minute {
		t.Errorf("a busy process: %+v, %v", u, err)
	}
	if _, err := settle(short, busy, settled); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a busy process has settled: %v", err)
	}
}

// TestGrowth: a program that ends at once is told, with what it has printed.
func TestGrowth(t *testing.T) {
	o := Options{Runs: 1, Log: slog.New(slog.DiscardHandler), Ersatz: filepath.Join(t.TempDir(), "ersatz"), absent: new(absent)}
	if err := os.WriteFile(o.Ersatz, []byte("#!/bin/sh\necho its reason >&2\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := growth(ctx, o, []int{3})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "its reason") {
		t.Errorf("%v", err)
	}
	var g grown
	o.Ersatz = filepath.Join(t.TempDir(), "none")
	if err := g.run(t.Context(), o, &crowd{}, []string{"node"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	tables, err := growth(t.Context(), o, []int{math.MaxInt64 / crowdMemory})
	if err != nil || len(tables) != 2 || len(tables[0].Head) != 1 || !strings.Contains(o.absent.String(), "of memory") {
		t.Errorf("%v, %v, %s", tables, err, o.absent)
	}
}

// TestCrowdAs: publish and node refuse each other's folders, and get one of their own.
func TestCrowdAs(t *testing.T) {
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	w, err := makeCrowd(t.Context(), t.TempDir(), 2, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.as("publish"); err != nil || keep.IsState(w.dir) {
		t.Errorf("it is still a node's: %v", err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "nix-cache-info"), nil, 0o644); err != nil { // as publish does
		t.Fatal(err)
	}
	for range 2 {
		if err := w.as("node"); err != nil {
			t.Fatal(err)
		}
	}
	s, err := keep.Open(w.dir, keep.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
