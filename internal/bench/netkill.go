package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ersatz/internal/bench/netlab"
	"ersatz/internal/realguix"
)

// killed has node and substituter killed again and again in the middle of an
// item.
func (n *network) killed(ctx context.Context) ([]Table, error) {
	size, times, link := int64(220_000_000), 10, n.swarmLink()
	if n.o.Short {
		size, times = 60_000_000, 3
	}
	from, items, err := n.origin(ctx, link, func(s *shelf) ([]item, error) {
		i, err := s.add(ctx, "long", nil, func(path string) error { return realguix.MakePackage(path, 4, 300, size) })
		return []item{i}, err
	})
	if err != nil {
		return nil, err
	}
	h, err := n.host(ctx, "client", netlab.Link{})
	if err != nil {
		return nil, err
	}
	whole, err := n.install(ctx, h, nodeWay(), from, items)
	if err != nil {
		return nil, err
	}
	s, err := n.station(ctx, h, nodeWay(), from)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	before, err := from.Traffic()
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	for k := range times {
		// Of the whole, so that each time there is something new.
		if err := s.killAt(ctx, from, before, items, whole.sent*int64(k+1)/int64(times+1)); err != nil {
			return nil, s.failed(fmt.Errorf("kill %d: %w", k+1, err))
		}
	}
	last, err := s.build(ctx, items)
	if err != nil {
		return nil, err
	}
	wall := time.Since(begin)
	after, err := from.Traffic()
	if err != nil {
		return nil, err
	}
	sent := after.Since(before).Sent
	twice := 100 * float64(sent-whole.sent) / float64(whole.sent)
	if twice >= 5 {
		return nil, s.failed(fmt.Errorf("%.1f %% was fetched twice", twice))
	}
	return []Table{{
		Title: fmt.Sprintf("Node and substituter killed %d times", times),
		Note: fmt.Sprintf("One nar of %s MB, %s MB compressed, from an origin at %d Mbit/s. Both processes get SIGKILL one right after the other, "+
			"each time that another %dth of the item has come; then the node is started and the item is asked for again.",
			number(float64(items[0].nar.Size)/1e6), number(float64(from.packed(items...))/1e6), link.Rate/netlab.Mbit, times+1),
		Head: []string{"what", "never killed", "killed"},
		Rows: [][]string{
			{"wall", seconds.one(whole.wall.Seconds()), seconds.one(wall.Seconds())},
			{"sent by the origin", megabyte.one(float64(whole.sent)), megabyte.one(float64(sent))},
			{"fetched twice", "nothing", number(twice) + " %"},
			{"peak memory of the node", memory(whole.nodeMemory()), memory(last.nodeMemory())},
		},
	}}, nil
}

// killAt builds the items until the origin has sent so many bytes since
// before, kills the substituter and the node, and starts the node anew.
func (s *station) killAt(ctx context.Context, from *origin, before netlab.Traffic, items []item, bytes int64) error {
	done := make(chan struct{})
	var built error
	go func() {
		defer close(done)
		_, built = s.machine.Build(ctx, items[len(items)-1].Path)
	}()
	err := until(ctx, done, func() (bool, error) {
		now, err := from.Traffic()
		return now.Since(before).Sent >= bytes, err
	})
	if err != nil {
		<-done
		return errors.Join(err, built)
	}
	pids, err := s.machine.Processes("substitute --substitute")
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return errors.New("no substituter runs")
	}
	if err := s.machine.Signal(ctx, "KILL", pids...); err != nil {
		return err
	}
	s.node.kill()
	if <-done; built == nil {
		return errors.New("the item was built without a substituter")
	}
	s.n.o.Log.InfoContext(ctx, "killed", slog.Int64("sent", bytes))
	return s.node.start(ctx)
}
