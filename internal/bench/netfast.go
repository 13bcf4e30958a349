package bench

import (
	"context"
	"fmt"

	"ersatz/internal/bench/netlab"
	"ersatz/internal/realguix"
)

// fast is a line on which nothing is to be gained but by doing less.
func (n *network) fast(ctx context.Context) ([]Table, error) {
	size, runs := int64(55_000_000), 5
	if n.o.Short {
		size, runs = 3_000_000, 1
	}
	link := netlab.Link{Rate: 1000 * netlab.Mbit}
	from, items, err := n.origin(ctx, link, func(s *shelf) ([]item, error) {
		i, err := s.add(ctx, "item", nil, func(path string) error { return realguix.MakePackage(path, 2, int(size/20_000), size) })
		return []item{i}, err
	})
	if err != nil {
		return nil, err
	}
	client, err := n.host(ctx, "client", link)
	if err != nil {
		return nil, err
	}
	t := Table{
		Title: "A fast line without faults",
		Note: fmt.Sprintf("1 Gbit/s, nothing lost, no latency: one item of %s MB in many files, %s MB compressed. All that remains is work, and a node adds some: "+
			"the origin encrypts each block as it is asked for, the node verifies and decrypts it, decompresses and hashes the nar, and hands it over to a client that hashes it again. "+
			"All processes share the cores of one machine; where a node is slower than stock Guix, it is by this.",
			number(float64(items[0].nar.Size)/1e6), number(float64(from.packed(items...))/1e6)),
		Head: waysHead,
	}
	return n.inTurns(ctx, t, runs, client, from, items, stockWay(), aloneWay(), nodeWay(), loopbackWay())
}
