//go:build linux

package eventfd

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEvent(t *testing.T) {
	e, fd, err := New()
	if err != nil {
		t.Fatal(err)
	}
	var buf [8]byte
	one := binary.NativeEndian.AppendUint64(nil, 1)
	for range 3 {
		ended := make(chan error)
		go func() { ended <- e.Wait(buf[:]) }()
		if _, err := unix.Write(fd, one); err != nil { // the other side
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	e.Signal()
	e.Signal()
	if err := e.Wait(buf[:]); err != nil || binary.NativeEndian.Uint64(buf[:]) != 2 {
		t.Errorf("%d signals, %v", binary.NativeEndian.Uint64(buf[:]), err)
	}
	if n := testing.AllocsPerRun(100, func() { e.Signal(); err = e.Wait(buf[:]) }); n != 0 || err != nil {
		t.Errorf("%v allocations, %v", n, err)
	}
	ended := make(chan error)
	go func() { ended <- e.Wait(buf[:]) }()
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed while somebody waits: %v", err)
	}
	e.Signal()
	if _, err := unix.Write(fd, one); err != nil { // the other side has it still
		t.Error(err)
	}
	if err := unix.Close(fd); err != nil {
		t.Error(err)
	}
}
