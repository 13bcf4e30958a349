package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"ersatz/internal/discover"
	"ersatz/storepath"
)

// advertised returns what publish --advertise tells the local network: what
// "guix publish" would, of the first listener that others can reach.
func (p publishFlags) advertised(listeners []net.Listener) (discover.Service, error) {
	if p.store == storepath.Nix {
		return discover.Service{}, usageError(fmt.Errorf("--advertise: Guix machines would come for what is in %s", p.store))
	}
	host, err := os.Hostname()
	if err != nil {
		return discover.Service{}, err
	}
	for _, l := range listeners {
		tcp, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			continue
		}
		at := tcp.AddrPort()
		at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		if !at.Addr().IsLoopback() {
			return discover.Service{Kind: discover.Publish, Instance: discover.InstanceOf(host), Listen: at}, nil
		}
	}
	return discover.Service{}, usageError(fmt.Errorf("--advertise: nobody else can reach %s", listeners[0].Addr()))
}
