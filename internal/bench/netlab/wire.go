package netlab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tunDevice = "/dev/net/tun"
	// maxFrame is an Ethernet frame with a VLAN tag and 1500 bytes.
	maxFrame = 1518
	// maxFlying bounds the frames on a wire in one direction: 80 ms at
	// 500 Mbit/s. More are lost.
	maxFlying = 4096
)

// newTap makes an interface in the namespace whose frames are read and written
// through the file. It ends with the file.
func (n *namespace) newTap(name string) (f *os.File, err error) {
	err = n.do(func() error {
		fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err == nil {
			req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		f = os.NewFile(uintptr(fd), name) // not before: it would be polled
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	return f, nil
}

// frame is on its way until due.
type frame struct {
	due  time.Time
	data []byte
}

// carry takes frames from one end of a wire to the other, each delay after it
// was read, until reading fails: the end was closed. Frames that cannot be
// written are lost.
func carry(from io.Reader, to io.Writer, delay time.Duration) {
	flying := make(chan frame, maxFlying)
	landed := make(chan struct{})
	end := make(chan struct{})
	go func() {
		defer close(landed)
		land(flying, to, end)
	}()
	buf := make([]byte, maxFrame)
	for {
		n, err := from.Read(buf)
		if err != nil {
			break
		}
		select {
		case flying <- frame{time.Now().Add(delay), append([]byte(nil), buf[:n]...)}:
		default:
		}
	}
	close(end)
	<-landed
}

// land writes frames when they are due, until the end.
func land(flying <-chan frame, to io.Writer, end <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case f := <-flying:
			timer.Reset(time.Until(f.due))
			select {
			case <-timer.C:
			case <-end:
				return
			}
			_, _ = to.Write(f.data) // an interface that is down
		case <-end:
			return
		}
	}
}
