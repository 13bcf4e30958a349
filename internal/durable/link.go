package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// Link makes newpath a hard link to the file oldpath, whose content it syncs
// first, and syncs the folder. Where the file system cannot link the two
// (another device, no links left or none at all, no permission to link) it
// copies content and permissions instead. A newpath that exists is an error
// that matches fs.ErrExist, and stays as it is.
func Link(oldpath, newpath string) error {
	if err := syncFile(oldpath); err != nil {
		return err
	}
	err := link(oldpath, newpath)
	if cannotLink(err) {
		return copyFile(oldpath, newpath)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(newpath))
}

func link(oldpath, newpath string) error {
	if err := injected("link", newpath); err != nil {
		return err
	}
	return os.Link(oldpath, newpath)
}

func cannotLink(err error) bool {
	return slices.ContainsFunc([]error{syscall.EXDEV, syscall.EPERM, syscall.EMLINK, errors.ErrUnsupported},
		func(e error) bool { return errors.Is(err, e) })
}

// copyFile writes a copy of oldpath to newpath, which must not exist: where
// hard links work, the copy gets its name by a link, which replaces nothing.
func copyFile(oldpath, newpath string) error {
	src, err := os.Open(oldpath)
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	f, err := Create(newpath, fi.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, src); err != nil {
		return errors.Join(err, f.Abort())
	}
	if err := f.settle(); err != nil {
		return errors.Join(err, f.Abort())
	}
	err = link(f.TempName(), newpath)
	if cannotLink(err) {
		if _, err = os.Lstat(newpath); err != nil {
			return f.publish()
		}
		err = &os.LinkError{Op: "link", Old: oldpath, New: newpath, Err: syscall.EEXIST}
	}
	if err != nil {
		return errors.Join(err, f.Abort())
	}
	return errors.Join(f.Abort(), syncDir(filepath.Dir(newpath)))
}

// syncFile makes a file's content durable: a name that outlives a power
// failure is worth nothing if its content does not.
func syncFile(path string) error {
	if err := injected("sync", path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
