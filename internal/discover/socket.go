package discover

import (
	"net/netip"
	"slices"

	"ersatz/internal/transport/multicast"
)

var (
	group4 = netip.AddrPortFrom(netip.AddrFrom4([4]byte{224, 0, 0, 251}), mdnsPort)
	group6 = netip.AddrPortFrom(netip.MustParseAddr("ff02::fb"), mdnsPort)
)

// maxHops is that of all messages (RFC 6762, "Source Address Check").
const maxHops = 255

// system is the network of this machine.
type system struct{}

func (system) links(names []string) ([]link, []netip.Addr, error) {
	links, own, err := multicast.Interfaces()
	if len(names) > 0 {
		links = slices.DeleteFunc(links, func(l link) bool { return !slices.Contains(names, l.Name) })
	}
	return links, own, err
}

func (system) open(l link, ip6 bool) (conn, error) {
	group := group4
	if ip6 {
		group = group6
	}
	return multicast.Join(l, group, maxHops)
}
