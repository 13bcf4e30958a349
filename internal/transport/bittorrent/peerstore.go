package bittorrent

import (
	"sync"
	"time"

	"github.com/anacrolix/dht/v2/krpc"
	peerstore "github.com/anacrolix/dht/v2/peer-store"
)

// Bounds of what is kept for other nodes of the DHT, some 5 MiB at most.
const (
	maxHashes    = 2000
	maxAnnounced = 50 // peers of one torrent
	forgetAfter  = 30 * time.Minute
)

// peerStore has the peers that were announced to this node of the DHT (BEP 5,
// "announce_peer"). A node without one is of no use to others. What is oldest goes
// when there is too much.
type peerStore struct {
	mu     sync.Mutex
	swarms map[hash][]announced
}

type announced struct {
	addr krpc.NodeAddr
	when time.Time
}

var _ peerstore.Interface = (*peerStore)(nil)

// AddPeer implements peerstore.Interface.
func (p *peerStore) AddPeer(h peerstore.InfoHash, addr krpc.NodeAddr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.swarms == nil {
		p.swarms = map[hash][]announced{}
	}
	peers := fresh(p.swarms[h], addr)
	if len(peers) >= maxAnnounced {
		peers = peers[1:]
	}
	if _, ok := p.swarms[h]; !ok && len(p.swarms) >= maxHashes {
		p.evict()
	}
	p.swarms[h] = append(peers, announced{addr, time.Now()})
}

// fresh returns the peers that are not forgotten, in order, without one.
func fresh(peers []announced, but krpc.NodeAddr) (left []announced) {
	for _, a := range peers {
		if time.Since(a.when) < forgetAfter && !(a.addr.IP.Equal(but.IP) && a.addr.Port == but.Port) {
			left = append(left, a)
		}
	}
	return left
}

// evict forgets the torrent that nobody was announced of for the longest time.
func (p *peerStore) evict() {
	var oldest hash
	var when time.Time
	for h, peers := range p.swarms {
		if last := peers[len(peers)-1].when; when.IsZero() || last.Before(when) {
			oldest, when = h, last
		}
	}
	delete(p.swarms, oldest)
}

// GetPeers implements peerstore.Interface.
func (p *peerStore) GetPeers(h peerstore.InfoHash) (addrs []krpc.NodeAddr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range fresh(p.swarms[h], krpc.NodeAddr{}) {
		addrs = append(addrs, a.addr)
	}
	return addrs
}
