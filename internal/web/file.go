package web

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Piece is how much of an answer is sent under one deadline, in bytes: whoever
// reads more slowly than 17 kbit/s is cut off.
const Piece = 256 << 10

// Folder is an open folder whose files are sent. It is safe for concurrent use.
//
// Folder and File are descriptors, since os.Root opens each folder on the way
// and os.File asks epoll whether a file can be waited for: five system calls
// more for each answer, of nine.
type Folder struct{ fd int }

// OpenFolder opens a folder.
func OpenFolder(name string) (*Folder, error) {
	fd, err := ignoringEINTR(func() (int, error) { return unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &Folder{fd}, nil
}

// Close closes the folder. Its files stay open.
func (d *Folder) Close() error { return os.NewSyscallError("close", unix.Close(d.fd)) }

// Open opens a regular file below the folder, which no link on the way leaves
// (openat2(2), RESOLVE_BENEATH). It fails on all else, and where Linux or a
// filter of system calls does not know openat2.
func (d *Folder) Open(name string) (*File, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := ignoringEINTR(func() (int, error) { return unix.Openat2(d.fd, name, &how) })
	if err != nil {
		return nil, &fs.PathError{Op: "openat2", Path: name, Err: err}
	}
	var st unix.Stat_t
	if _, err = ignoringEINTR(func() (int, error) { return 0, unix.Fstat(fd, &st) }); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return nil, errors.Join(&fs.PathError{Op: "fstat", Path: name, Err: err}, unix.Close(fd))
	}
	return &File{fd: fd, left: st.Size, size: st.Size, modTime: time.Unix(st.Mtim.Unix())}, nil
}

func ignoringEINTR(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// File is an open file that is sent, all of it or one part, once.
type File struct {
	fd         int
	next, left int64 // what is not sent yet: where it begins, how much it is
	size       int64
	modTime    time.Time
}

// Size returns its size in bytes when it was opened.
func (f *File) Size() int64 { return f.size }

// ModTime returns when it had been changed last when it was opened.
func (f *File) ModTime() time.Time { return f.modTime }

// Part has n bytes from start sent, and no more. They are within its size.
func (f *File) Part(start, n int64) { f.next, f.left = start, n }

// Close closes the file.
func (f *File) Close() error { return os.NewSyscallError("close", unix.Close(f.fd)) }

// Read reads what is not sent yet.
func (f *File) Read(p []byte) (int, error) {
	p = p[:min(int64(len(p)), f.left)]
	if f.left == 0 {
		return 0, io.EOF
	}
	n, err := ignoringEINTR(func() (int, error) { return unix.Pread(f.fd, p, f.next) })
	switch {
	case err != nil:
		return 0, os.NewSyscallError("pread", err)
	case n == 0 && len(p) > 0:
		return 0, io.ErrUnexpectedEOF // it was cut short
	}
	f.next, f.left = f.next+int64(n), f.left-int64(n)
	return n, nil
}

// append appends what is not sent yet to b, or what can be read of it.
func (f *File) append(b []byte) ([]byte, error) {
	at := len(b)
	b = slices.Grow(b, int(f.left))[:at+int(f.left)]
	n, err := io.ReadFull(f, b[at:])
	return b[:at+n], err
}

// Meter is told how a file is sent.
type Meter interface {
	Sent(n int) // n bytes more
	Done()      // no more of them; the last call
}

// writeFile writes b and the file of an answer behind it. Who does not read a
// piece within Stall is cut off.
func (c *lane) writeFile(b []byte, a Answer) error {
	if !c.use.CompareAndSwap(idle, answering) {
		return net.ErrClosed
	}
	err := c.sendFile(b, a)
	if !c.use.CompareAndSwap(answering, idle) {
		c.stream.Close()
		return net.ErrClosed
	}
	return err
}

func (c *lane) sendFile(b []byte, a Answer) error {
	conn, err := c.SyscallConn()
	if err != nil {
		return c.copyFile(b, a)
	}
	if a.File.left > Piece {
		// Without, there is a small packet at the end of each piece.
		setCork(conn, 1)
		defer setCork(conn, 0)
	}
	s := piece{head: b, file: a.File}
	write := s.write // the same for all pieces, as it takes memory
	for len(s.head) > 0 || a.File.left > 0 {
		if err := c.extend(); err != nil {
			return err
		}
		left := a.File.left
		s.until = max(left-Piece, 0)
		err := conn.Write(write)
		a.Meter.Sent(int(left - a.File.left))
		switch {
		case err != nil:
			return err
		case errors.Is(s.err, unix.EINVAL):
			return c.copyFile(s.head, a) // no sendfile for this file
		case s.err != nil:
			return fmt.Errorf("sending a file: %w", s.err)
		}
	}
	return nil
}

// piece is what of an answer is sent under one deadline.
type piece struct {
	head  []byte
	file  *File
	until int64 // what of the file is left then
	err   error
}

// write sends what is left of the piece on a connection that does not wait
// (sendfile(2)). It returns false if the connection takes no more now.
func (p *piece) write(conn uintptr) bool {
	for len(p.head) > 0 || p.file.left > p.until {
		var n int
		if len(p.head) > 0 {
			flags := 0
			if p.file.left > 0 {
				flags = unix.MSG_MORE // the file follows in the same packet
			}
			n, p.err = unix.SendmsgN(int(conn), p.head, nil, nil, flags)
			p.head = p.head[max(n, 0):]
		} else {
			// It moves next on.
			n, p.err = unix.Sendfile(int(conn), p.file.fd, &p.file.next, int(p.file.left-p.until))
			p.file.left -= int64(max(n, 0))
			if n == 0 && p.err == nil {
				p.err = io.ErrUnexpectedEOF // it was cut short
			}
		}
		switch {
		case errors.Is(p.err, unix.EAGAIN):
			return false
		case p.err != nil && !errors.Is(p.err, unix.EINTR):
			return true
		}
	}
	p.err = nil
	return true
}

// extend moves the write deadline on, unless the server ends.
func (c *lane) extend() error {
	if c.use.Load() == closing {
		return nil
	}
	if err := c.SetWriteDeadline(time.Now().Add(Stall)); err != nil {
		return err
	}
	if c.use.Load() == closing { // since then, and Close may have set its deadline first
		return c.SetWriteDeadline(time.Now().Add(graceTime))
	}
	return nil
}

// copyFile writes b and what is left of a file, where there is no sendfile.
func (c *lane) copyFile(b []byte, a Answer) error {
	if err := c.extend(); err != nil {
		return err
	}
	if _, err := c.stream.Write(b); err != nil {
		return err
	}
	p := make([]byte, min(a.File.left, 32<<10))
	for a.File.left > 0 {
		n, err := a.File.Read(p)
		if err != nil {
			return err
		}
		if err := c.extend(); err != nil {
			return err
		}
		n, err = c.stream.Write(p[:n])
		a.Meter.Sent(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// setCork has TCP hold packets back until they are full, or no more (tcp(7),
// TCP_CORK). It is done for speed alone, so no error matters.
func setCork(conn syscall.RawConn, on int) {
	_ = conn.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, on) })
}
