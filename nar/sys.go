package nar

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// openat opens the entry name, one path component, of the folder dirfd. It
// follows no link and does not wait for a FIFO's other end.
func openat(dirfd int, name string, flags int, perm uint32) (fd int, err error) {
	flags |= unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	err = retry(func() error {
		fd, err = unix.Openat(dirfd, name, flags, perm)
		return err
	})
	return fd, err
}

// retry repeats a system call that a signal has interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// writeAll writes all of p to the file fd.
func writeAll(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		p = p[max(n, 0):]
	}
	return nil
}

// folder is an open directory: its handle as a root, for what is not worth a
// system call more or less, and as a descriptor for single components under
// it.
type folder struct {
	root *os.Root
	dot  *os.File
	fd   int    // dot's
	name string // in its parent
}

// openFolder takes over root, or closes it if it returns an error.
func openFolder(root *os.Root, name string) (*folder, error) {
	dot, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &folder{root: root, dot: dot, fd: int(dot.Fd()), name: name}, nil
}

func (f *folder) close() error { return errors.Join(f.dot.Close(), f.root.Close()) }
