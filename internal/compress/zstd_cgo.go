//go:build cgo && linux

package compress

// #include "zstd_thread.h"
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"unsafe"

	_ "github.com/DataDog/zstd" // libzstd itself
	"golang.org/x/sys/unix"

	"ersatz/internal/eventfd"
)

// Native reports whether zstd is compressed by libzstd, whose ratio at level
// 19 the Go encoder does not reach.
const Native = true

// How many bytes the thread is given and gives at most in one turn. What is
// given has room when it comes out, whatever it is (ZSTD_compressBound).
const (
	zstdIn  = 256 << 10
	zstdOut = zstdIn + zstdIn>>8 + 64
)

// zstdWriter compresses in a thread of its own, which is none of Go's. A call
// of C that takes long would keep a processor from goroutines until the runtime
// sees it; and the priority of a thread that runs goroutines cannot be lowered,
// since it may hold what all others wait for. While the thread has its turn, the
// writer takes the next piece and hands on the last.
type zstdWriter struct {
	w    io.Writer
	c    *C.ersatz_zstd // nil after Close
	in   []byte         // what a turn compresses
	n    int            // bytes in in, for the next turn
	out  []byte         // what the last turn has given, to be written
	todo int            // eventfd: its turn begins
	done *eventfd.Event // its turn is over
	word [8]byte        // what is written to and read from an eventfd
	busy bool           // it has its turn
	stop atomic.Bool    // Interrupt was called
	err  error          // the first
}

func newZstdWriter(w io.Writer, level int, o Options) (io.WriteCloser, error) {
	workers := 0 // not 1: libzstd then works in jobs, which is another frame
	if n := zstdThreads(level, o.Size); n > 1 {
		workers = max(1, min(o.Threads, n))
	}
	z, err := startZstd(level, max(0, o.Size), workers, o.Background)
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	z.w = w
	return z, nil
}

// zstdThreads is Method.Threads.
func zstdThreads(level int, size int64) int {
	if size <= 0 {
		return 1
	}
	return int(max(1, size/int64(C.ersatz_zstd_job(C.int(level), C.ulonglong(size)))))
}

// startZstd makes a writer without its w.
func startZstd(level int, size int64, workers int, background bool) (*zstdWriter, error) {
	todo, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	done, fd, err := eventfd.New()
	if err != nil {
		return nil, errors.Join(err, unix.Close(todo))
	}
	lower := C.int(0)
	if background {
		lower = 1
	}
	c := C.ersatz_zstd_new(C.int(todo), C.int(fd), C.int(level), C.ulonglong(size), C.int(workers), lower, zstdIn, zstdOut)
	if c == nil {
		return nil, errors.Join(errors.New("no memory or no thread"), unix.Close(todo), unix.Close(fd), done.Close())
	}
	return &zstdWriter{
		c: c, in: unsafe.Slice((*byte)(unsafe.Pointer(c.in)), zstdIn),
		todo: todo, done: done,
	}, nil
}

// Write takes p. It is compressed, and what comes out written, later, but for
// what is in the way of p.
func (z *zstdWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if z.wait(); z.err != nil {
			break // the thread may have its turn, and in, still
		}
		k := copy(z.in[z.n:], p)
		p = p[k:]
		if z.n += k; z.n == zstdIn {
			z.begin(false)
		}
	}
	if z.err != nil {
		return 0, z.err
	}
	return n, nil
}

// Close ends the frame and frees the thread. If there was an error, the thread
// may go on for a while.
func (z *zstdWriter) Close() error {
	if z.c == nil {
		return z.err
	}
	z.wait()
	z.begin(true)
	z.wait()
	z.hand()
	err := errors.Join(z.signal(C.ERSATZ_ZSTD_QUIT), z.done.Close()) // since the first, all but done is the thread's
	z.c, z.in, z.out = nil, nil, nil
	if z.err == nil {
		z.err = err
	}
	return z.err
}

// interrupt is Interrupt.
func (z *zstdWriter) interrupt() {
	z.stop.Store(true)
	z.done.Signal()
}

// begin gives the thread its turn, which it does not have, with what was
// taken, and hands on what the last one gave meanwhile.
func (z *zstdWriter) begin(end bool) {
	if z.err != nil {
		return
	}
	z.c.in_size, z.c.in_pos = C.size_t(z.n), 0
	if z.n = 0; end {
		z.c.end = 1
	}
	z.turn()
}

func (z *zstdWriter) turn() {
	z.c.which ^= 1
	z.busy = true
	if err := z.signal(C.ERSATZ_ZSTD_TURN); err != nil {
		z.fail(err)
	}
	z.hand()
}

// wait waits until the thread has done its turn, which may take several, if it
// has one.
func (z *zstdWriter) wait() {
	for z.busy && z.err == nil {
		err := z.done.Wait(z.word[:])
		if err == nil && z.stop.Load() {
			err = ErrInterrupted
		}
		if err != nil {
			z.fail(err)
			return
		}
		z.busy = false
		if z.c.fault != nil {
			z.fail(errors.New(C.GoString(z.c.fault)))
			return
		}
		out := unsafe.Slice((*byte)(unsafe.Pointer(z.c.out[z.c.which])), zstdOut)
		z.out = out[:z.c.out_size]
		if z.c.in_pos < z.c.in_size || z.c.end != 0 && z.c.left > 0 {
			z.turn()
		}
	}
}

// hand writes what the last turn has given.
func (z *zstdWriter) hand() {
	if z.err != nil || len(z.out) == 0 {
		return
	}
	_, z.err = z.w.Write(z.out)
	z.out = nil
}

func (z *zstdWriter) signal(what uint64) error {
	binary.NativeEndian.PutUint64(z.word[:], what)
	_, err := unix.Write(z.todo, z.word[:])
	return err
}

func (z *zstdWriter) fail(err error) {
	z.err = fmt.Errorf("zstd: %w", err)
}
