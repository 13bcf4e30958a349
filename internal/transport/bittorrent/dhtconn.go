package bittorrent

import (
	"net"

	"github.com/anacrolix/dht/v2/krpc"
	"github.com/anacrolix/torrent/bencode"
)

// dhtConn drops the packets that the library cannot bear (dht v2.23.0): at some
// queries without arguments it panics, those that are no messages it prints to
// the standard error, and what it is asked to store (BEP 44) it keeps without a
// bound.
type dhtConn struct{ net.PacketConn }

// ReadFrom implements net.PacketConn.
func (c dhtConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.PacketConn.ReadFrom(b)
		if err != nil || acceptable(b[:n]) {
			return n, from, err
		}
	}
}

// acceptable reports whether a packet is a message that the library may see.
func acceptable(packet []byte) (ok bool) {
	if len(packet) < 2 || packet[0] != 'd' {
		return false
	}
	defer func() {
		if recover() != nil { // of the library's parser, at addresses that are too short
			ok = false
		}
	}()
	var m krpc.Msg
	if err := bencode.Unmarshal(packet, &m); err != nil {
		return false
	}
	if m.Y != krpc.YQuery {
		return true
	}
	switch m.Q {
	case "ping", "find_node", "get_peers", "announce_peer":
		return m.A != nil
	}
	return false
}
