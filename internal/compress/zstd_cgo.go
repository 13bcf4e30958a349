//go:build cgo && linux

package compress

// #include "zstd_cgo.h"
import "C"

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"unsafe"

	_ "github.com/DataDog/zstd" // libzstd itself
)

// Native reports whether zstd is compressed by libzstd, whose ratio at level
// 19 the Go encoder does not reach.
const Native = true

const (
	// zstdIn is how many bytes are gathered before the first is compressed, and
	// between turns: the frame depends on what comes together with its end.
	zstdIn = 256 << 10

	// zstdCall is how many bytes a call of C is given at most that does not end the
	// frame: one keeps a processor from goroutines until the runtime sees it.
	zstdCall = 64 << 10
)

// zstdBound returns how many bytes n have at most, whatever they are
// (ZSTD_compressBound).
func zstdBound(n int) int { return n + n>>8 + 64 }

type zstdWriter struct {
	w          io.Writer
	zstdMemory             // none after Close
	spare      *Spare      // gets the memory at the end, or nil
	stop       atomic.Bool // Interrupt was called
	err        error       // the first

	used, got C.size_t // bytes taken of what is compressed, and in out
}

// zstdMemory is what a stream has of memory.
type zstdMemory struct {
	ctx unsafe.Pointer
	in  []byte // what was gathered, in the order of Write
	out []byte // for what comes out
}

func (m *zstdMemory) free() {
	C.ersatz_zstd_free(m.ctx)
	*m = zstdMemory{}
}

// spareSize is the most that is written to a stream that leaves its memory to the
// next one, in bytes: at level 19 that is some 5 MiB then.
const spareSize = 256 << 10

// Spare is the memory of a small stream of zstd that has ended, for the next one: to
// allocate and clear it costs as much as to compress a few KB. The frame is the same.
// The zero Spare has none. It is not safe for concurrent use, and neither are two
// writers of one Spare. Free it.
type Spare struct{ zstd zstdMemory }

// Free gives the memory back.
func (s *Spare) Free() {
	if s.zstd.ctx != nil {
		s.zstd.free()
	}
}

func newZstdWriter(w io.Writer, level int, o Options) (io.WriteCloser, error) {
	workers := 0 // not 1: libzstd then works in jobs, which is another frame
	if n := zstdThreads(level, o.Size); n > 1 {
		workers = max(1, min(o.Threads, n))
	}
	z := &zstdWriter{w: w}
	if o.Size > 0 && o.Size <= spareSize && o.Spare != nil {
		z.spare = o.Spare
		z.zstdMemory, o.Spare.zstd = o.Spare.zstd, zstdMemory{}
	}
	if z.ctx == nil {
		z.ctx = C.ersatz_zstd_new()
	}
	if z.ctx == nil || !bool(C.ersatz_zstd_begin(z.ctx, C.int(level), C.ulonglong(max(0, o.Size)), C.int(workers))) {
		z.free()
		return nil, errors.New("zstd: no memory")
	}
	return z, nil
}

// zstdThreads is Method.Threads.
func zstdThreads(level int, size int64) int {
	if size <= 0 {
		return 1
	}
	return int(max(1, size/int64(C.ersatz_zstd_job(C.int(level), C.ulonglong(size)))))
}

func (z *zstdWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0 && z.err == nil; {
		n := min(zstdIn-len(z.in), len(rest))
		z.in = append(z.in, rest[:n]...)
		rest = rest[n:]
		if len(z.in) == zstdIn {
			for i := 0; i < zstdIn; i += zstdCall {
				z.turn(z.in[i:i+zstdCall], false)
			}
			z.in = z.in[:0]
		}
	}
	if z.err != nil {
		return 0, z.err
	}
	return len(p), nil
}

// Close ends the frame and gives up the memory. If there was an error, it waits for
// what libzstd's threads are at.
func (z *zstdWriter) Close() error {
	if z.ctx == nil {
		return z.err
	}
	z.turn(z.in, true)
	if z.spare != nil && z.spare.zstd.ctx == nil {
		z.in, z.out = z.in[:0], z.out[:0]
		z.spare.zstd, z.zstdMemory = z.zstdMemory, zstdMemory{}
	} else {
		z.free()
	}
	return z.err
}

// interrupt is Interrupt.
func (z *zstdWriter) interrupt() { z.stop.Store(true) }

// turn compresses p and writes what comes out.
func (z *zstdWriter) turn(p []byte, end bool) {
	// The end of a frame depends on the room for it, which is what a stream without
	// Spare has.
	if size := zstdBound(len(p)); cap(z.out) < size {
		z.out = make([]byte, size)
	} else if len(z.out) < size {
		z.out = z.out[:size]
	}
	z.used = 0
	for z.err == nil {
		if z.stop.Load() {
			z.fail(ErrInterrupted)
			return
		}
		z.got = 0
		left := C.ersatz_zstd_turn(z.ctx, unsafe.Pointer(unsafe.SliceData(z.out)), C.size_t(len(z.out)), &z.got,
			unsafe.Pointer(unsafe.SliceData(p)), C.size_t(len(p)), &z.used, C.bool(end))
		if fault := C.ersatz_zstd_fault(left); fault != nil {
			z.fail(errors.New(C.GoString(fault)))
			return
		}
		if z.got > 0 {
			if _, err := z.w.Write(z.out[:z.got]); err != nil {
				z.err = err
				return
			}
		}
		if int(z.used) == len(p) && (!end || left == 0) {
			return
		}
	}
}

func (z *zstdWriter) fail(err error) { z.err = fmt.Errorf("zstd: %w", err) }
