//go:build linux

// Package eventfd lets goroutines wait for threads that are none of Go's, by
// eventfd(2) and the runtime's poller: no thread and no processor is held
// meanwhile.
package eventfd

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// Event is a counter in the kernel. Its methods may be called by any goroutine
// at any time.
type Event struct {
	f    *os.File
	word [8]byte // 1
}

// New makes an event for goroutines to wait for, and returns a descriptor of it
// for the other side, which adds to it by write(2), and closes it.
func New() (e *Event, fd int, err error) {
	own, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, -1, os.NewSyscallError("eventfd", err)
	}
	f := os.NewFile(uintptr(own), "eventfd")
	fd, err = unix.FcntlInt(uintptr(own), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		f.Close()
		return nil, -1, os.NewSyscallError("fcntl", err)
	}
	e = &Event{f: f}
	binary.NativeEndian.PutUint64(e.word[:], 1)
	return e, fd, nil
}

// Wait waits until somebody has signalled since the last Wait. buf has room for
// 8 bytes; it is overwritten.
func (e *Event) Wait(buf []byte) error {
	_, err := e.f.Read(buf[:8])
	return err
}

// Signal ends a Wait, this or the next. After Close it does nothing.
func (e *Event) Signal() {
	_, _ = e.f.Write(e.word[:]) // it fails if it is closed, or was signalled 2⁶⁴ times
}

// Close closes the goroutines' side.
func (e *Event) Close() error { return e.f.Close() }
