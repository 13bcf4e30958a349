package bake

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/storepath"
)

// lines is compressible.
func lines(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "line %d of a text that repeats %x\n", rng.IntN(500), rng.IntN(1<<16))
	}
	return b.Bytes()[:n]
}

// Two servers with the same settings make the same blocks, whatever else they
// do, however many processors they have.
func TestSameBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		large := s.add("large", nil, lines(5<<20))
		other := s.add("other", nil, lines(4<<20))
		methods := []compress.Method{{Name: "zstd", Level: 1}}
		if compress.Native && methods[0].Threads(int64(large.NarSize)) < 3 {
			t.Fatal("the item is too small for several threads")
		}
		urns := map[string]bool{}
		for _, workers := range []int{1, 2, 4} {
			if err := os.RemoveAll(s.cache); err != nil {
				t.Fatal(err)
			}
			s.bake(Options{Methods: methods, Workers: workers}, other.Path, large.Path)
			_, signed := s.narinfo(large.Path.Hash)
			urns[signed.ERIS] = true
		}
		if len(urns) != 1 {
			t.Errorf("%d different URNs: %v", len(urns), urns)
		}
	})
}

// What is made of an item does not depend on who makes it: one goroutine or several,
// with memory of its own or of the job before.
func TestMake(t *testing.T) {
	s := newSite(t)
	forms := []form{{Method: compress.Method{Name: "gzip", Level: 1}, Threads: 1}, {Method: fast[0], Threads: 2}}
	var jobs []job
	for i, n := range []int{0, 1, 700, 30_000, little + 1, 3 << 20, 5000} {
		info := s.add(fmt.Sprint("item", i), nil, lines(n), random(byte(i), n/3))
		for from := range forms { // with one form, and with two
			jobs = append(jobs, job{
				Path: fileName(info.Path.String()), Size: int64(info.NarSize),
				Forms: forms[from:], Named: len(forms[from:]) - 1, Torrent: i%2 == 0,
			})
		}
	}
	run := func(kept *tools, j job) string {
		var tree bytes.Buffer
		files := make([]bytes.Buffer, len(j.Forms))
		var to []io.Writer
		for i := range files {
			to = append(to, &files[i])
		}
		m, err := kept.make(t.Context(), j, &tree, to)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x %x %x", fmt.Sprint(m), tree.Bytes(), files)
	}
	var kept tools
	defer kept.spare.Free()
	for i, j := range jobs {
		var own tools
		want := run(&own, j)
		own.spare.Free()
		for _, j.Alone = range []bool{true, false} {
			if run(&kept, j) != want {
				t.Errorf("job %d, %d bytes, alone %v: makes something else", i, j.Size, j.Alone)
			}
		}
	}
}

// A job of a small item allocates little: buffers and contexts stay.
func TestMakeAllocates(t *testing.T) {
	if !compress.Native {
		t.Skip("the encoder of Go allocates more")
	}
	if raceEnabled {
		t.Skip("a sync.Pool loses things on purpose")
	}
	s := newSite(t)
	info := s.add("item", nil, lines(10_000))
	j := job{Path: fileName(info.Path.String()), Size: int64(info.NarSize), Forms: []form{{Method: fast[0], Threads: 1}}}
	var kept tools
	defer kept.spare.Free()
	one := func() {
		if _, err := kept.make(t.Context(), j, io.Discard, []io.Writer{io.Discard}); err != nil {
			t.Fatal(err)
		}
	}
	one()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const n = 50
	for range n {
		one()
	}
	runtime.ReadMemStats(&after)
	if got := (after.TotalAlloc - before.TotalAlloc) / n; got > 25<<10 { // package nar may make its buffer anew after garbage was collected
		t.Errorf("%d bytes for an item", got)
	}
	if got := (after.Mallocs - before.Mallocs) / n; got > 90 {
		t.Errorf("%d allocations for an item", got)
	}
}

func TestCores(t *testing.T) {
	c := cores{free: 4}
	for _, x := range []struct{ want, got int }{{3, 3}, {3, 1}, {3, 1}, {1, 1}} { // of 4, 1, 0, -1
		if got := c.take(x.want); got != x.got {
			t.Errorf("%d of %d wanted, want %d", got, x.want, x.got)
		}
	}
	c.give(6)
	if got := c.take(9); got != 4 {
		t.Errorf("%d of all", got)
	}
}

// A worker does not wait for the disk, but for a few items.
func TestSyncing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		var paths []storepath.Path
		for i := range 1 + syncing + 2 {
			paths = append(paths, s.add(fmt.Sprint("item", i), nil, lines(1000)).Path)
		}
		disk := make(chan struct{})
		restore := durable.SetFaultForTest(func(op, path string) error {
			if op == "rename" && strings.Contains(path, "nar/zstd") {
				<-disk
			}
			return nil
		})
		defer restore()
		c := s.open(Options{Workers: 1})
		defer s.close(c)
		s.run(c, func() {
			for _, p := range paths {
				if err := c.Bake(p); err != nil {
					t.Error(err)
				}
			}
			synctest.Wait()
			if got := c.Status().Working; got != 1+syncing {
				t.Errorf("%d items are under way, want %d", got, 1+syncing)
			}
			close(disk)
		})
		if got := c.Status(); got.Baked != len(paths) || got.Working != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// An item that is being compressed when the server is told to stop keeps it
// for no longer, however slow its level is.
func TestStop(t *testing.T) {
	s := newSite(t)
	info := s.add("large", nil, lines(3<<20)) // seconds at this level
	c := s.open(Options{Methods: []compress.Method{{Name: "zstd", Level: 19}}})
	defer s.close(c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	if err := c.Bake(info.Path); err != nil {
		t.Fatal(err)
	}
	for c.Status().Working == 0 {
		os.Getpid() // a system call: others get on
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := c.Status(); s.Baked+s.Failed != 0 {
		t.Errorf("%+v", s)
	}
}
