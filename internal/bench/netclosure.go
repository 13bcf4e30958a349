package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"ersatz/internal/bench/netlab"
	"ersatz/internal/realguix"
	"ersatz/storepath"
)

var megabyte = unit{name: "MB", scale: 1e-6}

// closureOf makes count small items, each of which refers to some of those
// before it, and the last to all.
func closureOf(ctx context.Context, s *shelf, count int) ([]item, error) {
	r := rand.New(rand.NewPCG(1, 2))
	var items []item
	var paths []storepath.Path
	for k := range count {
		var refs []storepath.Path
		for range min(k, 3) {
			refs = append(refs, paths[r.IntN(k)])
		}
		if k == count-1 {
			refs = append(refs[:0], paths...)
		}
		size := int64(2_000 * (1 << r.IntN(5))) // 2 to 32 kB
		i, err := s.add(ctx, fmt.Sprintf("small-%03d", k), unique(refs), func(path string) error {
			return realguix.MakePackage(path, uint64(k), 4, size)
		})
		if err != nil {
			return nil, err
		}
		items, paths = append(items, i), append(paths, i.Path)
	}
	return items, nil
}

// unique returns the paths without those that came before.
func unique(paths []storepath.Path) (list []storepath.Path) {
	seen := map[storepath.Path]bool{}
	for _, p := range paths {
		if !seen[p] {
			list = append(list, p)
		}
		seen[p] = true
	}
	return list
}

// closure has many small items from far away.
func (n *network) closure(ctx context.Context) ([]Table, error) {
	count, runs, delay := 300, 3, 40*time.Millisecond
	if n.o.Short {
		count, runs, delay = 8, 1, 5*time.Millisecond
	}
	from, items, err := n.origin(ctx, netlab.Link{Delay: delay}, func(s *shelf) ([]item, error) { return closureOf(ctx, s, count) })
	if err != nil {
		return nil, err
	}
	client, err := n.host(ctx, "client", netlab.Link{})
	if err != nil {
		return nil, err
	}
	var size int64
	for _, i := range items {
		size += i.nar.Size
	}
	t := Table{
		Title: fmt.Sprintf("A closure of %d small items over %v of latency", count, 2*delay),
		Note: fmt.Sprintf("%s MB of nars; a round trip takes %v. One guix-daemon, which asks for one item after another; the node has just been started and knows nothing.",
			number(float64(size)/1e6), 2*delay),
		Head: waysHead,
	}
	return n.inTurns(ctx, t, runs, client, from, items, stockWay(), aloneWay(), nodeWay(), loopbackWay())
}

// waysHead is the head of tables that inTurns fills.
var waysHead = []string{"what", "wall", "ahead of stock Guix", "sent by the origin", "processor time of origin and node", "peak memory of a substituter", "of the node"}

// inTurns has a host get items in several ways, all of them runs times, and
// adds a row for each. The first is what the others are compared with.
func (n *network) inTurns(ctx context.Context, t Table, runs int, h *netHost, from *origin, items []item, ways ...way) ([]Table, error) {
	figures := make([]trips, len(ways))
	for range runs {
		for k, by := range ways {
			got, err := n.install(ctx, h, by, from, items)
			if err != nil {
				return nil, err
			}
			figures[k].add(got)
		}
	}
	for k, by := range ways {
		f := figures[k]
		t.Rows = append(t.Rows, []string{by.name, seconds.cell(f.wall), seconds.ahead(f.wall, figures[0].wall), megabyte.cell(f.sent), seconds.cell(f.work), mebibytes.cell(f.peak), memory(f.node)})
	}
	return []Table{t}, nil
}
