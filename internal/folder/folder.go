// Package folder is what the folders that ersatz keeps nars in have in common,
// that of publish and that of a node: one process at a time has them, access
// times say when an entry was last asked for, and checks report faults.
package folder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Fault is something that is wrong in a folder.
type Fault struct {
	File     string `json:"file"` // relative to the folder
	Text     string `json:"fault"`
	Repaired bool   `json:"repaired"`
}

// ErrLocked means that another process has the folder.
var ErrLocked = errors.New("another process uses the folder")

// Lock takes the lock that the file name stands for until the file is closed,
// be it by the end of the process. The error matches ErrLocked if another one
// has it.
func Lock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return f, nil
}

// YoungFor is how long a file that belongs to nothing may still be in the
// making by a process that runs.
const YoungFor = time.Hour

// Settled returns the time before which files that belong to nothing have been
// left by somebody: now if no process has the lock, else an hour earlier.
func Settled(lock string, now time.Time) (time.Time, error) {
	f, err := os.Open(lock)
	if errors.Is(err, fs.ErrNotExist) {
		return now, nil
	}
	if err != nil {
		return now, err
	}
	defer f.Close() // gives the lock back
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return now.Add(-YoungFor), nil
	}
	return now, err
}

// MaxErrors bounds the errors that are kept where work goes on after one.
const MaxErrors = 16

// List calls visit with the name of each file in a folder, a few names in
// memory. It goes on after an error and returns the first few. A folder that
// does not exist is empty.
func List(dir string, visit func(name string) error) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	var errs []error
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			if err := visit(name); err != nil && len(errs) < MaxErrors {
				errs = append(errs, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return errors.Join(errs...)
		}
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
}

// Exists reports whether there is something of that name, or whether that
// cannot be told.
func Exists(name string) bool {
	_, err := os.Lstat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// readSize is what Read begins with, in bytes: most records have less.
const readSize = 4 << 10

// Read reads a file of at most max bytes without changing its access time, if
// it may (its owner and root may): that is when somebody last asked for it.
func Read(name string, max int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOATIME, 0)
	if errors.Is(err, fs.ErrPermission) {
		f, err = os.Open(name)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text := make([]byte, 0, readSize)
	for int64(len(text)) <= max {
		if len(text) == cap(text) {
			text = slices.Grow(text, len(text))
		}
		n, err := f.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		if errors.Is(err, io.EOF) {
			return text, nil
		}
		if err != nil {
			return text, err
		}
	}
	return text, fmt.Errorf("%s: larger than %d bytes", name, max)
}

// AccessTime returns a file's access time.
func AccessTime(name string) (time.Time, error) {
	_, accessed, err := Times(name)
	return accessed, err
}

// Times returns when a file was last written, and its access time.
func Times(name string) (written, accessed time.Time, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return written, accessed, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	return time.Unix(st.Mtim.Unix()), time.Unix(st.Atim.Unix()), nil
}

// SetAccessTime sets a file's access time and nothing else.
func SetAccessTime(name string, t time.Time) error {
	atime, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	times := []unix.Timespec{atime, {Nsec: unix.UTIME_OMIT}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: name, Err: err}
	}
	return nil
}

// Changed returns when a file got its content, name or mode.
func Changed(name string) (last time.Time, regular bool) {
	var st unix.Stat_t
	if unix.Lstat(name, &st) != nil {
		return last, false
	}
	return time.Unix(st.Ctim.Unix()), st.Mode&unix.S_IFMT == unix.S_IFREG
}

// Allocated returns the bytes that a file takes on disk; 0 for one that is not
// there. A sparse file takes less than its length.
func Allocated(name string) int64 {
	var st unix.Stat_t
	if unix.Lstat(name, &st) != nil {
		return 0
	}
	return st.Blocks * 512
}
