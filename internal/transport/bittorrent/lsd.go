package bittorrent

import (
	"cmp"
	"context"
	"crypto/rand"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	bt "github.com/anacrolix/torrent"
	"golang.org/x/time/rate"
)

// Times of local discovery (BEP 14).
const (
	localEvery  = 5 * time.Minute // between two announcements of a torrent
	localPause  = time.Minute     // between two announcements, in the long run
	localSaved  = 5               // that may be sent at once after a while without any
	localKept   = 2               // of those, for torrents that begin to be fetched
	localForget = 2 * localEvery  // after which a peer that is not heard again gives way to others

	// localAgain is how soon a peer that is heard again is tried again. aria2 1.36
	// leaves once it has the metadata, and announces itself anew.
	localAgain = 500 * time.Millisecond

	// localRetry is when a peer is tried once more: it may have spoken before it
	// could be connected to.
	localRetry = 3 * time.Second
)

// Bounds of the peers that are learnt.
const (
	maxLocalPeers = 64 // of a torrent
	maxNeighbours = 16 // that are asked about further torrents
	maxLocalPorts = 4  // of one address, of each of these
	maxRetries    = 256
	maxLocalTries = 20 // in a second, of all torrents: a part of maxDials
)

// peerSourceLocal is how the library is told where a peer comes from.
const peerSourceLocal bt.PeerSource = "L"

// locals is local discovery (BEP 14): it tells the networks that this machine is in
// of all torrents, and gives these the peers that it hears of there.
type locals struct {
	lan    *lan
	log    *slog.Logger
	port   uint16     // that is told; 0 for none
	at     netip.Addr // where peers connect
	cookie string

	mu       sync.Mutex
	limit    *rate.Limiter // of announcements
	tries    *rate.Limiter
	torrents map[hash]*localTorrent

	// neighbours have, or fetch, something that was here at the time. They are
	// asked about all that is fetched: only a few torrents can be announced in a
	// minute.
	neighbours heardPeers

	retries []retry // the earliest first
}

// retry is a peer that is tried again.
type retry struct {
	due  time.Time
	hash hash
	at   netip.AddrPort
}

// heardPeers are peers, with when they were last heard.
type heardPeers map[netip.AddrPort]time.Time

// note adds a peer unless there are most already, and reports whether it is there.
func (h heardPeers) note(at netip.AddrPort, now time.Time, most int) bool {
	if _, ok := h[at]; !ok {
		ports := 0
		maps.DeleteFunc(h, func(_ netip.AddrPort, heard time.Time) bool { return now.Sub(heard) >= localForget })
		for p := range h {
			if p.Addr() == at.Addr() {
				ports++
			}
		}
		if len(h) >= most || ports >= maxLocalPorts {
			return false
		}
	}
	h[at] = now
	return true
}

// localTorrent is a torrent that is fetched or seeded.
type localTorrent struct {
	hash    hash
	give    func(netip.AddrPort) // gives it a peer
	fetched bool
	greets  bool      // somebody has asked for it who does not know us
	led     time.Time // when it was the first of an announcement
	said    time.Time // when it was in one
	peers   heardPeers
}

func newLocals(c *Client, n network) *locals {
	l := &locals{log: c.log, cookie: rand.Text()[:16], torrents: map[hash]*localTorrent{}, neighbours: heardPeers{}}
	l.limit, l.tries = rate.NewLimiter(rate.Every(localPause), localSaved), rate.NewLimiter(maxLocalTries, maxLocalPeers)
	if c.listen != nil {
		at := c.listen.Addr().(*net.TCPAddr).AddrPort()
		l.at, l.port = at.Addr().Unmap(), at.Port()
	}
	l.lan = &lan{net: n, log: c.log, hear: l.hear, open: map[place]*joined{}, deaf: map[place]bool{}}
	return l
}

// add announces a torrent soon, and every while.
func (l *locals) add(h hash, t *bt.Torrent, fetched bool) {
	l.addTorrent(h, fetched, func(at netip.AddrPort) {
		t.AddPeers([]bt.PeerInfo{{Addr: net.TCPAddrFromAddrPort(at), Source: peerSourceLocal}})
	})
}

func (l *locals) addTorrent(h hash, fetched bool, give func(netip.AddrPort)) {
	t := &localTorrent{hash: h, give: give, fetched: fetched, peers: heardPeers{}}
	l.mu.Lock()
	l.torrents[h] = t
	var ask []netip.AddrPort
	now := time.Now()
	for at, heard := range l.neighbours {
		if fetched && now.Sub(heard) < localForget && l.tries.AllowN(now, 1) && t.peers.note(at, now, maxLocalPeers) {
			ask = append(ask, at)
		}
	}
	l.mu.Unlock()
	for _, at := range ask {
		give(at)
	}
}

