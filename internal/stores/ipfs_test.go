//go:build !noipfs

package stores

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"ersatz/internal/transport/bitswap"
)

// TestIPFSOptions has who joins the DHT, by whom, and where it listens.
func TestIPFSOptions(t *testing.T) {
	all := "/ip4/0.0.0.0/tcp/PORT /ip4/0.0.0.0/udp/PORT/quic-v1 /ip6/::/tcp/PORT /ip6/::/udp/PORT/quic-v1"
	at := func(port string) string { return strings.ReplaceAll(all, "PORT", port) }
	for _, c := range []struct {
		url    string
		uses   use
		dht    bitswap.DHTMode
		public bool
		listen string
	}{
		{"ipfs:", useFrom, bitswap.DHTClient, true, ""},
		{"ipfs:", useTo, bitswap.DHTAuto, true, at("0")},
		{"ipfs:", useFrom | useServe, bitswap.DHTAuto, true, at("4001")},
		{"ipfs:?listen=/a", useServe, bitswap.DHTAuto, true, "/a"},
		{"ipfs:?listen=/a", useFrom, bitswap.DHTClient, true, "/a"},
		{"ipfs:?peer=/a", useFrom, bitswap.DHTOff, false, ""},
		{"ipfs:?peer=/a", useServe, bitswap.DHTOff, false, at("4001")},
		{"ipfs:?peer=/a&dht=server", useFrom, bitswap.DHTServer, true, ""},
		{"ipfs:?peer=/a&bootstrap=/b", useFrom, bitswap.DHTClient, false, ""},
		{"ipfs:?peer=/a&bootstrap=public", useFrom, bitswap.DHTClient, true, ""},
		{"ipfs:?dht=off", useServe, bitswap.DHTOff, false, at("4001")},
	} {
		o := ipfsOptions(one(t, c.url), c.uses)
		if joins := slices.Equal(o.Bootstrap, bitswap.PublicBootstrap()); o.DHT != c.dht || joins != c.public || strings.Join(o.Listen, " ") != c.listen {
			t.Errorf("%s, use %d: DHT %s by %q, listens at %q", c.url, c.uses, o.DHT, o.Bootstrap, o.Listen)
		}
	}
	o := ipfsOptions(one(t, "ipfs:?relay=/r&relay-service=on&port-map=on&bootstrap=/b&bootstrap=public&peer=/p&peer=/q"), useServe)
	if !slices.Equal(o.Relays, []string{"/r"}) || !o.RelayService || !o.PortMap || !slices.Equal(o.Peers, []string{"/p", "/q"}) ||
		o.Bootstrap[0] != "/b" || len(o.Bootstrap) != 1+len(bitswap.PublicBootstrap()) {
		t.Errorf("options are %+v", o)
	}
}

// TestIPFS serves by a host of this process and gets from it, while another URL
// of the same network is served, too.
func TestIPFS(t *testing.T) {
	l := newLibrary(t)
	set := start(t, Plan{Serve: mustParse(t, "ipfs:?listen=/ip4/127.0.0.1/tcp/0&dht=off", "ipfs:?listen=/ip4/127.0.0.1/udp/0/quic-v1")},
		Options{Library: l, State: t.TempDir()})
	at := set.Listeners()
	if len(at) != 1 || len(at[0].Multiaddrs) != 2 {
		t.Fatalf("listeners are %v", at)
	}
	offer(t, set, l)
	for _, addr := range at[0].Multiaddrs {
		wantContent(t, start(t, Plan{From: mustParse(t, "ipfs:?peer="+addr)}, Options{}), l)
	}
}

// TestIPFSTaken wants an address that cannot be had to be no fault of the URL.
func TestIPFSTaken(t *testing.T) {
	_, err := Open(t.Context(), Plan{Serve: mustParse(t, "ipfs:?listen=/ip4/192.0.2.1/tcp/1&dht=off")}, Options{Library: newLibrary(t)})
	if err == nil || errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// TestIPFSWrong wants what only libp2p finds wrong in a URL to be a fault of it.
func TestIPFSWrong(t *testing.T) {
	for _, url := range []string{"ipfs:?peer=/bogus", "ipfs:?listen=/ip4/1.2.3.256/tcp/1", "ipfs:?bootstrap=/ip4/127.0.0.1/tcp/1", "ipfs:?relay=/ip4/127.0.0.1/tcp/1/p2p/12D3KooWACBzyepfiwV6iAp7QNYGJucEN9jTHjjVtSVPmEgi263h&relay-service=on"} {
		if _, err := Open(t.Context(), Plan{From: mustParse(t, url)}, Options{}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", url, err)
		}
	}
}
