// Package peers knows who else a node asks: nodes named on the command line,
// and nodes and substitute servers found on the local network. docs/node.md,
// "Peers", says what they are asked for.
//
// Nobody is trusted here: what peers claim is a hint, and Book remembers whose
// were wrong.
package peers

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"ersatz/internal/discover"
	"ersatz/internal/fetch"
	"ersatz/internal/nodeapi"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/upstream"
)

const (
	maxNamed  = 64 // peers given to New
	maxFound  = 64 // peers of the browser that are used
	maxAsked  = 32 // nodes, or servers, that are asked for one thing
	lookEvery = 10 * time.Minute
)

// Browser finds peers: *discover.Browser. It is safe for concurrent use.
type Browser interface {
	// Peers returns who is known now.
	Peers() []discover.Peer
	// Run looks for peers until ctx ends.
	Run(ctx context.Context) error
}

// Options are the optional parts of a Set. The zero value works.
type Options struct {
	// Now returns the time. Default time.Now.
	Now func() time.Time

	// Log takes what an operator acts on. Default: nothing is logged.
	Log *slog.Logger

	// Resolve returns the addresses of a host. Default: those that the system
	// knows.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Set knows the peers of a node. It is safe for concurrent use.
type Set struct {
	o       Options
	http    *http.Client
	browser Browser // or nil
	book    *fetch.Book
	named   []*Peer
	work    sync.WaitGroup // of requests

	mu    sync.Mutex
	found map[string]*Peer // by URL
	ended bool             // no more requests are made
}

// New returns a Set of the nodes at the URLs in named, 64 at most, and of whom
// browser finds, if it is not nil. They are asked with hc, and redirects are not
// followed. book says who is fit to be asked.
func New(hc *http.Client, named []string, browser Browser, book *fetch.Book, o Options) (*Set, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Resolve == nil {
		o.Resolve = resolve
	}
	if len(named) > maxNamed {
		return nil, fmt.Errorf("%d peers, limit %d", len(named), maxNamed)
	}
	s := &Set{o: o, http: httpclient.Stay(hc), browser: browser, book: book, found: map[string]*Peer{}}
	for _, url := range named {
		p, err := newPeer(url, s.http)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(s.named, func(o *Peer) bool { return o.Name() == p.Name() }) {
			return nil, fmt.Errorf("peer %s is given twice", p.Name())
		}
		p.about = nodeapi.Peer{Name: p.Name(), URL: p.Name(), Kind: nodeapi.KindNode, Named: true, Since: o.Now()}
		s.named = append(s.named, p)
	}
	return s, nil
}

// Run browses, and looks up where the named peers are, until ctx ends and the
// requests that run have ended too, which takes 2 seconds at most.
func (s *Set) Run(ctx context.Context) error {
	var group errgroup.Group
	if s.browser != nil {
		group.Go(func() error { return s.browser.Run(ctx) })
	}
	group.Go(func() error {
		s.locate(ctx)
		return nil
	})
	err := group.Wait()
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.work.Wait()
	return err
}

// locate finds out again and again which of the named peers are near.
func (s *Set) locate(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		for _, p := range s.named {
			addrs, err := s.o.Resolve(ctx, p.host)
			if err != nil && ctx.Err() == nil {
				s.o.Log.WarnContext(ctx, "address of a peer", slog.String("peer", p.Name()), slog.Any("error", err))
			}
			p.server.SetNear(len(addrs) > 0 && !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !local(a) }))
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// all returns the peers that are known now: named ones, then those found.
func (s *Set) all() []*Peer {
	if s.browser == nil {
		return s.named
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	heard := s.browser.Peers() // under the lock: an older list must not follow a newer one
	heard = heard[:min(len(heard), maxFound)]
	peers, before := slices.Clone(s.named), s.found
	s.found = map[string]*Peer{}
	for _, h := range heard {
		url := strings.TrimRight(h.URL, "/")
		if s.found[url] != nil || slices.ContainsFunc(s.named, func(p *Peer) bool { return p.Name() == url }) {
			continue // the same by another name
		}
		p := before[url]
		if p == nil {
			var err error
			if p, err = newPeer(url, s.http); err != nil {
				s.o.Log.Debug("peer cannot be used", slog.String("name", h.Name), slog.Any("error", err))
				continue
			}
			p.server.SetNear(true)
		}
		p.tell(nodeapi.Peer{Name: h.Name, URL: url, Kind: string(h.Kind), Since: h.Since, Seen: h.Seen})
		s.found[url] = p
		peers = append(peers, p)
	}
	return peers
}

// Nodes returns those who may be asked what they have, near and fast ones first,
// 32 at most.
func (s *Set) Nodes() []*Peer {
	now := s.o.Now()
	return s.best(s.all(), func(p *Peer) bool { return p.asked(now) })
}

// Servers returns the peers as places of narinfos and nars, in the order of
// Nodes, 32 at most: substitute servers, and nodes, which have the narinfos of
// what they share. The pointers stay the same while a peer is known.
func (s *Set) Servers() []*upstream.Server { return s.servers(s.all()) }

// Named is Servers without those that were found: anybody can be among these.
func (s *Set) Named() []*upstream.Server { return s.servers(s.named) }

// NearServers is Servers without nodes, which answer Have, and without what is
// not on the local network. What these have is only known by asking for narinfos.
func (s *Set) NearServers() []*upstream.Server {
	now := s.o.Now()
	return s.servers(slices.DeleteFunc(slices.Clone(s.all()), func(p *Peer) bool {
		about := p.what(now)
		return !about.Near || about.Kind == nodeapi.KindNode
	}))
}

func (s *Set) servers(peers []*Peer) []*upstream.Server {
	var servers []*upstream.Server
	for _, p := range s.best(peers, func(*Peer) bool { return true }) {
		servers = append(servers, p.server)
	}
	return servers
}

// best returns those of the peers that may be asked now, best first.
func (s *Set) best(peers []*Peer, also func(*Peer) bool) []*Peer {
	var fit []*Peer
	cost := map[*Peer]time.Duration{}
	for _, p := range peers {
		if s.book.Usable(p.Name()) == nil && also(p) {
			l := s.book.Prior(p.Name())
			fit, cost[p] = append(fit, p), l.Latency+l.Pace
		}
	}
	slices.SortStableFunc(fit, func(a, b *Peer) int {
		return cmp.Or(order(a.Near(), b.Near()), order(cost[a] > 0, cost[b] > 0), cmp.Compare(cost[a], cost[b]))
	})
	return fit[:min(len(fit), maxAsked)]
}

// order puts true before false.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// Source returns a peer as a source of blocks.
func (s *Set) Source(p *Peer) fetch.Source {
	return fetch.Source{Name: p.Name(), Fetcher: p.blocks, Near: p.Near(), Prior: s.book.Prior(p.Name())}
}

// List returns all that are known, for people: named ones first.
func (s *Set) List() []nodeapi.Peer {
	list := []nodeapi.Peer{}
	for _, p := range s.all() {
		e, about := s.book.Entry(p.Name()), p.what(s.o.Now())
		about.LatencyMS = float64(e.Learnt.Latency) / float64(time.Millisecond)
		about.PerBlockMS = float64(e.Learnt.Pace) / float64(time.Millisecond)
		about.Blocks, about.Bytes = e.Blocks, e.Bytes
		if err := s.book.Usable(p.Name()); err != nil {
			about.Error = err.Error()
		}
		list = append(list, about)
	}
	return list
}
