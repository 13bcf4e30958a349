package bench

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"ersatz/internal/bench/netlab"
	"ersatz/internal/realguix"
)

// slowLink is that of an origin far away.
func slowLink() netlab.Link { return netlab.Link{Rate: 200 * netlab.Kbit, Loss: 5} }

// slow is scenario (d): an origin behind a slow and lossy line.
func (n *network) slow(ctx context.Context) ([]Table, error) {
	large, small, during := int64(55_000_000), int64(1_500_000), 2*time.Minute
	if n.o.Short {
		large, small, during = 3_000_000, 60_000, time.Second
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
	sizes := make([]float64, len(items))
	for k, i := range items {
		info, err := bake(ctx, from.client, from.url, i.Path)
		if err != nil {
			return nil, err
		}
		sizes[k] = float64(info.Nars[0].FileSize)
	}
	if err := from.SetLink(ctx, slowLink()); err != nil {
		return nil, err
	}
	client, err := n.host(ctx, "client", netlab.Link{})
	if err != nil {
		return nil, err
	}
	t := Table{
		Title: "Origin at 200 kbit/s with 5 % loss, nobody else",
		Note: fmt.Sprintf("Small: a nar of %s MB, %s MB compressed, installed. Large: %s MB, %s MB compressed; the rate at which the client received "+
			"frames is measured over %v, and the time for the whole is **extrapolated** from it (compressed size, and 1514 bytes on the line for each 1448 of it).",
			number(float64(items[0].nar.Size)/1e6), number(sizes[0]/1e6), number(float64(items[1].nar.Size)/1e6), number(sizes[1]/1e6), during),
		Head: []string{"what", "small: wall", "small: sent by the origin", "large: rate", "large: extrapolated"},
	}
	for _, by := range []asker{stockAsker(), ersatzAsker()} {
		got, err := n.install(ctx, client, by, from, items[:1])
		if err != nil {
			return nil, err
		}
		rate, err := n.progress(ctx, client, by, from.url, items[1], during)
		if err != nil {
			return nil, err
		}
		n.o.Log.InfoContext(ctx, "large item", slog.String("by", by.name), slog.Float64("bytes_per_second", rate))
		t.Rows = append(t.Rows, []string{by.name, seconds.cell(series{got.wall.Seconds()}), megabyte.cell(series{float64(got.sent)}),
			number(rate*8/1000) + " kbit/s", number(sizes[1]*1514/1448/rate) + " s"})
	}
	return []Table{t}, nil
}
