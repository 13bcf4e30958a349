package bitswap

import (
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/multiformats/go-multiaddr"
)

// TestRoomToConnect: however many others connect, the Host can still do so.
func TestRoomToConnect(t *testing.T) {
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits()), rcmgr.WithMetricsDisabled())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	at := multiaddr.StringCast("/ip4/127.0.0.1/tcp/1") // where they are is not looked at
	peers := 0
	conns := func(dir network.Direction) (n int) {
		for {
			c, err := m.OpenConnection(dir, true, at)
			if err != nil {
				return n
			}
			t.Cleanup(c.Done)
			peers++
			if err := c.SetPeer(peer.ID(fmt.Sprint(peers))); err != nil {
				return n
			}
			n++
		}
	}
	if n := conns(network.DirInbound); n != maxStrangers {
		t.Errorf("%d strangers connect, want %d", n, maxStrangers)
	}
	if n := conns(network.DirOutbound); n != maxConns-maxStrangers {
		t.Errorf("%d connections can be made then, want %d", n, maxConns-maxStrangers)
	}
}
