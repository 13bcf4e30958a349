package nar

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// dirent is an entry of a directory, as the kernel lists it.
type dirent struct {
	name string
	typ  uint8 // unix.DT_REG and so on; unix.DT_UNKNOWN where the file system does not say
	size int   // of name, in bytes, until that is made
}

// lister lists directories. Its memory is for all of a tree: names take one
// allocation for each directory, and entries one for the widest path.
type lister struct {
	names   []byte   // of the directory that is being listed
	entries []dirent // of the directories around the current entry, one after the other
}

// direntSize is the room for a call of the kernel, in bytes.
const direntSize = 32 << 10

// dirents keeps, as *[direntSize]byte, where the kernel lists a directory.
var dirents = sync.Pool{New: func() any { return new([direntSize]byte) }}

// push appends what is in the directory fd, sorted by name.
func (l *lister) push(fd int) error {
	buf := dirents.Get().(*[direntSize]byte)
	defer dirents.Put(buf)
	l.names = l.names[:0]
	from := len(l.entries)
	for {
		n := 0
		err := retry(func() (err error) { n, err = unix.Getdents(fd, buf[:]); return err })
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if err := l.parse(buf[:n]); err != nil {
			return err
		}
	}
	own := l.entries[from:]
	names := string(l.names)
	for i := range own {
		own[i].name, names = names[:own[i].size], names[own[i].size:]
	}
	slices.SortFunc(own, func(a, b dirent) int { return cmp.Compare(a.name, b.name) })
	return nil
}

// pop forgets all entries but the first n.
func (l *lister) pop(n int) {
	clear(l.entries[n:])
	l.entries = l.entries[:n]
}

// errDirents means that the kernel's answer is not what getdents64(2) says.
var errDirents = errors.New("malformed directory entries")

// parse appends the entries in b (getdents64(2): d_ino, d_off, d_reclen, d_type,
// d_name), but for "." and "..".
func (l *lister) parse(b []byte) error {
	const lenAt, typeAt, nameAt = 16, 18, 19
	for len(b) > 0 {
		if len(b) < nameAt {
			return errDirents
		}
		size := int(binary.NativeEndian.Uint16(b[lenAt:]))
		if size < nameAt || size > len(b) {
			return errDirents
		}
		name, _, ok := bytes.Cut(b[nameAt:size], []byte{0})
		if !ok || len(name) == 0 {
			return errDirents
		}
		if s := string(name); s != "." && s != ".." {
			l.names = append(l.names, name...)
			l.entries = append(l.entries, dirent{typ: b[typeAt], size: len(name)})
		}
		b = b[size:]
	}
	return nil
}
