package bittorrent

import (
	"expvar"
	"net/netip"
	"strings"
	"testing"
)

// TestCrowd bounds what one address takes of one torrent.
func TestCrowd(t *testing.T) {
	var c crowd
	c.leave(member{})
	m := member{hash{1}, netip.MustParseAddr("10.0.0.1")}
	for i := range perMember {
		if !c.enter(m) {
			t.Errorf("%d are too many", i+1)
		}
	}
	if c.enter(m) {
		t.Error("one too many")
	}
	for _, other := range []member{{hash{2}, m.addr}, {m.torrent, netip.MustParseAddr("10.0.0.2")}, {}} {
		if !c.enter(other) {
			t.Errorf("%v is none of them", other)
		}
		c.leave(other)
	}
	c.leave(m)
	c.leave(m)
	if !c.enter(m) {
		t.Error("nobody has left")
	}
	for range perMember {
		c.leave(m)
	}
	if len(c.n) != 0 {
		t.Errorf("left: %v", c.n)
	}
}

// TestForgetBits: what peers say in handshakes is not kept for good.
func TestForgetBits(t *testing.T) {
	bits := expvar.Get("torrent").(*expvar.Map).Get("successful_peer_wire_protocol_handshake_peer_reserved_bytes").(*expvar.Map)
	bits.Add("0123456789abcdef", 1)
	c := &Client{}
	for range manyHandshakes {
		c.forgetBits()
	}
	if strings.Contains(bits.String(), "0123456789abcdef") {
		t.Error("remembered")
	}
}
