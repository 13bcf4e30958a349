package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"ersatz/internal/bench/netlab"
	"ersatz/internal/realguix"
)

// way is how the guix-daemon of a host gets substitutes.
type way struct {
	name     string
	env      []string // of guix-daemon
	node     bool     // a node runs beside it
	flags    []string // of the node, beside those that all have
	meets    int      // others that the node is to know before it is used
	loopback bool     // the node is the daemon's only server, in place of the origin
}

// sharing has the node give other hosts what the origin has signed. peers are
// URLs of nodes that it asks, beside those that it finds.
func (w way) sharing(peers ...string) way {
	w.flags = []string{fmt.Sprintf("--listen=0.0.0.0:%d", nodePort), "--share=lan", "--share-list=/etc/guix/acl"}
	for _, url := range peers {
		w.flags = append(w.flags, "--peer="+url)
	}
	return w
}

// The ways that are compared.
func stockWay() way { return way{name: "stock Guix"} }
func aloneWay() way {
	return way{name: "ersatz-substitute alone", env: []string{"GUIX=/usr/local/bin/ersatz-guix"}}
}
func nodeWay() way {
	return way{name: "ersatz-substitute with a node", env: aloneWay().env, node: true}
}
func loopbackWay() way {
	return way{name: "stock Guix through a node", node: true, loopback: true}
}

// station is a host whose machine runs a guix-daemon, and a node if its way
// has one.
type station struct {
	*netHost
	n      *network
	by     way
	daemon *realguix.Daemon
	node   *nodeServer // nil if there is none
	begin  netlab.Traffic
}

