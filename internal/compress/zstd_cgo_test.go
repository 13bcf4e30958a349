//go:build cgo && linux

package compress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// text is compressible and not trivial.
func text(n int) []byte {
	rng := rand.New(rand.NewPCG(5, 6))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "line %d of a text that repeats %x\n", rng.IntN(500), rng.IntN(1<<16))
	}
	return b.Bytes()[:n]
}

// packed compresses data in pieces.
func packed(t *testing.T, data []byte, level, piece int, o Options) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriterOptions(&b, Method{"zstd", level}, o)
	if err != nil {
		t.Fatal(err)
	}
	for part := range slices.Chunk(data, piece) {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestZstdSame wants the same frame whatever the pieces, the threads and the
// priority are: the URN names these very bytes.
func TestZstdSame(t *testing.T) {
	all := text(6 << 20)
	for _, n := range []int{0, 1, 1000, zstdIn - 1, zstdIn, zstdIn + 1, 3 << 20, 6 << 20} {
		data := all[:n]
		for _, size := range []int64{0, int64(n)} {
			want := packed(t, data, 1, max(1, n), Options{Size: size})
			for _, x := range []struct {
				piece   int
				threads int
				back    bool
			}{{1<<20 - 7, 1, true}, {100_000, 3, false}} {
				if got := packed(t, data, 1, x.piece, Options{size, x.threads, x.back}); !bytes.Equal(got, want) {
					t.Errorf("%d bytes, size %d, %+v: another frame", n, size, x)
				}
			}
			r, err := NewReader(bytes.NewReader(want), "zstd")
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, size %d: %d back, %v", n, size, len(got), err)
			}
			r.Close()
		}
	}
}

// TestThreads: what decides between two kinds of frames, at the edge.
func TestThreads(t *testing.T) {
	for _, c := range []struct {
		m    Method
		size int64
		want int
	}{
		{Method{"zstd", 1}, 2<<20 - 1, 1}, {Method{"zstd", 1}, 2 << 20, 2},
		{Method{"zstd", 3}, 8<<20 - 1, 1}, {Method{"zstd", 3}, 8 << 20, 2}, {Method{"zstd", 3}, 100 << 20, 25},
		{Method{"zstd", 19}, 64<<20 - 1, 1}, {Method{"zstd", 19}, 64 << 20, 2}, {Method{"zstd", 19}, -1, 1},
		{Method{"gzip", 9}, 1 << 40, 1},
	} {
		if got := c.m.Threads(c.size); got != c.want {
			t.Errorf("%s, %d bytes: %d threads, want %d", c.m, c.size, got, c.want)
		}
	}
}

// TestZstdSize wants the hint to be one: a wrong one costs some bytes.
func TestZstdSize(t *testing.T) {
	data := text(1 << 20)
	for _, size := range []int64{1, 100, 1 << 30, 1 << 62} {
		r, err := NewReader(bytes.NewReader(packed(t, data, 1, 1<<20, Options{Size: size})), "zstd")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
			t.Errorf("size %d: %d back, %v", size, len(got), err)
		}
		r.Close()
	}
}

// threads returns how many threads of this process have which nice value.
func threads(t *testing.T) map[string]int {
	t.Helper()
	stats, err := filepath.Glob("/proc/self/task/*/stat")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]int{}
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(rest) // from the third on, proc_pid_stat(5)
		m[f[19-3]]++              // nice
		m["policy "+f[41-3]]++
	}
	return m
}

// opened returns how many descriptors this process has.
func opened(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// until waits for what other threads do meanwhile.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 20_000 {
		if ok() {
			return
		}
		threads(t) // takes a while
	}
	t.Errorf("waiting for %s: threads %v, %d descriptors", what, threads(t), opened(t))
}

// TestZstdBackground wants all threads of a stream at the lowest priority, and
// none of them, nor a descriptor, to be left after it.
func TestZstdBackground(t *testing.T) {
	data := text(5 << 20)
	fds := opened(t)
	for _, c := range []struct {
		o    Options
		want int // threads
	}{{Options{Background: true}, 1}, {Options{Size: 5 << 20, Threads: 2, Background: true}, 3}, {Options{Size: 5 << 20, Threads: 2}, 0}} {
		w, err := NewWriterOptions(io.Discard, Method{"zstd", 1}, c.o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if m := threads(t); m["19"] != c.want || m["policy 3"] != c.want { // SCHED_BATCH
			t.Errorf("%+v: threads %v", c.o, m)
		}
		if err := errors.Join(w.Close(), w.Close()); err != nil {
			t.Error(err)
		}
		until(t, "the end of the threads", func() bool { return threads(t)["19"] == 0 && opened(t) == fds })
	}
}

// short fails after n bytes.
type short int

var errShort = errors.New("no room")

func (s *short) Write(p []byte) (int, error) {
	if *s -= short(len(p)); *s < 0 {
		return 0, errShort
	}
	return len(p), nil
}

// TestZstdFails wants the writer's error, from then on, and nothing left.
func TestZstdFails(t *testing.T) {
	noise := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise) // never fails
	fds := opened(t)
	for _, room := range []short{0, 1 << 20} {
		w, err := NewWriterOptions(&room, Method{"zstd", 1}, Options{Size: 4 << 20, Threads: 2, Background: true})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err = w.Write(noise); err == nil {
				t.Error("written")
			}
		}
		if !errors.Is(err, errShort) || !errors.Is(w.Close(), errShort) {
			t.Errorf("%v, %v", err, w.Close())
		}
	}
	until(t, "the end of the threads", func() bool { return threads(t)["19"] == 0 && opened(t) == fds })
}

