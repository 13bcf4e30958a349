package bittorrent

import (
	"expvar"
	"net/netip"
	"sync"

	bt "github.com/anacrolix/torrent"
)

// perMember is how many connections one address may open about one torrent, so
// that a stranger does not take all of them.
const perMember = 8

// member is an address that has connected to us about a torrent; the zero value
// is one that we have connected to.
type member struct {
	torrent hash
	addr    netip.Addr
}

func origin(pc *bt.PeerConn) member {
	at, err := netip.ParseAddrPort(pc.RemoteAddr.String())
	if err != nil || pc.Discovery != bt.PeerSourceIncoming {
		return member{}
	}
	return member{pc.Torrent().InfoHash(), at.Addr().Unmap()}
}

// crowd counts the connections of members.
type crowd struct {
	mu sync.Mutex
	n  map[member]int
}

// enter reports whether one more is not too many. It counts in any case.
func (c *crowd) enter(m member) bool {
	if m == (member{}) {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[member]int{}
	}
	c.n[m]++
	return c.n[m] <= perMember
}

func (c *crowd) leave(m member) {
	if m == (member{}) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n[m]--; c.n[m] <= 0 {
		delete(c.n, m)
	}
}

// manyHandshakes is after how many the library's counts of them are forgotten.
const manyHandshakes = 1000

// forgetBits keeps the library from remembering all that peers ever said: it counts
// handshakes by their reserved bits, which are any 8 bytes (v1.60.0,
// Client.connBtHandshake).
func (c *Client) forgetBits() {
	if c.handshakes.Add(1)%manyHandshakes != 0 {
		return
	}
	if all, ok := expvar.Get("torrent").(*expvar.Map); ok {
		if bits, ok := all.Get("successful_peer_wire_protocol_handshake_peer_reserved_bytes").(*expvar.Map); ok {
			bits.Init()
		}
	}
}
