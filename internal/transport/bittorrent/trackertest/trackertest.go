// Package trackertest is a BitTorrent tracker over HTTP (BEP 3, BEP 23) for
// tests.
package trackertest

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync"
	"testing"
)

// Tracker tells all who announce themselves of the others.
type Tracker struct {
	URL string // to announce to

	mu    sync.Mutex
	peers map[string]map[netip.AddrPort]bool // by info hash; whether one has all
}

// Start starts a tracker on loopback that ends with the test.
func Start(t testing.TB) *Tracker {
	tr := &Tracker{peers: map[string]map[netip.AddrPort]bool{}}
	srv := httptest.NewServer(tr)
	t.Cleanup(srv.Close)
	tr.URL = srv.URL + "/announce"
	return tr
}

// ServeHTTP implements http.Handler.
func (tr *Tracker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	port, err := strconv.ParseUint(q.Get("port"), 10, 16)
	if err != nil || len(q.Get("info_hash")) != 20 {
		http.Error(w, "no announcement", http.StatusBadRequest)
		return
	}
	self := netip.AddrPortFrom(netip.MustParseAddr(host), uint16(port))
	tr.mu.Lock()
	defer tr.mu.Unlock()
	swarm := tr.peers[q.Get("info_hash")]
	if swarm == nil {
		swarm = map[netip.AddrPort]bool{}
		tr.peers[q.Get("info_hash")] = swarm
	}
	var compact []byte
	for p := range swarm {
		if p != self {
			ip := p.Addr().As4()
			compact = append(compact, ip[:]...)
			compact = append(compact, byte(p.Port()>>8), byte(p.Port()))
		}
	}
	switch {
	case q.Get("event") == "stopped":
		delete(swarm, self)
	case port != 0:
		swarm[self] = q.Get("left") == "0"
	}
	fmt.Fprintf(w, "d8:intervali1e5:peers%d:%se", len(compact), compact)
}

// Seeds returns how many have all of a torrent.
func (tr *Tracker) Seeds(hash [20]byte) (n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, all := range tr.peers[string(hash[:])] {
		if all {
			n++
		}
	}
	return n
}

// Peers returns how many are known of a torrent.
func (tr *Tracker) Peers(hash [20]byte) int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return len(tr.peers[string(hash[:])])
}
