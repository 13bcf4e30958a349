package web

import (
	"bytes"
	"net"

	"golang.org/x/sys/unix"
)

// promptConn confirms at once the packets of a request whose end is still to
// come. Guile's HTTP client, and so Guix, writes a request's head word by word,
// and Nagle's algorithm (RFC 9293, section 3.7.4) keeps all words but the first
// back until that one is confirmed, which Linux puts off by 40 ms: per narinfo
// and nar, more than all else takes on a fast line. The rest of the connection
// is as it was, sendfile too.
type promptConn struct{ *net.TCPConn }

// prompt returns c, or a promptConn if it is one of TCP.
func prompt(c net.Conn) net.Conn {
	if tcp, ok := c.(*net.TCPConn); ok {
		return promptConn{tcp}
	}
	return c
}

func (c promptConn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if n > 0 && !bytes.HasSuffix(p[:n], []byte("\r\n\r\n")) {
		c.confirm()
	}
	return n, err
}

// confirm has Linux send the acknowledgement that it puts off (tcp(7),
// TCP_QUICKACK). It is done for speed alone, so no error matters.
func (c promptConn) confirm() {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
}
