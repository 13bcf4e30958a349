package nar

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// benchFiles is the number of files in the tree that is measured, about
// 100 MB in all: most are small, a few hold most of the bytes.
const benchFiles = 6000

var benchTree = sync.OnceValue(func() node {
	r := rand.New(rand.NewPCG(1, 2))
	pool := make([]byte, 4<<20)
	for i := range pool {
		pool[i] = byte(r.Uint32())
	}
	root := node{}
	root.mode = os.ModeDir
	for d := range benchFiles / 20 {
		sub := node{mode: os.ModeDir}
		for f := range 20 {
			size := 200 + r.IntN(8000)
			if r.IntN(16) == 0 {
				size = 100<<10 + r.IntN(300<<10)
			}
			at := r.IntN(len(pool) - size)
			sub.entries = append(sub.entries, entryNode{fmt.Sprintf("file-%02d.txt", f),
				node{exec: f == 0, content: string(pool[at : at+size])}})
		}
		root.entries = append(root.entries, entryNode{fmt.Sprintf("folder-%03d", d), sub})
	}
	return root
})

var benchFile = sync.OnceValue(func() node {
	b := make([]byte, 100<<20)
	r := rand.NewChaCha8([32]byte{})
	r.Read(b)
	return node{content: string(b)}
})

func benchmarkBoth(b *testing.B, run func(b *testing.B, n node)) {
	b.Run("tree", func(b *testing.B) { run(b, benchTree()) })
	b.Run("file", func(b *testing.B) { run(b, benchFile()) })
}

func BenchmarkDump(b *testing.B) {
	benchmarkBoth(b, func(b *testing.B, n node) {
		path := filepath.Join(b.TempDir(), "x")
		n.write(b, path)
		b.ReportAllocs()
		for b.Loop() {
			info, err := Dump(io.Discard, path)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(info.Size)
		}
	})
}

func BenchmarkRestore(b *testing.B) {
	benchmarkBoth(b, func(b *testing.B, n node) {
		root, _ := tempRoot(b)
		archive := n.archive()
		b.SetBytes(int64(len(archive)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Restore(bytes.NewReader(archive), root, "x", RestoreOptions{}); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := RemoveAll(root, "x"); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}

// All files but the small ones are in the store already.
func BenchmarkRestoreDedup(b *testing.B) {
	benchmarkBoth(b, func(b *testing.B, n node) {
		root, path := tempRoot(b)
		dedup, err := OpenDedup(path)
		if err != nil {
			b.Fatal(err)
		}
		defer dedup.Close()
		archive := n.archive()
		if _, err := Restore(bytes.NewReader(archive), root, "first", RestoreOptions{Dedup: dedup}); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(archive)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Restore(bytes.NewReader(archive), root, "x", RestoreOptions{Dedup: dedup}); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := RemoveAll(root, "x"); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	benchmarkBoth(b, func(b *testing.B, n node) {
		archive := n.archive()
		b.SetBytes(int64(len(archive)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Verify(bytes.NewReader(archive)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Memory does not grow with a file's size.
func TestMemory(t *testing.T) {
	const size = 64 << 20
	head := build(magic, "(", "type", "regular", "contents", size)
	archive := func() io.Reader {
		return io.MultiReader(bytes.NewReader(head), io.LimitReader(zeros{}, size), bytes.NewReader(build(")")))
	}
	root, path := tempRoot(t)
	dedup := openDedup(t, path)
	const budget = (wideRing + 1) * bufSize
	for name, run := range map[string]func() (Info, error){
		"Verify":  func() (Info, error) { return Verify(archive()) },
		"Restore": func() (Info, error) { return Restore(archive(), root, "x", RestoreOptions{Dedup: dedup}) },
		"again":   func() (Info, error) { return Restore(archive(), root, "y", RestoreOptions{Dedup: dedup}) },
		"Dump":    func() (Info, error) { return Dump(io.Discard, path) },
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := run(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > budget {
			t.Errorf("%s allocated %d bytes", name, got)
		}
	}
}

// zeros is an endless stream.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// A file costs a bounded number of allocations: its names, mostly.
func TestAllocations(t *testing.T) {
	n := node{mode: os.ModeDir}
	for i := range 500 {
		n.entries = append(n.entries, entryNode{fmt.Sprintf("file-%03d", i), node{content: string(make([]byte, 10*i))}})
	}
	archive := n.archive()
	root, path := tempRoot(t)
	src := filepath.Join(path, "src")
	n.write(t, src)
	shared := node{mode: os.ModeDir}
	for i := range n.entries {
		shared.entries = append(shared.entries, entryNode{fmt.Sprintf("file-%03d", i), node{content: string(make([]byte, DedupMinSize+i))}})
	}
	sharedArchive, dedup := shared.archive(), openDedup(t, path)
	for _, tt := range []struct {
		name   string
		budget float64 // allocations per file
		run    func() error
	}{
		{"Dump", 1.5, func() error { _, err := Dump(io.Discard, src); return err }},
		{"Verify", 1.5, func() error { _, err := Verify(bytes.NewReader(archive)); return err }},
		{"Restore and remove", 5, func() error {
			if _, err := Restore(bytes.NewReader(archive), root, "x", RestoreOptions{}); err != nil {
				return err
			}
			return RemoveAll(root, "x")
		}},
		{"Restore of what is in .links, and remove", 8.5, func() error {
			if _, err := Restore(bytes.NewReader(sharedArchive), root, "x", RestoreOptions{Dedup: dedup}); err != nil {
				return err
			}
			return RemoveAll(root, "x")
		}},
	} {
		got := testing.AllocsPerRun(3, func() {
			if err := tt.run(); err != nil {
				t.Fatal(err)
			}
		}) / float64(len(n.entries))
		t.Logf("%s: %.2f allocations per file", tt.name, got)
		if got > tt.budget {
			t.Errorf("%s: %.2f allocations per file, budget %.2f", tt.name, got, tt.budget)
		}
	}
}
