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

// closure is scenario (e): many small items from far away.
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
	var us, them trips
	for range runs {
		for _, side := range []struct {
			by asker
			to *trips
		}{{ersatzAsker(), &us}, {stockAsker(), &them}} {
			t, err := n.install(ctx, client, side.by, from, items)
			if err != nil {
				return nil, err
			}
			side.to.add(t)
		}
	}
	var size int64
	for _, i := range items {
		size += i.nar.Size
	}
	t := Table{
		Title: fmt.Sprintf("A closure of %d small items over %v of latency", count, 2*delay),
		Note:  fmt.Sprintf("%s MB of nars; a round trip takes %v. One guix-daemon, which asks for one item after another.", number(float64(size)/1e6), 2*delay),
		Head:  compareHead,
	}
	t.compare("wall", seconds, us.wall, them.wall)
	t.compare("sent by the origin", megabyte, us.sent, them.sent)
	t.compare("peak memory of a substituter", mebibytes, us.peak, them.peak)
	return []Table{t}, nil
}