func (l *locals) remove(h hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.torrents, h)
}

// run announces and listens until ctx ends.
func (l *locals) run(ctx context.Context) {
	defer l.lan.close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var look time.Time
	for {
		now := time.Now()
		if !now.Before(look) {
			if l.lan.refresh(ctx) {
				l.sayAll()
			}
			look = now.Add(rescan)
		}
		l.retry(now)
		if hashes := l.due(now); len(hashes) > 0 {
			l.lan.send(ctx, l.at, localMessage{l.port, hashes, l.cookie})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// retry gives torrents the peers that are due to be tried again. The library passes
// over those that are connected.
func (l *locals) retry(now time.Time) {
	l.mu.Lock()
	var due []retry
	for len(l.retries) > 0 && !l.retries[0].due.After(now) {
		due, l.retries = append(due, l.retries[0]), l.retries[1:]
	}
	gives := make([]func(netip.AddrPort), len(due))
	for i, r := range due {
		if t := l.torrents[r.hash]; t != nil {
			gives[i] = t.give
		}
	}
	l.mu.Unlock()
	for i, give := range gives {
		if give != nil {
			give(due[i].at)
		}
	}
}

// sayAll has all torrents announced again: there is a network that has not heard
// of them.
func (l *locals) sayAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.torrents {
		t.led, t.said = time.Time{}, time.Time{}
	}
}

// due returns the torrents of an announcement that is to be sent now, if any. Each
// torrent is in one every five minutes, and, of more than five, is the first of one
// in turn, since some programs heed only that.
func (l *locals) due(now time.Time) []hash {
	if l.port == 0 || !l.lan.reached(l.at) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	tokens := l.limit.TokensAt(now)
	if tokens < 1 {
		return nil
	}
	var due []*localTorrent
	for _, t := range l.torrents {
		if now.Sub(t.led) >= localEvery {
			due = append(due, t)
		}
	}
	if len(due) == 0 {
		return nil
	}
	first := slices.MinFunc(due, func(x, y *localTorrent) int {
		return cmp.Or(cmp.Compare(x.rank(), y.rank()), x.led.Compare(y.led), x.said.Compare(y.said))
	})
	if first.rank() > 0 && tokens < 1+localKept || !l.limit.AllowN(now, 1) {
		return nil
	}
	first.led, first.said, first.greets = now, now, false
	hashes := []hash{first.hash}
	slices.SortFunc(due, func(x, y *localTorrent) int { return x.said.Compare(y.said) })
	for _, t := range due {
		if len(hashes) < maxLocalHashes && now.Sub(t.said) >= localEvery {
			t.said = now
			hashes = append(hashes, t.hash)
		}
	}
	return hashes
}

// rank is 0 for what begins to be fetched, and for what greets, which cannot wait.
func (t *localTorrent) rank() int {
	if (t.fetched || t.greets) && t.said.IsZero() {
		return 0
	}
	return 1
}

// hear takes what somebody of a network says. Nothing is kept of what is not ours.
func (l *locals) hear(from netip.Addr, b []byte) {
	m, err := parseLocal(b)
	if err != nil || m.cookie == l.cookie {
		return
	}
	for _, h := range m.hashes {
		if give := l.met(h, netip.AddrPortFrom(from, m.port), time.Now()); give != nil {
			give(netip.AddrPortFrom(from, m.port))
		}
	}
}

// met returns how to give a torrent a peer, nil if it is not to have it.
func (l *locals) met(h hash, at netip.AddrPort, now time.Time) func(netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.torrents[h]
	if t == nil {
		return nil
	}
	if _, known := l.neighbours[at]; l.neighbours.note(at, now, maxNeighbours) && !known && !t.fetched {
		t.greets, t.led, t.said = true, time.Time{}, time.Time{} // so that we are its neighbour, too
	}
	if before, known := t.peers[at]; known && now.Sub(before) < localAgain {
		return nil
	}
	if !t.peers.note(at, now, maxLocalPeers) || !l.tries.AllowN(now, 1) {
		return nil
	}
	if len(l.retries) < maxRetries {
		l.retries = append(l.retries, retry{now.Add(localRetry), h, at})
	}
	l.log.Debug("peer of the local network", slog.String("address", at.String()))
	return t.give
}
