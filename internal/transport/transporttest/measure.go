package transporttest

import (
	"bytes"
	"context"
	"os"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block/memstore"
)

// Many is how many blocks of 32 KiB are fetched to measure a transport.
const Many = 2000

// ones is how many single blocks are fetched to measure how long one takes.
const ones = 50

// Blocks returns a store of n blocks of 32 KiB, and their references.
func Blocks(t testing.TB, n int) (*memstore.Store, []eris.Ref) {
	t.Helper()
	return fill(t, eris.Size32KiB, n)
}

// Func is a source made of a function, such as a bare loop around a library.
type Func func(ctx context.Context, refs []eris.Ref, got func(i int, block []byte) error) error

// Fetch implements eris.Fetcher.
func (f Func) Fetch(ctx context.Context, _ eris.BlockSize, refs []eris.Ref, got func(i int, block []byte) error) error {
	return f(ctx, refs, got)
}

// Measure has a source give all blocks of 32 KiB, which are verified, and then one
// at a time. It reports blocks per second, the time of one block, the time of
// processors per block, and by how much the memory of this process grew at most
// meanwhile: what serves the blocks is in it unless it is another program. `make
// bench` runs benchmarks of the name BenchmarkTransport and wants parts of them
// that are named ersatz/X and bare/X: what is ours, and the same by the library
// or program that it uses.
func Measure(b *testing.B, source eris.Fetcher, refs []eris.Ref) {
	b.Helper()
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // forgets the greatest
		b.Fatal(err)
	}
	was := peak(b)
	fetchAll(b, source, refs[:1]) // connects
	before := busy(b)
	for b.Loop() {
		fetchAll(b, source, refs)
	}
	n := float64(b.N) * float64(len(refs))
	b.ReportMetric(n/b.Elapsed().Seconds(), "blocks/s")
	b.ReportMetric(float64(busy(b)-before)/n/1000, "cpu-µs/block")
	b.ReportMetric(float64(peak(b)-was), "bytes-more")
	begin := time.Now()
	for i := range ones {
		fetchAll(b, source, refs[i%len(refs):][:1])
	}
	b.ReportMetric(float64(time.Since(begin))/ones/1e6, "ms/one")
	b.ReportMetric(0, "ns/op") // says nothing beside blocks/s
}

func fetchAll(b *testing.B, source eris.Fetcher, refs []eris.Ref) {
	b.Helper()
	var n atomic.Int64
	err := source.Fetch(b.Context(), eris.Size32KiB, refs, func(i int, block []byte) error {
		if eris.BlockRef(block) != refs[i] {
			return eris.ErrCorrupt
		}
		n.Add(1)
		return nil
	})
	if err != nil || n.Load() != int64(len(refs)) {
		b.Fatalf("%d of %d blocks, %v", n.Load(), len(refs), err)
	}
}

// busy returns how long this process has kept processors busy.
func busy(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peak returns the greatest resident memory of this process since that was
// forgotten, in bytes (proc_pid_status(5), VmHWM).
func peak(b *testing.B) int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if kib, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			n, err := strconv.ParseInt(string(bytes.Fields(kib)[0]), 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n << 10
		}
	}
	b.Fatal("no VmHWM")
	return 0
}
