package node

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// uidPrefix starts the remote address of a connection whose user is known.
const uidPrefix = "uid="

// Credentials returns a listener of a Unix socket whose connections have the
// number of the user at the other end as their remote address.
func Credentials(l net.Listener) net.Listener { return credListener{l} }

type credListener struct{ net.Listener }

func (l credListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return credConn{c, uidAddr(userOf(c))}, nil
}

type credConn struct {
	net.Conn
	user uidAddr
}

// RemoteAddr implements net.Conn.
func (c credConn) RemoteAddr() net.Addr { return c.user }

// uidAddr is the number of a user, -1 if it is not known.
type uidAddr int64

func (uidAddr) Network() string  { return "unix" }
func (a uidAddr) String() string { return fmt.Sprintf("%s%d", uidPrefix, int64(a)) }

// userOf returns who made a connection: SO_PEERCRED, unix(7).
func userOf(c net.Conn) int64 {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return -1
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return -1
	}
	uid := int64(-1)
	if err := raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = int64(cred.Uid)
		}
	}); err != nil {
		return -1
	}
	return uid
}

// mayFill reports whether who makes a request may say what items of a store
// are: root and the node's user and, where the node serves it, the owner of its
// folder, who is the daemon. Everybody owns some folder, and what is kept of an item
// in that takes the place of another one with its hash part.
func (n *Node) mayFill(r *http.Request, storeDir string) bool {
	text, ok := strings.CutPrefix(r.RemoteAddr, uidPrefix)
	uid, err := strconv.ParseUint(text, 10, 32)
	if !ok || err != nil {
		return false
	}
	if uid == 0 || uid == uint64(os.Geteuid()) {
		return true
	}
	var st unix.Stat_t
	return n.upstreams.serves(storeDir) && unix.Stat(storeDir, &st) == nil && uint64(st.Uid) == uid
}
