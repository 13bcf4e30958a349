package nar

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"golang.org/x/sys/unix"
)

// withProcessors runs a test with another GOMAXPROCS.
func withProcessors(t *testing.T, n int, test func(t *testing.T)) {
	t.Run(fmt.Sprintf("%d processors", n), func(t *testing.T) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
		test(t)
	})
}

// What is done by several goroutines is also done by one, and by many.
func TestProcessors(t *testing.T) {
	for _, n := range []int{1, 2, 8} {
		withProcessors(t, n, func(t *testing.T) {
			t.Run("vectors", TestVectors)
			t.Run("size", TestMaxSize)
			t.Run("changed size", TestDumpChangedSize)
			t.Run("write error", TestDumpWriteError)
			t.Run("full disk", TestRestoreFullDisk)
			t.Run("sharing", TestDedup)
		})
	}
}

func TestRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRing()
		var held []*chunk
		for range ringSize {
			held = append(held, r.get())
		}
		got := make(chan *chunk)
		next := func() { got <- r.get() }
		put := func() {
			r.put(held[0])
			held = held[1:]
		}
		go next()
		for i := range wakeSize {
			synctest.Wait()
			select {
			case <-got:
				t.Fatalf("a chunk more than there are, %d of them free", i)
			default:
			}
			put()
		}
		held = append(held, <-got)
		if r.made != ringSize {
			t.Errorf("%d chunks", r.made)
		}
		// One that is free is given at once, the one used last first.
		last := held[0]
		put()
		if c := r.get(); c != last {
			t.Error("not the chunk that was used last")
		} else {
			held = append(held, c)
		}
		// One that two use is free after both.
		for len(r.free) > 0 {
			held = append(held, r.get())
		}
		held[0].users.Add(1)
		r.put(held[0])
		if len(r.free) > 0 {
			t.Error("free while it is in use")
		}
		go next()
		synctest.Wait()
		r.stop()
		if c := <-got; c != nil {
			t.Error("a chunk after the end")
		}
		for len(held) > 0 {
			put()
		}
		r.release()
	})
}

// The hash does not depend on how an archive is cut, nor on who hashes.
func TestHashing(t *testing.T) {
	for _, n := range []int{1, 2} {
		withProcessors(t, n, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 1))
			for _, sizes := range [][]int{{}, {1}, {aloneSize, aloneSize}, {aloneSize + 1, 5}, {bufSize, bufSize, 1, bufSize}} {
				ring := newRing()
				h := hashing{Hasher: NewHasher(), ring: ring}
				var all []byte
				for _, size := range sizes {
					c := ring.get()
					for i := range c.buf[:size] {
						c.buf[i] = byte(r.Uint32())
					}
					all = append(all, c.buf[:size]...)
					h.add(c, 0, size/3)
					h.add(c, size/3, size)
					ring.put(c)
				}
				h.finish()
				if want := (Info{sha256.Sum256(all), int64(len(all))}); h.Info() != want {
					t.Errorf("%v: got %v, want %v", sizes, h.Info(), want)
				}
				ring.release()
			}
		})
	}
}

// What is read is hashed as what is written, and an error of the reader comes
// after what it has given.
func TestHasherReadFrom(t *testing.T) {
	broken := errors.New("broken")
	archive := make([]byte, 3*bufSize+11)
	rand.NewChaCha8([32]byte{}).Read(archive)
	want := NewHasher()
	want.Write([]byte("before"))
	want.Write(archive)
	for _, n := range []int{1, 2} {
		withProcessors(t, n, func(t *testing.T) {
			for name, tt := range map[string]struct {
				r   io.Reader
				err error
			}{
				"whole":           {bytes.NewReader(archive), nil},
				"in pieces":       {iotest.HalfReader(bytes.NewReader(archive)), nil},
				"EOF with bytes":  {iotest.DataErrReader(bytes.NewReader(archive)), nil},
				"broken":          {io.MultiReader(bytes.NewReader(archive), iotest.ErrReader(broken)), broken},
				"wrapped EOF":     {io.MultiReader(bytes.NewReader(archive), iotest.ErrReader(fmt.Errorf("peer: %w", io.EOF))), io.EOF},
				"never any bytes": {io.MultiReader(bytes.NewReader(archive), lazy{}), io.ErrNoProgress},
			} {
				h := NewHasher()
				h.Write([]byte("before"))
				var size int64
				var err error
				inBubble(t, func(*testing.T) { size, err = io.Copy(h, struct{ io.Reader }{tt.r}) })
				if size != int64(len(archive)) || !errors.Is(err, tt.err) || h.Info() != want.Info() {
					t.Errorf("%s: %d bytes, %v, %v", name, size, err, h.Info())
				}
			}
		})
	}
}

// inBubble runs f and checks that no goroutine of its is left, and no file open.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	open := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(list)
	}
	before := open()
	synctest.Test(t, f) // does not end well while a goroutine waits for something
	if after := open(); after > before {
		t.Errorf("%d files are open, before %d", after, before)
	}
}

// memoryRoot is tempRoot in memory, if there is a place for that: where files
// are made a thousand times, disks take most of the time.
func memoryRoot(t *testing.T) (*os.Root, string) {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs("/dev/shm", &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		return tempRoot(t)
	}
	path, err := os.MkdirTemp("/dev/shm", "nar-test-")
	if err != nil {
		return tempRoot(t)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(path); err != nil {
			t.Error(err)
		}
	})
	return openRoot(t, path), path
}

