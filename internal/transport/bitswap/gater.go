package bitswap

import (
	"net/netip"
	"slices"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// gater has a Host not dial addresses of this machine or of the local network
// because a stranger says, in the DHT or by a name, that he is there: unless the
// Host was told of one of that kind itself, and thus takes part in such a network.
type gater struct {
	known           map[peer.ID]bool // that were named: wherever they are
	private, itself bool             // others are dialled there, too
}

var _ connmgr.ConnectionGater = gater{}

// newGater returns one for a Host that was told of these, and of some remembered
// peers, which count as strangers.
func newGater(a addresses, remembered []peer.AddrInfo) gater {
	g := gater{known: map[peer.ID]bool{}}
	at := slices.Clone(a.listen)
	for _, info := range slices.Concat(a.peers, a.bootstrap, a.relays) {
		g.known[info.ID] = true
		at = append(at, info.Addrs...)
	}
	for _, info := range remembered {
		at = append(at, info.Addrs...)
	}
	for _, m := range at {
		public, loopback := reach(m)
		g.private = g.private || !public
		g.itself = g.itself || loopback
	}
	return g
}

// reach says whether an address is one of the internet, or of this machine. That
// of all interfaces, and names, which can stand for any, count as of the internet.
func reach(a multiaddr.Multiaddr) (public, loopback bool) {
	ip, err := manet.ToIP(a)
	if err != nil {
		return true, false
	}
	at, _ := netip.AddrFromSlice(ip)
	if at = at.Unmap(); at.IsUnspecified() {
		return true, false
	}
	return manet.IsPublicAddr(a), at.IsLoopback()
}

// InterceptAddrDial is asked about each address, with names looked up.
func (g gater) InterceptAddrDial(id peer.ID, a multiaddr.Multiaddr) bool {
	if g.known[id] {
		return true
	}
	ip, err := manet.ToIP(a)
	if err != nil {
		return true // by a relay
	}
	at, ok := netip.AddrFromSlice(ip)
	switch at = at.Unmap(); {
	case !ok || at.IsUnspecified() || at.IsMulticast():
		return false
	case at.IsLoopback():
		return g.itself
	}
	return g.private || manet.IsPublicAddr(a)
}

// InterceptPeerDial and those that follow let all pass.
func (g gater) InterceptPeerDial(peer.ID) bool              { return true }
func (g gater) InterceptAccept(network.ConnMultiaddrs) bool { return true }
func (g gater) InterceptSecured(network.Direction, peer.ID, network.ConnMultiaddrs) bool {
	return true
}
func (g gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }
