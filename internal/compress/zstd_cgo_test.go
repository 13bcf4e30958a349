//go:build cgo && linux

package compress

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
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

// TestZstdSame wants the same frame whatever the pieces and the threads are: the
// URN names these very bytes.
func TestZstdSame(t *testing.T) {
	all := text(6 << 20)
	for _, n := range []int{0, 1, 1000, zstdIn - 1, zstdIn, zstdIn + 1, 3 << 20, 6 << 20} {
		data := all[:n]
		for _, size := range []int64{0, int64(n)} {
			want := packed(t, data, 1, max(1, n), Options{Size: size})
			for _, x := range []struct{ piece, threads int }{{1<<20 - 7, 1}, {100_000, 3}} {
				if got := packed(t, data, 1, x.piece, Options{Size: size, Threads: x.threads}); !bytes.Equal(got, want) {
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

// TestZstdSpare wants a stream that has the memory of another one to make the frame
// that it would make with its own.
func TestZstdSpare(t *testing.T) {
	all := text(2 * spareSize)
	var spare Spare
	defer spare.Free()
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 400 {
		level := []int{1, 3, 9, 19}[rng.IntN(4)]
		n := rng.IntN(1 << rng.IntN(19))
		from := rng.IntN(len(all) - n + 1)
		data := all[from : from+n]
		o := Options{Size: int64(n)}
		switch i % 5 {
		case 0:
			o.Size += int64(rng.IntN(5000)) - 2500 // it is a hint
		case 1:
			o.Size = spareSize + 5 // its own memory
		}
		want := packed(t, data, level, max(1, n), o)
		o.Spare = &spare
		if got := packed(t, data, level, max(1, n), o); !bytes.Equal(got, want) {
			t.Fatalf("stream %d, level %d, %d bytes: another frame", i, level, n)
		}
	}
}

// TestZstdSpareRoom wants the end of a frame not to depend on the room that another
// stream has left: where there is much of it, libzstd compresses what is last at once.
func TestZstdSpareRoom(t *testing.T) {
	noise := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	data := append(make([]byte, 785_558), noise...)
	var spare Spare
	defer spare.Free()
	packed(t, noise[:spareSize-1000], 4, spareSize, Options{Size: spareSize, Spare: &spare})
	o := Options{Size: 94_324} // it is a hint
	want := packed(t, data, 4, len(data), o)
	o.Spare = &spare
	if got := packed(t, data, 4, len(data), o); !bytes.Equal(got, want) {
		t.Errorf("another frame, of %d bytes, not %d", len(got), len(want))
	}
}

// TestZstdSpareKept wants the memory to go from one stream to the next, but not that
// of a large one, and a stream that was cut short not to change the next.
func TestZstdSpareKept(t *testing.T) {
	var spare Spare
	data := text(5000)
	o := Options{Size: 5000, Spare: &spare}
	want := packed(t, data, 3, 5000, o)
	kept := spare.zstd.ctx
	if kept == nil {
		t.Fatal("not kept")
	}
	w, err := NewWriterOptions(io.Discard, Method{"zstd", 3}, o)
	if err != nil {
		t.Fatal(err)
	}
	if spare.zstd.ctx != nil {
		t.Error("two may have it")
	}
	if _, err := w.Write(text(spareSize + 1000)); err != nil { // more than was said
		t.Fatal(err)
	}
	Interrupt(w)
	for range 2 {
		if err := w.Close(); !errors.Is(err, ErrInterrupted) {
			t.Error(err)
		}
	}
	if got := packed(t, data, 3, 5000, o); !bytes.Equal(got, want) || spare.zstd.ctx != kept {
		t.Error("another frame, or another context, after one that was cut short")
	}
	packed(t, data, 3, 5000, Options{Size: spareSize + 1, Spare: &spare})
	if spare.zstd.ctx != kept {
		t.Error("a large stream has taken part")
	}
	if n := testing.AllocsPerRun(20, func() {
		w, _ := NewWriterOptions(io.Discard, Method{"zstd", 3}, o) // it has worked before
		w.Write(data)
		w.Close()
	}); n > 1 {
		t.Errorf("%v allocations for a stream", n)
	}
	spare.Free()
	spare.Free()
	if spare.zstd.ctx != nil {
		t.Error("still there")
	}
}

// TestZstdFrames wants frames never to change, but with libzstd: another frame is
// another URN.
func TestZstdFrames(t *testing.T) {
	all := text(9 << 20)
	for _, x := range []struct {
		n, level int
		sized    bool
		size     int // of the frame
		sum      string
	}{
		{0, 3, false, 9, "6fb8543883dafcc2ed0934866b8b3f775231f5b0933add08bf502e9e84944cbd"},
		{0, 19, true, 9, "6fb8543883dafcc2ed0934866b8b3f775231f5b0933add08bf502e9e84944cbd"},
		{1, 3, true, 10, "33dcf23d427ae8cd0165be319dd0b6987056e74e453dd447dc6fc384873beeba"},
		{5000, 3, false, 811, "c6957433d0154b367a506d8854a01dc6eca180fc1cb42f9455b34a9d8aa75792"},
		{5000, 19, true, 682, "5dd1642cc23e7f6ffb049560008f42a4fbc6eaed2438b4db76c57f075dc3dfa8"},
		{100000, 9, true, 14503, "1e4779e30dbcbef33476cc4b2942d8a6313ea5689c73b93f37439f692f6b2e3d"},
		{262143, 3, true, 40491, "131e543ec661a362bc7fb75dde94d5546bf69f36e3efa5561336c67bce9cd171"},
		{262144, 3, true, 40491, "94ca13837da60d4738681d704563b98aaeb9a49bfe1727f379bef89d1a28effa"},
		{262145, 1, true, 39100, "2426abdba00c8e30298bf8bdc215c38e7668749ec7b2cb6f9d8289e5c06af424"},
		{300000, 19, true, 34571, "88477d5b7f50d754fa0c0458c0e8e46449f498f6ba8184f73f4732380c8f35d7"},
		{700001, 3, false, 107253, "de64d06c8f39f15f575fa11721683d2cedaa15dda413ceaec5f0f5a58f4ac89e"},
		{700001, 3, true, 107253, "e27f168c6f0d247a7310d49af9a7f171bdd46a0c9d3ef4d32f0721474b60aaed"},
		{3145728, 1, true, 478184, "356f6ce6864e2ac569da9c811de166b92afa519640ab64e7ef710e14a1859012"},
		{3145805, 3, true, 483832, "6d3128e2725703f0a974508c20fbf96552e382204e43830b106c404a446f4ba0"},
		{9437184, 3, true, 1443211, "4845fdfad1e4bda8f6513160949b20ac8635a32046f48201aea576ea25558021"},
		{9437184, 1, false, 1441878, "f343644b73da43f97fc5c93198bccd1610d5afb82c7f6690869924fc3893edf1"},
	} {
		o := Options{Threads: 2}
		if x.sized {
			o.Size = int64(x.n)
		}
		got := packed(t, all[:x.n], x.level, 100_000, o)
		if sum := fmt.Sprintf("%x", sha256.Sum256(got)); sum != x.sum {
			t.Errorf("%d bytes at level %d, sized %v: %d bytes, %d before", x.n, x.level, x.sized, len(got), x.size)
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

// short fails after n bytes.
type short int

var errShort = errors.New("no room")

func (s *short) Write(p []byte) (int, error) {
	if *s -= short(len(p)); *s < 0 {
		return 0, errShort
	}
	return len(p), nil
}

// TestZstdFails wants the writer's error, from then on.
func TestZstdFails(t *testing.T) {
	noise := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise) // never fails
	for _, room := range []short{0, 1 << 20} {
		w, err := NewWriterOptions(&room, Method{"zstd", 1}, Options{Size: 4 << 20, Threads: 2})
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
}

// TestZstdInterrupt wants nothing to be compressed any more.
func TestZstdInterrupt(t *testing.T) {
	for _, o := range []Options{{}, {Size: 100 << 20, Threads: 2}} {
		var b bytes.Buffer
		w, err := NewWriterOptions(&b, Method{"zstd", 19}, o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text(300_000)); err != nil { // less than a job
			t.Fatal(err)
		}
		n := b.Len()
		Interrupt(w)
		if _, err := w.Write(text(300_000)); !errors.Is(err, ErrInterrupted) {
			t.Error(err)
		}
		for range 2 {
			if err := w.Close(); !errors.Is(err, ErrInterrupted) {
				t.Error(err)
			}
		}
		if b.Len() != n {
			t.Errorf("%+v: %d bytes more", o, b.Len()-n)
		}
	}
}

// resident returns how much memory this process has, in bytes, without Go's garbage.
func resident(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
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
