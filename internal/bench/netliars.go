package bench

import (
	"context"
	"fmt"

	"ersatz/internal/bench/netlab"
)

const faultyPort = 8182

// faultyPeer gives a host a node that has the items, which other hosts reach
// only through a proxy that spoils its answers.
func (n *network) faultyPeer(ctx context.Context, h *netHost, f fault, from *origin, items []item) (*faultyProxy, error) {
	s, err := n.station(ctx, h, nodeWay(), from)
	if err != nil {
		return nil, err
	}
	n.cleanup = append(n.cleanup, func() error { s.stop(); return nil })
	if _, err := s.build(ctx, items); err != nil {
		return nil, err
	}
	l, err := h.Listen(ctx, faultyPort)
	if err != nil {
		return nil, err
	}
	// What the proxy asks comes from this host itself, so the node gives it all.
	p := newFaultyProxy(l, nodeAddr, h.Dial, f)
	n.cleanup = append(n.cleanup, p.close)
	return p, nil
}

// liars has a peer lie, one stall and one reset connections.
func (n *network) liars(ctx context.Context) ([]Table, error) {
	from, items, err := n.origin(ctx, netlab.Link{}, func(s *shelf) ([]item, error) { return n.swarmItems(ctx, s) })
	if err != nil {
		return nil, err
	}
	faults := []fault{lies, stalls, resets}
	peers, err := n.hosts(ctx, len(faults), "peer", netlab.Link{})
	if err != nil {
		return nil, err
	}
	var proxies []*faultyProxy
	var urls []string
	for k, h := range peers {
		p, err := n.faultyPeer(ctx, h, faults[k], from, items)
		if err != nil {
			return nil, err
		}
		proxies = append(proxies, p)
		urls = append(urls, fmt.Sprintf("http://%s:%d", h.Addr(), faultyPort))
	}
	clients, err := n.hosts(ctx, 2, "client", n.swarmLink())
	if err != nil {
		return nil, err
	}
	for _, h := range append(peers, from.netHost) {
		if err := h.SetLink(ctx, n.swarmLink()); err != nil {
			return nil, err
		}
	}
	all, err := n.stations(ctx, clients, from, []way{nodeWay(), loopbackWay()}, urls...)
	if err != nil {
		return nil, err
	}
	defer stopAll(all)
	trips, err := together(ctx, from, items, all...)
	if err != nil {
		return nil, err
	}
	telling := 0
	for _, s := range all {
		if names(s.node.log(), urls[0]) {
			telling++
		}
	}
	if telling < len(all) {
		return nil, all[0].failed(fmt.Errorf("%s has lied and is not named in every log", urls[0]))
	}
	for k, p := range proxies {
		if p.spoilt.Load() == 0 {
			return nil, all[0].failed(fmt.Errorf("%s, which %s, was not asked for enough to do so", peers[k].Name(), p.fault))
		}
	}
	sum := summary(trips)
	return []Table{{
		Title: "A peer that lies, one that stalls and one that resets connections",
		Note: fmt.Sprintf("The same closure and lines. Behind a proxy each, three nodes have all of it: one lies in every tenth block, "+
			"one gives %d MiB and then nothing, one resets each connection after %d kB. Two hosts that know these peers, each other and the origin begin at the same time, "+
			"one with ersatz-substitute and one with stock Guix over loopback. All complete, and nothing wrong is installed.", stallAfter>>20, resetAfter/1000),
		Head: []string{"what", "figure"},
		Rows: [][]string{
			{"complete", fmt.Sprintf("%d of %d", len(trips), len(trips))},
			{"name the liar in their log", fmt.Sprintf("%d of %d", telling, len(all))},
			{"lies, stalls, resets", fmt.Sprintf("%d, %d, %d", proxies[0].spoilt.Load(), proxies[1].spoilt.Load(), proxies[2].spoilt.Load())},
			{"wall, the last of them", seconds.one(sum.wall.Seconds())},
			{"sent by the origin", megabyte.one(float64(sum.sent))},
			{"peak memory of a node", memory(sum.nodeMemory())},
		},
	}}, nil
}