// wideTree is a tree of small files in folders of two kinds, with large files
// between them, larger than what is read ahead of the crew.
func wideTree() node {
	root := node{mode: os.ModeDir}
	for d := range 12 {
		sub := node{mode: os.ModeDir}
		for f := range 1 + d%3*20 {
			sub.entries = append(sub.entries, entryNode{fmt.Sprintf("f%02d", f), node{content: strings.Repeat("x", f*100), exec: f%2 == 0}})
		}
		sub.entries = append(sub.entries, entryNode{"link", node{mode: os.ModeSymlink, content: "f00"}})
		if d%4 == 3 {
			sub.entries = append(sub.entries, entryNode{"large", node{content: strings.Repeat("y", 2*bufSize+d)}})
		}
		root.entries = append(root.entries, entryNode{fmt.Sprintf("d%02d", d), sub})
	}
	return root
}

func TestNothingIsLeft(t *testing.T) {
	archive := wideTree().archive()
	root, path := memoryRoot(t)
	src := filepath.Join(path, "src")
	wideTree().write(t, src)
	broken := errors.New("broken")
	restore := func(size int) error {
		_, err := Restore(bytes.NewReader(archive[:size]), root, "x", RestoreOptions{})
		return err
	}
	dump := func(size int) error {
		_, err := Dump(writerFunc(func(p []byte) (int, error) {
			if size -= len(p); size < 0 {
				return 0, broken
			}
			return len(p), nil
		}), src)
		return err
	}
	for _, n := range []int{1, 2, 8} {
		withProcessors(t, n, func(t *testing.T) {
			for size := len(archive); size > 0; size -= 1 + len(archive)/6 {
				var want [3]error
				if size < len(archive) {
					want = [3]error{io.ErrUnexpectedEOF, io.ErrUnexpectedEOF, broken}
				}
				inBubble(t, func(t *testing.T) {
					_, verr := Verify(bytes.NewReader(archive[:size]))
					for i, err := range []error{restore(size), verr, dump(size)} {
						if !errors.Is(err, want[i]) {
							t.Errorf("%d, of %d bytes: %v", i, size, err)
						}
					}
				})
				if size == len(archive) {
					if err := RemoveAll(root, "x"); err != nil {
						t.Fatal(err)
					}
				}
				wantEmpty(t, path, "src")
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A panic of the caller's reader or writer is the caller's; what works for it
// ends.
func TestPanic(t *testing.T) {
	archive := wideTree().archive()
	root, path := memoryRoot(t)
	src := filepath.Join(path, "src")
	wideTree().write(t, src)
	for _, n := range []int{1, 2} {
		withProcessors(t, n, func(t *testing.T) {
			for name, run := range map[string]func() error{
				"reader": func() error {
					r := io.MultiReader(bytes.NewReader(archive[:len(archive)/2]), readerFunc(func([]byte) (int, error) { panic("mine") }))
					_, err := Restore(r, root, "x", RestoreOptions{})
					return err
				},
				"writer": func() error {
					_, err := Dump(writerFunc(func([]byte) (int, error) { panic("mine") }), src)
					return err
				},
			} {
				inBubble(t, func(t *testing.T) {
					defer func() {
						if v := recover(); v != "mine" {
							t.Errorf("%s: recovered %v", name, v)
						}
					}()
					t.Errorf("%s: returned %v", name, run())
				})
				if err := RemoveAll(root, "x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// limitFiles lets this process open n files more than it has open.
func limitFiles(t *testing.T, n int) (undo func()) {
	t.Helper()
	var before unix.Rlimit
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	limit := before
	limit.Cur = uint64(len(list) - 1 + n)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}
}

// Where there are too few descriptors, that is said, and nothing is left. How
// many are needed is bounded, however many folders wait for their last file.
func TestDescriptors(t *testing.T) {
	tree := node{mode: os.ModeDir}
	for d := range 300 {
		tree.entries = append(tree.entries, entryNode{fmt.Sprintf("d%03d", d), node{mode: os.ModeDir, entries: []entryNode{{"f", node{content: "x"}}}}})
	}
	deep := node{mode: os.ModeDir}
	for range MaxDepth - 2 {
		deep = node{mode: os.ModeDir, entries: []entryNode{{"d", deep}, {"f", node{content: "y"}}}}
	}
	tree.entries = append(tree.entries, entryNode{"deep", deep})
	archive := tree.archive()
	root, path := memoryRoot(t)
	for _, n := range []int{1, 2, 8} {
		withProcessors(t, n, func(t *testing.T) {
			undo := limitFiles(t, 20)
			_, err := Restore(bytes.NewReader(archive), root, "x", RestoreOptions{})
			undo()
			if !errors.Is(err, unix.EMFILE) {
				t.Errorf("got %v", err)
			}
			wantEmpty(t, path)
			undo = limitFiles(t, maxOpen)
			_, err = Restore(bytes.NewReader(archive), root, "x", RestoreOptions{})
			undo()
			if err != nil {
				t.Fatal(err)
			}
			undo = limitFiles(t, 20)
			_, err = Dump(io.Discard, filepath.Join(path, "x"))
			undo()
			if !errors.Is(err, unix.EMFILE) {
				t.Errorf("got %v", err)
			}
			if err := RemoveAll(root, "x"); err != nil {
				t.Fatal(err)
			}
		})
	}
}
