package nar

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"ersatz/internal/wire"
)

// Dump writes the archive of the file, link or directory path to w, in pieces
// of up to 256 KiB, and returns its hash and size. A path that is a link is
// archived as one. Of the permissions only the owner's right to execute counts,
// for regular files alone.
//
// The tree is read up to 2 MiB ahead of what w has taken, by another
// goroutine, and hashed by a third; w is used by the caller's alone, and the
// others have ended when Dump returns.
//
// Sockets, FIFOs, devices and nesting beyond MaxDepth are errors, as is a file
// that changes its kind or size meanwhile; each names the file. Every file is
// opened relative to the directory that lists it, without following links, so a
// tree that changes does not lead elsewhere.
func Dump(w io.Writer, path string) (Info, error) {
	return dump(w, path, runtime.GOMAXPROCS(0) == 1)
}

// DumpAlone is Dump by the caller's goroutine alone: for small trees, which others
// would not make faster, or where each processor has a tree of its own.
func DumpAlone(w io.Writer, path string) (Info, error) { return dump(w, path, true) }

func dump(w io.Writer, path string, alone bool) (Info, error) {
	path = filepath.Clean(path)
	ring := newRing()
	defer ring.release()
	p := pump{w: w, ring: ring, hash: hashing{Hasher: NewHasher(), ring: ring, alone: alone}}
	defer p.hash.finish()
	var err error
	if alone {
		err = walk(path, ring, func(c *chunk, n int) error {
			p.hash.add(c, 0, n)
			return p.write(c, n)
		})
	} else {
		err = p.walkAhead(path)
	}
	if err != nil {
		return Info{}, fmt.Errorf("nar: dump: %w", err)
	}
	p.hash.finish()
	return p.hash.Info(), nil
}

// pump hashes and writes the chunks of an archive.
type pump struct {
	w    io.Writer
	ring *ring
	hash hashing
}

