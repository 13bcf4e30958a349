package bitswap

import (
	"net"
	"testing"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

func TestGater(t *testing.T) {
	at := func(list ...string) (m []multiaddr.Multiaddr) {
		for _, s := range list {
			m = append(m, multiaddr.StringCast(s))
		}
		return m
	}
	infos := func(list ...string) []peer.AddrInfo { return []peer.AddrInfo{{ID: "named", Addrs: at(list...)}} }
	const (
		public, lan, self = "/ip4/1.2.3.4/tcp/1", "/ip4/192.168.1.1/udp/1/quic-v1", "/ip4/127.0.0.1/tcp/22"
		all               = "/ip4/0.0.0.0/tcp/4001"
	)
	for name, c := range map[string]struct {
		a          addresses
		remembered []peer.AddrInfo
		lan, self  bool // whether strangers are dialled there
	}{
		"nothing":          {},
		"all interfaces":   {a: addresses{listen: at(all, "/ip6/::/tcp/4001")}},
		"public network":   {a: addresses{listen: at(all), bootstrap: dht.GetDefaultBootstrapPeerAddrInfos()}, remembered: infos(public)},
		"peer of a LAN":    {a: addresses{peers: infos(lan)}, lan: true},
		"remembered":       {remembered: infos(public, lan), lan: true},
		"daemon":           {a: addresses{bootstrap: infos("/ip6/::1/tcp/1")}, lan: true, self: true},
		"listens at one":   {a: addresses{listen: at(lan)}, lan: true},
		"relay by a name":  {a: addresses{relays: infos("/dns4/localhost/tcp/1")}},
		"public IPv6 peer": {a: addresses{peers: infos("/ip6/2606:4700::1/tcp/1")}},
	} {
		g := newGater(c.a, c.remembered)
		for s, want := range map[string]bool{
			public: true, "/ip6/2606:4700::2/udp/1/quic-v1": true,
			lan: c.lan, "/ip4/169.254.169.254/tcp/80": c.lan, "/ip6/fd00::1/tcp/1": c.lan, "/ip4/10.0.0.1/tcp/1/p2p/QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN/p2p-circuit": c.lan,
			self: c.self, "/ip6/::1/tcp/1": c.self, "/ip6/::ffff:127.0.0.1/tcp/1": c.self,
			all: false, "/ip6/::/tcp/1": false, "/ip4/224.0.0.1/udp/1/quic-v1": false,
		} {
			if got := g.InterceptAddrDial("stranger", at(s)[0]); got != want {
				t.Errorf("%s: a stranger at %s is dialled: %v", name, s, got)
			}
		}
		if len(c.a.peers) > 0 && !g.InterceptAddrDial("named", at(self)[0]) {
			t.Errorf("%s: a peer that was named is not dialled", name)
		}
	}
}

// TestStrangerAtHome: a peer that is heard of, but was not named, is not dialled at
// an address of this machine.
func TestStrangerAtHome(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m, err := manet.FromNetAddr(l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	came := make(chan struct{})
	go func() {
		if c, err := l.Accept(); err == nil {
			close(came)
			c.Close()
		}
	}()
	h, err := New(t.Context(), nil, Options{DHT: DHTClient})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	id, err := peer.Decode(someID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.connect(t.Context(), peer.AddrInfo{ID: id, Addrs: []multiaddr.Multiaddr{m}}); err == nil {
		t.Error("connected")
	}
	select {
	case <-came:
		t.Error("it was dialled")
	default:
	}
}
