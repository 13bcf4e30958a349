package nar

import (
	"errors"
	"unsafe"

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

// futimens sets both times of the open file fd to t (utimensat(2): with no
// path). Package unix knows it by path only.
func futimens(fd int, t *[2]unix.Timespec) error {
	return retry(func() error {
		_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(t)), 0, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	})
}
