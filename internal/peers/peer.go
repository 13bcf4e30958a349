package peers

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"ersatz/internal/nodeapi"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/transport/peer"
	"ersatz/internal/upstream"
)

const (
	// mute is how long a server that answers no questions of peers is not asked
	// any.
	mute = time.Hour

	// One that did not answer in time is not asked what it has for firstRest, and
	// twice as long each time that it happens again, up to lastRest. It may be
	// busy with giving blocks, so this is no failure.
	firstRest = 5 * time.Second
	lastRest  = 5 * time.Minute
)

// Peer is one node or server. It is the same while it is known.
type Peer struct {
	host   string // of its URL, without a port
	server *upstream.Server
	blocks *n2r.Client
	client *peer.Client

	mu      sync.Mutex
	about   nodeapi.Peer  // but for what is learnt
	rests   time.Time     // until when it is not asked what it has
	slow    time.Duration // for how long it rested last because it was slow
	plain   bool          // it answers no questions of peers
	answers answers
}

// newPeer returns the peer at a URL.
func newPeer(base string, hc *http.Client) (*Peer, error) {
	client, err := peer.New(base, hc)
	if err != nil {
		return nil, err
	}
	server, err := upstream.ParsePeer(base)
	if err != nil {
		return nil, err
	}
	blocks, err := n2r.New(server.URL(), hc)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, err
	}
	return &Peer{host: u.Hostname(), server: server, blocks: blocks, client: client, answers: answers{}}, nil
}

// Name returns what the peer is called: its URL, without a slash at its end nor a password.
func (p *Peer) Name() string { return p.server.String() }

// Near reports whether the peer is on the local network: it was found there, or
// it was named and has a private, link-local or loopback address.
func (p *Peer) Near() bool { return p.server.Near() }

// tell takes what was heard of the peer.
func (p *Peer) tell(about nodeapi.Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if about.Seen.Before(p.about.Seen) {
		about.Seen = p.about.Seen // it has answered since
	}
	p.about = about
}

// what returns what is known of the peer.
func (p *Peer) what(now time.Time) nodeapi.Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	about := p.about
	about.Near = p.Near()
	if about.Named && p.plain {
		about.Kind = nodeapi.KindPublish
	}
	if p.slow > 0 && now.Before(p.rests) {
		about.Error = fmt.Sprintf("did not say in time what it has, is asked again in %v", p.rests.Sub(now).Round(time.Second))
	}
	return about
}

// asked reports whether the peer may be asked what it has.
func (p *Peer) asked(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !now.Before(p.rests)
}

// answered notes that the peer has said what it has.
func (p *Peer) answered(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.about.Seen, p.slow, p.plain = now, 0, false
}

// mute has a server not asked what it has.
func (p *Peer) mute(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rests, p.slow, p.plain = now.Add(mute), 0, true
}

// rest has a slow peer left alone. Those who asked at the same time share that.
func (p *Peer) rest(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Before(p.rests) {
		return
	}
	p.slow = max(firstRest, min(2*p.slow, lastRest))
	p.rests = now.Add(p.slow)
}

// local reports whether an address is one of the local network or this machine.
func local(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsPrivate() || a.IsLinkLocalUnicast() || a.IsLoopback()
}

// resolve returns the addresses of a host as the system knows them.
func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(host, ".")); err == nil {
		return []netip.Addr{a}, nil
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}