// TestZstdInterrupt wants a stream to end soon that has much to do still.
func TestZstdInterrupt(t *testing.T) {
	fds := opened(t)
	w, err := NewWriterOptions(io.Discard, Method{"zstd", 19}, Options{Size: 100 << 20, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	piece := text(1 << 20)
	for range 2 { // less than a job: all of it is compressed in Close
		if _, err := w.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error)
	go func() { ended <- w.Close() }()
	Interrupt(w)
	if err := <-ended; !errors.Is(err, ErrInterrupted) {
		t.Errorf("%v", err)
	}
	if err := w.Close(); !errors.Is(err, ErrInterrupted) {
		t.Errorf("closed again: %v", err)
	}
	until(t, "the end of the threads", func() bool { return opened(t) == fds })
}

// TestZstdKeepsOff wants a writer that was interrupted not to touch what the
// thread is at.
func TestZstdKeepsOff(t *testing.T) {
	fds := opened(t)
	w, err := NewWriterOptions(io.Discard, Method{"zstd", 19}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bytes.Repeat([]byte("a"), zstdIn)); err != nil { // its turn begins
		t.Fatal(err)
	}
	Interrupt(w)
	if _, err := w.Write([]byte("b")); !errors.Is(err, ErrInterrupted) {
		t.Errorf("%v", err)
	}
	if in := w.(*zstdWriter).in; in[0] != 'a' {
		t.Errorf("the thread was at %q", in[:1])
	}
	if err := w.Close(); !errors.Is(err, ErrInterrupted) {
		t.Error(err)
	}
	until(t, "the end of the thread", func() bool { return opened(t) == fds })
}

// TestZstdLeft wants a stream that is left during a turn to write to no
// descriptor that the thread has closed, and that may be another file's.
func TestZstdLeft(t *testing.T) {
	fds := opened(t)
	piece := text(zstdIn)
	for range 200 {
		w, err := NewWriterOptions(io.Discard, Method{"zstd", 1}, Options{Background: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(piece); err != nil { // its turn begins
			t.Fatal(err)
		}
		z := w.(*zstdWriter)
		z.err = io.ErrClosedPipe
		if err := w.Close(); err != io.ErrClosedPipe {
			t.Fatal(err)
		}
	}
	until(t, "the end of the threads", func() bool { return opened(t) == fds })
}

// resident returns how much memory this process has, in bytes.
func resident(t *testing.T) int {
	t.Helper()
	var pages, total int
	text, err := os.ReadFile("/proc/self/statm")
	if err == nil {
		_, err = fmt.Sscan(string(text), &total, &pages)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// TestZstdGivesBack wants the memory of large streams to be free for others once
// they have ended.
func TestZstdGivesBack(t *testing.T) {
	fds := opened(t)
	data := text(12 << 20)
	before := resident(t)
	for range 3 {
		var all []io.WriteCloser
		for range 2 {
			w, err := NewWriterOptions(io.Discard, Method{"zstd", 3}, Options{Size: int64(len(data)), Threads: 3})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, w)
		}
		for _, w := range all {
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
		}
		for _, w := range all {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "the end of the threads", func() bool { return opened(t) == fds })
	}
	more := (resident(t) - before) >> 20 // 45 where malloc keeps it
	if more > 25 {
		t.Errorf("%d MiB more than before", more)
	}
}

// TestZstdAllocs wants what a stream allocates not to grow with it.
func TestZstdAllocs(t *testing.T) {
	piece := text(300_000)
	w, err := NewWriterOptions(io.Discard, Method{"zstd", 1}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if n := testing.AllocsPerRun(20, func() { _, err = w.Write(piece) }); n != 0 || err != nil {
		t.Errorf("%v allocations per write, %v", n, err)
	}
}

// BenchmarkZstdSmall compresses what most items are.
func BenchmarkZstdSmall(b *testing.B) {
	for _, n := range []int{1000, 20_000, 200_000} {
		data := text(n)
		for _, level := range []int{3, 19} {
			b.Run(fmt.Sprintf("%d bytes, level %d", n, level), func(b *testing.B) {
				b.SetBytes(int64(n))
				for b.Loop() {
					w, err := NewWriterOptions(io.Discard, Method{"zstd", level}, Options{Size: int64(n)})
					if err != nil {
						b.Fatal(err)
					}
					w.Write(data)
					if err := w.Close(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
