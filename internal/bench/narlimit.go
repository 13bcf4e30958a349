package bench

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// bareBuffer is the size of the buffer between system calls, in bytes.
const bareBuffer = 256 << 10

// bareRead makes the system calls of a dump: each directory is listed, each
// file opened, looked at, read and closed, each link read.
func bareRead(path string) error {
	return bareNode(unix.AT_FDCWD, path, make([]byte, bareBuffer))
}

func bareNode(dirfd int, name string, buf []byte) error {
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		_, err := unix.Readlinkat(dirfd, name, buf)
		return err
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return bareFolder(fd, name, buf)
	}
	for left := st.Size; left > 0 && err == nil; {
		var n int
		n, err = unix.Read(fd, buf)
		left -= int64(max(n, 1))
	}
	return errors.Join(err, unix.Close(fd))
}

func bareFolder(fd int, name string, buf []byte) (err error) {
	dir := os.NewFile(uintptr(fd), name)
	defer func() { err = errors.Join(err, dir.Close()) }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := bareNode(fd, n, buf); err != nil {
			return err
		}
	}
	return nil
}

// bareFile is an entry of a tree that is to be made, by its path under the
// root.
type bareFile struct {
	path    string
	typ     fs.FileMode
	target  string
	content []byte
	perm    uint32
}

// bareList returns what a tree consists of, directories before what is in
// them.
func bareList(path string) (all []bareFile, err error) {
	return all, filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f := bareFile{path: p[len(path):], typ: d.Type(), perm: 0o444}
		switch f.typ {
		case fs.ModeSymlink:
			f.target, err = os.Readlink(p)
		case 0:
			var fi fs.FileInfo
			if fi, err = d.Info(); err != nil {
				return err
			}
			f.perm |= uint32(fi.Mode()) & 0o111
			f.content, err = os.ReadFile(p)
		}
		all = append(all, f)
		return err
	})
}

// bareWrite makes the system calls of a restore: each file is made, written,
// given its permissions and time, and closed.
func bareWrite(dst string, files []bareFile) error {
	t := []unix.Timespec{{Sec: 1}, {Sec: 1}}
	dirfd, folder := -1, ""
	var folders []string
	for _, f := range files {
		path := dst + f.path
		if f.typ == fs.ModeDir {
			if err := unix.Mkdir(path, 0o700); err != nil {
				return err
			}
			folders = append(folders, path)
			continue
		}
		if d := filepath.Dir(path); d != folder {
			unix.Close(dirfd)
			fd, err := unix.Open(d, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			dirfd, folder = fd, d
		}
		if err := bareEntry(dirfd, filepath.Base(path), f, t); err != nil {
			return err
		}
	}
	unix.Close(dirfd)
	for i := len(folders) - 1; i >= 0; i-- {
		if err := errors.Join(unix.Chmod(folders[i], 0o555), unix.UtimesNanoAt(unix.AT_FDCWD, folders[i], t, 0)); err != nil {
			return err
		}
	}
	return nil
}

func bareEntry(dirfd int, name string, f bareFile, t []unix.Timespec) error {
	if f.typ == fs.ModeSymlink {
		return errors.Join(unix.Symlinkat(f.target, dirfd, name), unix.UtimesNanoAt(dirfd, name, t, unix.AT_SYMLINK_NOFOLLOW))
	}
	fd, err := unix.Openat(dirfd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, f.perm)
	if err != nil {
		return err
	}
	for b := f.content; len(b) > 0 && err == nil; {
		var n int
		n, err = unix.Write(fd, b[:min(len(b), bareBuffer)])
		b = b[max(n, 0):]
	}
	return errors.Join(err, unix.Fchmod(fd, f.perm), unix.Close(fd), unix.UtimesNanoAt(dirfd, name, t, unix.AT_SYMLINK_NOFOLLOW))
}
