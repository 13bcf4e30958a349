package bittorrent_test

import (
	"testing"

	"ersatz/eris"
	"ersatz/internal/transport/bittorrent"
)

// dhtNode starts a node of the DHT that others join by.
func dhtNode(t *testing.T) string {
	t.Helper()
	c := start(t, bittorrent.Options{Listen: "127.0.0.1:0", DHT: true, Bootstrap: []string{deaf(t)}})
	return c.Addr().String()
}

// TestDHT has one client find another by nothing but the info hash.
func TestDHT(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 1_000_000)
	link := magnet(tr.info(t))
	boot := []string{dhtNode(t)}
	seed(t, tr, link, bittorrent.Options{DHT: true, Bootstrap: boot})
	for _, listen := range []string{"", "127.0.0.1:0"} {
		c := start(t, bittorrent.Options{DHT: true, Bootstrap: boot, Listen: listen})
		wants(t, open(t, c, tr, link), tr, tr.every()...)
	}
}
