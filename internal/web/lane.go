package web

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"
)

// lane is a connection that answers plain requests whose answers are at hand by
// itself, where net/http asks it for the next request, and gives net/http all
// other requests. So each odd request has net/http's meaning, the limits and the
// end of the connection are net/http's, and what most clients ask for most of
// the time takes one read and one write.
//
// It may answer only between two requests of net/http: when net/http has
// finished the last one that it was given, and has not seen a byte of the next.
// The first is what http.StateNew and http.StateIdle say. For the second, net/http
// is given one request, to its last byte, at a time; where a request ends that
// may have a body, only net/http knows, so that all of the connection is its from
// there on.
type lane struct {
	stream
	quick *quickly

	// What follows belongs to who reads: one goroutine at a time.

	between bool    // between two requests of net/http
	left    bool    // to net/http, for good
	kept    []byte  // read, and not given to net/http yet
	first   [1]byte // memory of kept

	readBy, writeBy time.Time // deadlines in force; zero: none

	use atomic.Int32 // idle, answering or closing
}

// stream is what net/http finds in a connection of TCP.
type stream interface {
	net.Conn
	io.ReaderFrom // sendfile
	syscall.Conn
	CloseWrite() error
}

// What a lane is used for.
const (
	idle int32 = iota
	answering
	closing // once what is being answered is written
)

const (
	// spare is how long before its end a deadline for the next request may be
	// left as it is, so that not each request moves it on.
	spare = 10 * time.Second

	// minRead is the least memory that a head is looked for in, in bytes.
	// net/http gives 4096.
	minRead = 1 << 10
)

// newLane returns c, as a lane if it can be one.
func newLane(c net.Conn, q *quickly) net.Conn {
	if s, ok := c.(stream); ok && q != nil {
		return &lane{stream: s, quick: q, between: true}
	}
	return c
}

// note is told by net/http what becomes of the connection.
func (c *lane) note(state http.ConnState) {
	switch state {
	case http.StateIdle:
		c.between = true
	case http.StateHijacked:
		c.left = true
	}
}

func (c *lane) Read(p []byte) (int, error) {
	switch {
	case c.left && len(c.kept) > 0:
		n := copy(p, c.kept)
		c.kept = c.kept[n:]
		return n, nil
	case c.left:
		return c.stream.Read(p)
	case !c.between:
		return c.wait(p)
	case len(p) < max(minRead, len(c.kept)+1):
		return c.leave(p)
	}
	return c.serve(p)
}

// leave gives net/http all that was read and will be.
func (c *lane) leave(p []byte) (int, error) {
	c.left = true
	return c.Read(p)
}

// serve answers until a request comes that it cannot answer, whose head it
// gives. p is the memory that it works in.
func (c *lane) serve(p []byte) (int, error) {
	n := copy(p, c.kept)
	c.kept = nil
	begun := false // the head that p begins with
	for {
		used, next, err := c.answer(p[:n])
		if err != nil {
			return 0, io.EOF // net/http would answer to another error
		}
		n = copy(p, p[used:n])
		switch {
		case next.verdict == single:
			c.kept = bytes.Clone(p[next.size:n])
			c.between = false
			return next.size, nil
		case next.verdict == foreign, n == len(p):
			c.left = true
			return n, nil
		}
		begun = begun && used == 0
		if err := c.expect(n > 0 && !begun, used > 0); err != nil {
			return n, err
		}
		begun = n > 0
		m, err := c.stream.Read(p[n:])
		if n += m; err != nil {
			c.left = true
			return n, err
		}
	}
}

// expect sets by when more must have come: of a head that has just begun, or
// after something was answered.
func (c *lane) expect(begun, answered bool) error {
	now := time.Now()
	switch head, next := now.Add(headerTime), now.Add(idleTime); {
	case begun && (answered || c.readBy.IsZero() || c.readBy.After(head)):
		return c.SetReadDeadline(head)
	case !begun && answered && c.readBy.Before(next.Add(-spare)):
		return c.SetReadDeadline(next)
	}
	return nil
}

// answer answers the plain requests that p begins with. It returns how many
// bytes these are, and what comes next.
func (c *lane) answer(p []byte) (used int, next head, err error) {
	if next = parseHead(p); next.verdict != plain {
		return 0, next, nil
	}
	m := c.quick.scratch()
	defer c.quick.free(m)
	now := time.Now()
	for next.verdict == plain {
		r := m.request(next, now)
		a, ok := c.quick.Quick.Quick(r)
		if !ok {
			next.verdict = single
			break
		}
		if len(m.out) > 0 && len(m.out)+a.size(r) > batch {
			if err := c.write(m.out, now); err != nil {
				return 0, head{}, errors.Join(err, a.drop())
			}
			m.out, now = m.out[:0], time.Now()
		}
		m.out = c.quick.append(m.out, a, r)
		switch {
		case a.File == nil:
		case a.File.left <= small:
			m.out, err = a.appendFile(m.out)
		default:
			err = c.writeFile(m.out, a)
			m.out, now = m.out[:0], time.Now()
		}
		if err = errors.Join(err, a.drop()); err != nil {
			break
		}
		used += next.size
		next = parseHead(p[used:])
	}
	if len(m.out) > 0 {
		err = errors.Join(err, c.write(m.out, now))
	}
	return used, next, err
}

// request returns what a head asks for.
func (m *scratch) request(h head, now time.Time) Request {
	r := Request{Path: h.path, Head: h.noBody, Range: h.span, IfRange: h.ifSpan, Buffer: m.head, Time: now}
	if h.escaped {
		m.path = unescape(m.path[:0], h.path)
		r.Path = m.path
	}
	return r
}

// write writes answers. Who does not read them is cut off after Stall, or half
// of that.
func (c *lane) write(b []byte, now time.Time) error {
	if by := now.Add(Stall); c.writeBy.Before(by.Add(-Stall / 2)) {
		if err := c.SetWriteDeadline(by); err != nil {
			return err
		}
	}
	if !c.use.CompareAndSwap(idle, answering) {
		return net.ErrClosed
	}
	_, err := c.stream.Write(b)
	if !c.use.CompareAndSwap(answering, idle) {
		c.stream.Close()
		return net.ErrClosed
	}
	return err
}

// Close closes the connection, or has it closed when what is being answered is
// written: http.Server.Shutdown takes it for idle then.
func (c *lane) Close() error {
	switch {
	case c.use.CompareAndSwap(idle, closing):
		return c.stream.Close()
	case c.use.CompareAndSwap(answering, closing):
		return c.stream.SetWriteDeadline(time.Now().Add(graceTime))
	}
	return nil
}

// wait is asked while net/http answers a request, to learn whether the client
// goes away meanwhile. A byte of the next request, which net/http would take for
// its own, is kept back until net/http gives up asking.
func (c *lane) wait(p []byte) (int, error) {
	if len(c.kept) == 0 {
		n, err := c.stream.Read(c.first[:])
		if n == 0 {
			return 0, err
		}
		c.kept = c.first[:]
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return c.leave(p)
	}
	return 0, raw.Read(func(uintptr) bool { return false })
}

// SetReadDeadline notes the deadline.
func (c *lane) SetReadDeadline(t time.Time) error {
	c.readBy = t
	return c.stream.SetReadDeadline(t)
}

// SetWriteDeadline notes the deadline.
func (c *lane) SetWriteDeadline(t time.Time) error {
	c.writeBy = t
	return c.stream.SetWriteDeadline(t)
}

// SetDeadline notes the deadlines.
func (c *lane) SetDeadline(t time.Time) error {
	c.readBy, c.writeBy = t, t
	return c.stream.SetDeadline(t)
}
