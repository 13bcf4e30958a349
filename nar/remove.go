package nar

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// RemoveAll removes the file or tree name, a single component, of parent.
// Directories that may not be written or read, as those of store items, are
// made writable first, so that an ordinary user can remove what is his. It
// follows no links. A name that does not exist is no error. It removes all
// that it can and returns the first error.
func RemoveAll(parent *os.Root, name string) error {
	if err := validName(name); err != nil {
		return fmt.Errorf("nar: remove: %w", err)
	}
	dot, err := parent.Open(".")
	if err == nil {
		defer dot.Close()
		err = removeAt(int(dot.Fd()), name)
	}
	if err != nil {
		return fmt.Errorf("nar: remove %s: %w", name, err)
	}
	return nil
}

func removeAt(dirfd int, name string) error {
	err := unlinkat(dirfd, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	// Linux says EISDIR for a directory, POSIX EPERM.
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	if err := empty(dirfd, name); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	if err := unlinkat(dirfd, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// empty removes what is in a directory.
func empty(dirfd int, name string) error {
	fd, err := openDir(dirfd, name)
	if errors.Is(err, unix.EACCES) {
		// Its owner may not read it. Without fchmodat2 (Linux 6.6) this
		// fails; no store item has such directories.
		if err = unix.Fchmodat(dirfd, name, 0o700, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			fd, err = openDir(dirfd, name)
		}
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Mode&0o700 != 0o700 {
		// Where this fails, so does removing, with the error that counts.
		_ = unix.Fchmod(fd, 0o700)
	}
	var first error
	for {
		names, err := d.Readdirnames(1024)
		for _, n := range names {
			if err := removeAt(fd, n); err != nil && first == nil {
				first = err
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && first == nil {
				first = err
			}
			return first
		}
	}
}

func openDir(dirfd int, name string) (int, error) {
	return openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

func unlinkat(dirfd int, name string, flags int) error {
	return retry(func() error { return unix.Unlinkat(dirfd, name, flags) })
}