// write writes the first n bytes of c and ends its use.
func (p *pump) write(c *chunk, n int) error {
	defer p.ring.put(c)
	if _, err := p.w.Write(c.buf[:n]); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// walkAhead writes the archive of path, while another goroutine walks.
func (p *pump) walkAhead(path string) error {
	full := make(chan piece, ringSize) // room for all
	var walkErr error
	go func() {
		defer close(full)
		walkErr = walk(path, p.ring, func(c *chunk, n int) error {
			p.hash.add(c, 0, n)
			full <- piece{c: c, hi: n}
			return nil
		})
	}()
	defer func() { // if w fails, or panics
		p.ring.stop()
		for f := range full {
			p.ring.put(f.c)
		}
	}()
	for f := range full {
		if err := p.write(f.c, f.hi); err != nil {
			return err
		}
	}
	return walkErr
}

// dumper walks through a tree and fills chunks.
type dumper struct {
	ring *ring
	emit func(c *chunk, n int) error // takes over c
	cur  *chunk
	n    int    // bytes in cur
	path []byte // of the current entry, for errors

	lister
	depth int
	link  [MaxTarget + 1]byte
}

// errStopped ends work that nobody waits for.
var errStopped = errors.New("stopped")

// walk gives the archive of path to emit, in chunks of ring.
func walk(path string, ring *ring, emit func(*chunk, int) error) error {
	d := dumper{ring: ring, emit: emit, cur: ring.get(), path: []byte(path)}
	if d.cur == nil {
		return errStopped
	}
	defer func() {
		if d.cur != nil {
			ring.put(d.cur)
		}
	}()
	d.strings(magic)
	if err := d.node(unix.AT_FDCWD, path, unix.DT_UNKNOWN); err != nil {
		return err
	}
	c := d.cur
	d.cur = nil
	return emit(c, d.n)
}

// room is more than is appended between two calls of reserve, in bytes: at most
// a link's target and the tags around it.
const room = 8 << 10

// reserve makes room for n bytes.
func (d *dumper) reserve(n int) error {
	if bufSize-d.n >= n {
		return nil
	}
	c := d.cur
	d.cur = nil
	if err := d.emit(c, d.n); err != nil {
		return err
	}
	d.n = 0
	if d.cur = d.ring.get(); d.cur == nil {
		return errStopped
	}
	return nil
}

// fail names the current entry.
func (d *dumper) fail(op string, err error) error {
	return &os.PathError{Op: op, Path: string(d.path), Err: err}
}

// strings appends strings, for which reserve has made room.
func (d *dumper) strings(list ...string) {
	d.n = len(appendStrings(d.cur.buf[:d.n], list...))
}

func appendStrings(b []byte, list ...string) []byte {
	for _, s := range list {
		b = wire.AppendString(b, s)
	}
	return b
}

// errChanged means that an entry was not any more, or had not the size any more,
// that it was said to be or have.
var errChanged = errors.New("changed while it was read")

// node writes the node of the current entry, name in the folder dirfd, which is
// listed there as of type typ.
func (d *dumper) node(dirfd int, name string, typ uint8) error {
	if err := d.reserve(room); err != nil {
		return err
	}
	if typ == unix.DT_UNKNOWN {
		var st unix.Stat_t
		if err := retry(func() error {
			return unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		}); err != nil {
			return d.fail("stat", err)
		}
		typ = uint8(st.Mode & unix.S_IFMT >> 12) // the same numbers
	}
	d.strings("(", "type")
	var err error
	switch typ {
	case unix.DT_REG:
		err = d.file(dirfd, name)
	case unix.DT_LNK:
		err = d.symlink(dirfd, name)
	case unix.DT_DIR:
		err = d.directory(dirfd, name)
	default:
		err = d.fail("archive", errors.New("not a file, directory or link"))
	}
	if err != nil {
		return err
	}
	d.strings(")")
	return nil
}

// file writes what is inside of a file's node. Of a link or a FIFO that has
// taken its place nothing is read.
func (d *dumper) file(dirfd int, name string) error {
	fd, err := openat(dirfd, name, unix.O_RDONLY, 0)
	if errors.Is(err, unix.ELOOP) {
		err = errChanged
	}
	if err != nil {
		return d.fail("open", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(fd, &st) }); err != nil {
		return d.fail("stat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return d.fail("open", errChanged)
	}
	d.strings("regular")
	if st.Mode&0o100 != 0 {
		d.strings("executable", "")
	}
	d.strings("contents")
	d.n = len(wire.AppendUint64(d.cur.buf[:d.n], uint64(st.Size)))
	return d.content(fd, st.Size)
}

// content writes the content of a file of size bytes, and its padding. Each read
// asks for a byte more than there should be, so that no other call is needed to
// see that there are no more.
func (d *dumper) content(fd int, size int64) error {
	for left := size; ; {
		if err := d.reserve(int(min(left+1, bufSize/4))); err != nil {
			return err
		}
		b := d.cur.buf[d.n:min(bufSize, int64(d.n)+left+1)]
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
	clear(d.cur.buf[d.n : d.n+pad])
	d.n += pad
	return nil
}

func (d *dumper) symlink(dirfd int, name string) error {
	n := 0
	err := retry(func() (err error) { n, err = unix.Readlinkat(dirfd, name, d.link[:]); return err })
	switch {
	case err == nil && n > MaxTarget:
		err = unix.ENAMETOOLONG
	case errors.Is(err, unix.EINVAL):
		err = errChanged
	}
	if err != nil {
		return d.fail("readlink", err)
	}
	d.strings("symlink", "target", string(d.link[:n]))
	return nil
}

func (d *dumper) directory(dirfd int, name string) error {
	if d.depth == MaxDepth {
		return d.fail("archive", fmt.Errorf("nested deeper than %d directories", MaxDepth))
	}
	fd, err := openDir(dirfd, name)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		err = errChanged
	}
	if err != nil {
		return d.fail("open", err)
	}
	defer unix.Close(fd)
	first := len(d.entries)
	if err := d.push(fd); err != nil {
		return d.fail("list", err)
	}
	d.depth++
	d.strings("directory")
	own := len(d.path)
	for i := first; i < len(d.entries); i++ {
		if err := d.reserve(room); err != nil {
			return err
		}
		e := d.entries[i]
		d.path = append(append(d.path, '/'), e.name...)
		d.strings("entry", "(", "name", e.name, "node")
		if err := d.node(fd, e.name, e.typ); err != nil {
			return err
		}
		d.strings(")")
		d.path = d.path[:own]
	}
	d.pop(first)
	d.depth--
	return d.reserve(room) // the ends of many directories follow each other
}
