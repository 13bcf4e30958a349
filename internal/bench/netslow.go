package bench

import (
	"context"
	"fmt"

	"ersatz/internal/bench/netlab"
	"ersatz/internal/realguix"
)

// slowLink is that of an origin far away.
func slowLink() netlab.Link { return netlab.Link{Rate: 200 * netlab.Kbit, Loss: 5} }

// slow has an origin behind a slow and lossy line, and a peer on the local
// network that has the items.
func (n *network) slow(ctx context.Context) ([]Table, error) {
	large, small := int64(55_000_000), int64(1_500_000)
	if n.o.Short {
		large, small = 1_500_000, 60_000
	}
	from, items, err := n.origin(ctx, netlab.Link{}, func(s *shelf) ([]item, error) {
		var items []item
		for _, size := range []int64{small, large} {
			i, err := s.add(ctx, fmt.Sprintf("of-%d", size), nil, func(path string) error {
				return realguix.MakePackage(path, 2, int(size/20_000)+2, size)
			})
			if err != nil {
				return nil, err
			}
			items = append(items, i)
		}
		return items, nil
	})
	if err != nil {
		return nil, err
	}
	peer, err := n.host(ctx, "peer", netlab.Link{})
	if err != nil {
		return nil, err
	}
	has, err := n.station(ctx, peer, nodeWay().sharing(), from)
	if err != nil {
		return nil, err
	}
	defer has.stop()
	for _, i := range items {
		if _, err := has.build(ctx, []item{i}); err != nil {
			return nil, err
		}
	}
	if err := from.SetLink(ctx, slowLink()); err != nil {
		return nil, err
	}
	client, err := n.host(ctx, "client", netlab.Link{})
	if err != nil {
		return nil, err
	}
	t := Table{
		Title: "An origin at 200 kbit/s with 5 % loss, and a peer on the local network",
		Note: fmt.Sprintf("Small: a nar of %s MB, %s MB compressed. Large: %s MB, %s MB compressed. Each is installed to the end, with nothing known of it before. "+
			"Stock Guix and ersatz-substitute alone have the origin only; the node has a peer that got both items before.",
			number(float64(items[0].nar.Size)/1e6), number(float64(from.packed(items[0]))/1e6), number(float64(items[1].nar.Size)/1e6), number(float64(from.packed(items[1]))/1e6)),
		Head: []string{"what", "small: wall", "small: sent by the origin", "large: wall", "large: sent by the origin", "peak memory of the node"},
	}
	for _, by := range []way{stockWay(), aloneWay(), nodeWay(), loopbackWay()} {
		row := []string{by.name}
		var node series
		for k := range items {
			if k == 1 && by.name == aloneWay().name {
				row = append(row, "not run", "not run") // the line is full: it takes what stock Guix takes
				continue
			}
			by := by.sharing()
			by.meets = 1
			got, err := n.install(ctx, client, by, from, items[k:k+1])
			if err != nil {
				return nil, err
			}
			node = append(node, got.nodeMemory()...)
			if by.node && got.sent > from.packed(items[k])/2 {
				return nil, fmt.Errorf("%s: the origin has sent %d bytes of %d that a peer has", by.name, got.sent, from.packed(items[k]))
			}
			row = append(row, seconds.one(got.wall.Seconds()), megabyte.one(float64(got.sent)))
		}
		t.Rows = append(t.Rows, append(row, memory(node)))
	}
	return []Table{t}, nil
}
