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
	if err != nil {
		return fmt.Errorf("nar: remove %s: %w", name, err)
	}
	defer dot.Close()
	rm := remover{path: []byte(name)}
	rm.remove(int(dot.Fd()), name)
	if rm.first != nil {
		return fmt.Errorf("nar: %w", rm.first)
	}
	return nil
}

// remover removes trees and keeps the first error.
type remover struct {
	path  []byte // of the current entry
	first error
}

// failed notes an error, if it is one: what is gone needs no removing.
func (rm *remover) failed(op string, err error) bool {
	if err == nil {
		return false
	}
	if rm.first == nil && !errors.Is(err, unix.ENOENT) {
		rm.first = &os.PathError{Op: op, Path: string(rm.path), Err: err}
	}
	return true
}

// remove removes the current entry, name in the folder dirfd.
func (rm *remover) remove(dirfd int, name string) {
	err := unlinkat(dirfd, name, 0)
	// Linux says EISDIR for a directory, POSIX EPERM.
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		if !rm.empty(dirfd, name) {
			return
		}
		err = unlinkat(dirfd, name, unix.AT_REMOVEDIR)
	}
	rm.failed("remove", err)
}

// empty removes what is in the current entry, a directory, and reports whether
// it could read all of it.
func (rm *remover) empty(dirfd int, name string) bool {
	fd, err := openDir(dirfd, name)
	if errors.Is(err, unix.EACCES) {
		// Its owner may not read it. Without fchmodat2 (Linux 6.6) this
		// fails; no store item has such directories.
		if err = unix.Fchmodat(dirfd, name, 0o700, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			fd, err = openDir(dirfd, name)
		}
	}
	if errors.Is(err, unix.ENOTDIR) {
		err = unix.EPERM // what unlinkat has said of a file, then
	}
	if rm.failed("open", err) {
		return false
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Mode&0o700 != 0o700 {
		// Where this fails, so does removing, with the error that counts.
		_ = unix.Fchmod(fd, 0o700)
	}
	own := len(rm.path)
	for {
		names, err := d.Readdirnames(1024)
		for _, n := range names {
			rm.path = append(append(rm.path, '/'), n...)
			rm.remove(fd, n)
			rm.path = rm.path[:own]
		}
		if err != nil {
			return errors.Is(err, io.EOF) || !rm.failed("list", err)
		}
	}
}

func openDir(dirfd int, name string) (int, error) {
	return openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

func unlinkat(dirfd int, name string, flags int) error {
	return retry(func() error { return unix.Unlinkat(dirfd, name, flags) })
}
