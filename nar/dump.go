package nar

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"ersatz/internal/wire"
)

// Dump writes the archive of the file, link or directory path to w, in pieces
// of up to 256 KiB, and returns its hash and size. A path that is a link is
// archived as one. Of the permissions only the owner's right to execute counts,
// for regular files alone.
//
// Sockets, FIFOs, devices and nesting beyond MaxDepth are errors, as is a file
// that changes its size meanwhile; each names the file. Every file is opened
// relative to the directory that lists it, without following links, so a tree
// that changes does not lead elsewhere.
func Dump(w io.Writer, path string) (Info, error) {
	path = filepath.Clean(path)
	d := dumper{w: w, hasher: NewHasher(), buf: buffers.Get().(*[bufSize]byte), path: []byte(path)}
	defer buffers.Put(d.buf)
	d.strings(magic)
	err := d.node(unix.AT_FDCWD, path)
	if err == nil {
		err = d.flush()
	}
	if err != nil {
		return Info{}, fmt.Errorf("nar: dump: %w", err)
	}
	return d.hasher.Info(), nil
}

// dumper fills a buffer, and hashes and writes it when it is full.
type dumper struct {
	w      io.Writer
	hasher *Hasher
	buf    *[bufSize]byte
	n      int    // bytes in buf
	path   []byte // of the current entry, for errors
	depth  int
}

// room is more than is appended between two calls of reserve, in bytes: at most
// a link's target and the tags around it.
const room = 8 << 10

// reserve makes room for n bytes.
func (d *dumper) reserve(n int) error {
	if len(d.buf)-d.n >= n {
		return nil
	}
	return d.flush()
}

func (d *dumper) flush() error {
	b := d.buf[:d.n]
	d.n = 0
	d.hasher.Write(b)
	if _, err := d.w.Write(b); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// fail names the current entry.
func (d *dumper) fail(op string, err error) error {
	return &os.PathError{Op: op, Path: string(d.path), Err: err}
}

// strings appends strings, for which reserve has made room.
func (d *dumper) strings(list ...string) {
	d.n = len(appendStrings(d.buf[:d.n], list...))
}

func appendStrings(b []byte, list ...string) []byte {
	for _, s := range list {
		b = wire.AppendString(b, s)
	}
	return b
}

// node writes the node of the current entry, name in the folder dirfd.
func (d *dumper) node(dirfd int, name string) error {
	if err := d.reserve(room); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := retry(func() error {
		return unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	}); err != nil {
		return d.fail("stat", err)
	}
	d.strings("(", "type")
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		d.strings("regular")
		if st.Mode&0o100 != 0 {
			d.strings("executable", "")
		}
		d.strings("contents")
		if err := d.file(dirfd, name, st.Size); err != nil {
			return err
		}
	case unix.S_IFLNK:
		target, err := readlinkat(dirfd, name)
		if err != nil {
			return d.fail("readlink", err)
		}
		d.strings("symlink", "target", target)
	case unix.S_IFDIR:
		d.strings("directory")
		if err := d.directory(dirfd, name); err != nil {
			return err
		}
	default:
		return d.fail("archive", errors.New("not a file, directory or link"))
	}
	d.strings(")")
	return nil
}

// errChanged means that a file had not the size that it was said to have.
var errChanged = errors.New("size changed while it was read")

// file writes the content of a file of size bytes. It was looked at before it
// is opened: one that has taken its place meanwhile is read as far as it has
// that size too. Each read asks for a byte more than there should be, so that
// no other call is needed to see that there are no more.
func (d *dumper) file(dirfd int, name string, size int64) error {
	fd, err := openat(dirfd, name, unix.O_RDONLY, 0)
	if err != nil {
		return d.fail("open", err)
	}
	defer unix.Close(fd)
	d.n = len(wire.AppendUint64(d.buf[:d.n], uint64(size)))
	for left := size; ; {
		if err := d.reserve(int(min(left+1, bufSize/4))); err != nil {
			return err
		}
		b := d.buf[d.n:min(int64(len(d.buf)), int64(d.n)+left+1)]
		n := 0
		if err := retry(func() (err error) { n, err = unix.Read(fd, b); return err }); err != nil {
			return d.fail("read", err)
		}
		if int64(n) > left || n == 0 && left > 0 {
			return d.fail("read", errChanged)
		}
		d.n += n
		left -= int64(n)
		if left == 0 && n < len(b) {
			break // a regular file's short read is its end
		}
	}
	if err := d.reserve(room); err != nil {
		return err
	}
	pad := wire.Padding(uint64(size))
	clear(d.buf[d.n : d.n+pad])
	d.n += pad
	return nil
}

func (d *dumper) directory(dirfd int, name string) error {
	if d.depth == MaxDepth {
		return d.fail("archive", fmt.Errorf("nested deeper than %d directories", MaxDepth))
	}
	fd, err := openDir(dirfd, name)
	if err != nil {
		return d.fail("open", err)
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return d.fail("list", err)
	}
	slices.Sort(names)
	d.depth++
	own := len(d.path)
	for _, n := range names {
		if err := d.reserve(room); err != nil {
			return err
		}
		d.path = append(append(d.path, '/'), n...)
		d.strings("entry", "(", "name", n, "node")
		if err := d.node(fd, n); err != nil {
			return err
		}
		d.strings(")")
		d.path = d.path[:own]
	}
	d.depth--
	return d.reserve(room) // the ends of many directories follow each other
}

func readlinkat(dirfd int, name string) (string, error) {
	var buf [MaxTarget + 1]byte
	n := 0
	err := retry(func() (err error) { n, err = unix.Readlinkat(dirfd, name, buf[:]); return err })
	if err == nil && n > MaxTarget {
		err = unix.ENAMETOOLONG
	}
	return string(buf[:max(n, 0)]), err
}