// station gives a host a machine that knows nothing, and starts what its way
// has.
func (n *network) station(ctx context.Context, h *netHost, by way, from *origin) (_ *station, err error) {
	if err := n.boot(h); err != nil {
		return nil, err
	}
	s := &station{netHost: h, n: n, by: by}
	if s.begin, err = h.Traffic(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	url := from.url
	if by.node {
		s.node = &nodeServer{host: h, flags: append([]string{"--upstream=" + url}, by.flags...)}
		if err := s.node.start(ctx); err != nil {
			return nil, err
		}
		if err := s.node.find(ctx, by.meets); err != nil {
			return nil, err
		}
	}
	if by.loopback {
		url = "http://" + nodeAddr
	}
	s.daemon, err = h.machine.StartDaemon(ctx, realguix.DaemonOptions{URLs: []string{url}, Env: by.env})
	return s, err
}

// stop kills what the station runs.
func (s *station) stop() {
	if s.daemon != nil {
		s.daemon.Stop()
	}
	if s.node != nil {
		s.node.kill()
	}
}

// trip is what it took to get items.
type trip struct {
	wall time.Duration
	sent int64         // by the origin, bytes of frames
	peak int64         // memory of the substituter, bytes
	node int64         // memory of the node so far, bytes
	work time.Duration // of processors, for the origin and the node
}

// nodeMemory is the memory of the node, or nothing if there was none.
func (t trip) nodeMemory() series {
	if t.node == 0 {
		return nil
	}
	return series{float64(t.node)}
}

// memory prints the bytes that nodes have had, if there were any.
func memory(bytes series) string {
	if len(bytes) == 0 {
		return "no node"
	}
	return mebibytes.cell(bytes)
}

// trips are the figures of several.
type trips struct{ wall, sent, peak, node, work series }

func (t *trips) add(x trip) {
	t.wall = append(t.wall, x.wall.Seconds())
	t.sent = append(t.sent, float64(x.sent))
	t.peak = append(t.peak, float64(x.peak))
	t.node = append(t.node, x.nodeMemory()...)
	t.work = append(t.work, x.work.Seconds())
}

// build builds the last of the items, which refers to the others, and checks
// that the machine then has them all.
func (s *station) build(ctx context.Context, items []item) (trip, error) {
	watch := watchPeak(s.machine)
	begin := time.Now()
	out, err := s.machine.Build(ctx, items[len(items)-1].Path)
	t := trip{wall: time.Since(begin), peak: watch()}
	if err == nil {
		err = wentAside(out)
	}
	if err == nil {
		err = s.wantInstalled(items)
	}
	if err == nil && s.node != nil {
		t.node, err = s.node.peak()
	}
	if err != nil {
		return t, s.failed(err)
	}
	s.n.o.Log.InfoContext(ctx, "installed", slog.String("by", s.by.name), slog.String("host", s.Name()), slog.Int("items", len(items)),
		slog.Duration("wall", t.wall), slog.Int64("peak", t.peak), slog.Int64("node", t.node))
	return t, nil
}

// wantInstalled checks that the machine has the items, with the hashes that
// they should have.
func (s *station) wantInstalled(items []item) error {
	for _, i := range items {
		switch got, err := s.machine.Hash(i.Path); {
		case err != nil:
			return err
		case got != i.nar:
			return fmt.Errorf("%s is not what it should be", i.Path)
		}
	}
	return nil
}

// failed adds the logs of the station to an error.
func (s *station) failed(err error) error {
	err = fmt.Errorf("%s on %s: %w\nguix-daemon:\n%s", s.by.name, s.Name(), err, lastLines(s.daemon.Log()))
	if s.node != nil {
		err = fmt.Errorf("%w\nnode:\n%s", err, lastLines(s.node.log()))
	}
	return err
}

// lastLines bounds what an error repeats of a log.
func lastLines(log string) string { return log[max(0, len(log)-4<<10):] }

// install has a host get items in some way, from an origin.
func (n *network) install(ctx context.Context, h *netHost, by way, from *origin, items []item) (trip, error) {
	s, err := n.station(ctx, h, by, from)
	if err != nil {
		return trip{}, err
	}
	defer s.stop()
	before, err := worked(from, s)
	if err != nil {
		return trip{}, err
	}
	all, err := together(ctx, from, items, s)
	if err != nil {
		return trip{}, err
	}
	after, err := worked(from, s)
	all[0].work = after - before
	return all[0], err
}

// together has stations build items at the same time. What the origin has sent
// by the time that all have them is in each trip.
func together(ctx context.Context, from *origin, items []item, stations ...*station) ([]trip, error) {
	before, err := from.Traffic()
	if err != nil {
		return nil, err
	}
	all := make([]trip, len(stations))
	group, ctx := errgroup.WithContext(ctx)
	for k, s := range stations {
		group.Go(func() (err error) {
			all[k], err = s.build(ctx, items)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	after, err := from.Traffic()
	for k := range all {
		all[k].sent = after.Since(before).Sent
	}
	return all, err
}

// worked returns the processor time that the origin and a station's node have
// used so far.
func worked(from *origin, s *station) (time.Duration, error) {
	sum, err := cpu(from.pid)
	if err != nil || s.node == nil {
		return sum, err
	}
	used, err := cpu(s.node.pid)
	return sum + used, err
}

// summary is of stations that worked together: the last one's time, the
// greatest memory.
func summary(all []trip) (sum trip) {
	for _, t := range all {
		sum.wall, sum.peak, sum.node = max(sum.wall, t.wall), max(sum.peak, t.peak), max(sum.node, t.node)
		sum.sent = t.sent
	}
	return sum
}

// watchPeak looks at the substituters of a machine until the returned function
// is called, which returns the greatest memory of one. The memory of the last
// tenth of a second may be missing.
func watchPeak(m *realguix.Machine) (peak func() int64) {
	stop, done := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		var most int64
		for {
			select {
			case <-stop:
				done <- most
				return
			case <-tick.C:
			}
			pids, err := m.Processes("substitute --")
			if err != nil {
				continue // the machine ends
			}
			for _, pid := range pids {
				if p, err := peakAt(m.Path(fmt.Sprintf("/proc/%d/status", pid))); err == nil {
					most = max(most, p)
				}
			}
		}
	}()
	return func() int64 { close(stop); return <-done }
}

// until waits until cond holds. It returns an error if done ends first: then
// there was too little to be in the middle of.
func until(ctx context.Context, done <-chan struct{}, cond func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := cond(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-done:
			return errors.New("all was over before the middle")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// received returns how many bytes of frames stations have received since they
// began.
func received(stations ...*station) (sum int64, err error) {
	for _, s := range stations {
		now, err := s.Traffic()
		if err != nil {
			return 0, err
		}
		sum += now.Since(s.begin).Received
	}
	return sum, nil
}
