package bench

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"ersatz/internal/bench/netlab"
	"ersatz/internal/realguix"
	"ersatz/storepath"
)

// swarmLink is the line of each host of swarm, orphans, liars and killed.
func (n *network) swarmLink() netlab.Link {
	if n.o.Short {
		return netlab.Link{Rate: 30 * netlab.Mbit}
	}
	return netlab.Link{Rate: 10 * netlab.Mbit}
}

// swarmSize is the size of a nar there, which packs to about a quarter.
func (n *network) swarmSize() int64 {
	if n.o.Short {
		return 24_000_000
	}
	return 110_000_000
}

// swarmItems makes two large items and a small one that refers to both.
func (n *network) swarmItems(ctx context.Context, s *shelf) ([]item, error) {
	var items []item
	var refs []storepath.Path
	for k := range 2 {
		i, err := s.add(ctx, fmt.Sprintf("large-%d", k), nil, func(path string) error {
			return realguix.MakePackage(path, uint64(k), 200, n.swarmSize())
		})
		if err != nil {
			return nil, err
		}
		items, refs = append(items, i), append(refs, i.Path)
	}
	i, err := s.add(ctx, "small", refs, func(path string) error { return realguix.MakePackage(path, 9, 10, 100_000) })
	return append(items, i), err
}

// hosts adds several, with names that end in a number.
func (n *network) hosts(ctx context.Context, count int, name string, link netlab.Link) ([]*netHost, error) {
	var all []*netHost
	for k := range count {
		h, err := n.host(ctx, fmt.Sprintf("%s%d", name, k+1), link)
		if err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	return all, nil
}

// stations prepares hosts whose nodes share, and waits until these have found
// each other. by says how each gets substitutes; peers are nodes that all know.
func (n *network) stations(ctx context.Context, hosts []*netHost, from *origin, by []way, peers ...string) ([]*station, error) {
	var all []*station
	for k, h := range hosts {
		s, err := n.station(ctx, h, by[k].sharing(peers...), from)
		if err != nil {
			stopAll(all)
			return nil, err
		}
		all = append(all, s)
	}
	for _, s := range all {
		if s.node == nil {
			continue
		}
		if err := s.node.find(ctx, len(hosts)-1+len(peers)); err != nil {
			stopAll(all)
			return nil, s.failed(err)
		}
	}
	return all, nil
}

func stopAll(all []*station) {
	for _, s := range all {
		s.stop()
	}
}

const swarmHosts = 4

// swarm has four hosts get the same closure at the same time.
func (n *network) swarm(ctx context.Context) ([]Table, error) {
	from, items, err := n.origin(ctx, n.swarmLink(), func(s *shelf) ([]item, error) { return n.swarmItems(ctx, s) })
	if err != nil {
		return nil, err
	}
	hosts, err := n.hosts(ctx, swarmHosts, "host", n.swarmLink())
	if err != nil {
		return nil, err
	}
	t := Table{
		Title: fmt.Sprintf("An origin and %d nodes, each with a line of %d Mbit/s", swarmHosts, n.swarmLink().Rate/netlab.Mbit),
		Note: fmt.Sprintf("The nodes find each other by DNS-SD. All begin at the same time with the same closure: two nars of %s MB and a small one, %s MB compressed in all. "+
			"The time is that of the last to have it, memory that of the greatest.",
			number(float64(items[0].nar.Size)/1e6), number(float64(from.packed(items...))/1e6)),
		Head: []string{"what", "wall", "sent by the origin", "of one copy", "peak memory of a node"},
	}
	ways, limit := []way{stockWay(), nodeWay(), loopbackWay()}, 2.0
	if n.o.Short {
		ways, limit = ways[1:], 3 // of less, more has come before they know what others have
	}
	for _, by := range ways {
		all, err := n.swarmBy(ctx, hosts, by, from, items)
		if err != nil {
			return nil, err
		}
		sum := summary(all)
		copies := float64(sum.sent) / float64(from.packed(items...))
		if by.node && copies > limit {
			return nil, fmt.Errorf("%s: the origin has sent %.1f copies to %d hosts", by.name, copies, swarmHosts)
		}
		t.Rows = append(t.Rows, []string{by.name, seconds.one(sum.wall.Seconds()), megabyte.one(float64(sum.sent)),
			number(copies) + "×", memory(sum.nodeMemory())})
	}
	return []Table{t}, nil
}

func (n *network) swarmBy(ctx context.Context, hosts []*netHost, by way, from *origin, items []item) ([]trip, error) {
	all, err := n.stations(ctx, hosts, from, slices.Repeat([]way{by}, len(hosts)))
	if err != nil {
		return nil, err
	}
	defer stopAll(all)
	return together(ctx, from, items, all...)
}

// orphans has the origin killed when one host has a closure and the others are
// in the middle of it.
func (n *network) orphans(ctx context.Context) ([]Table, error) {
	from, items, err := n.origin(ctx, n.swarmLink(), func(s *shelf) ([]item, error) { return n.swarmItems(ctx, s) })
	if err != nil {
		return nil, err
	}
	hosts, err := n.hosts(ctx, swarmHosts, "host", n.swarmLink())
	if err != nil {
		return nil, err
	}
	all, err := n.stations(ctx, hosts, from, []way{nodeWay(), nodeWay(), nodeWay(), loopbackWay()})
	if err != nil {
		return nil, err
	}
	defer stopAll(all)
	first, err := all[0].build(ctx, items)
	if err != nil {
		return nil, err
	}
	before, err := from.Traffic()
	if err != nil {
		return nil, err
	}
	var trips []trip
	done := make(chan struct{})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		defer close(done)
		trips, err = together(ctx, from, items, all[1:]...)
		return err
	})
	group.Go(func() error {
		err := until(ctx, done, func() (bool, error) {
			got, err := received(all[1:]...)
			return got >= from.packed(items...)*int64(len(all)-1)/2, err
		})
		from.server.Stop()
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	after, err := from.Traffic()
	if err != nil {
		return nil, err
	}
	sum := summary(append(trips, first))
	return []Table{{
		Title: "An origin that is killed half way",
		Note: fmt.Sprintf("The same closure and lines. One host has it; %d begin at the same time, and the origin is killed when they have received half. "+
			"One of them is stock Guix that asks its node over loopback. All complete.", len(trips)),
		Head: []string{"what", "figure"},
		Rows: [][]string{
			{"complete", fmt.Sprintf("%d of %d", len(trips), len(trips))},
			{"wall, the last of them", seconds.one(summary(trips).wall.Seconds())},
			{"sent by the origin until it was killed", megabyte.one(float64(after.Since(before).Sent))},
			{"peak memory of a node", memory(sum.nodeMemory())},
		},
	}}, nil
}
