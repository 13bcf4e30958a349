package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/bench/netlab"
	"ersatz/internal/realguix"
	"ersatz/internal/storedb"
	"ersatz/nar"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

// NetOptions of a run over bad links.
type NetOptions struct {
	// Root is the folder that scripts/guix-root.sh has made.
	Root string
	// Ersatz is the program to measure, a static build.
	Ersatz string
	// Wrapper is packaging/ersatz-guix.
	Wrapper string
	// Short takes little: what is said of times then means nothing.
	Short bool
	// Log is told what is being done.
	Log *slog.Logger
}

// network is hosts that are machines with a Guix, each with a line of its own.
type network struct {
	o       NetOptions
	lab     *netlab.Lab
	key     *guixsig.PrivateKey // of the origin; all trust it
	cleanup []func() error
}

// netHost is a host and the machine that is in it.
type netHost struct {
	*netlab.Host
	machine *realguix.Machine
}

func newNetwork(ctx context.Context, o NetOptions) (*network, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := netlab.Missing(); err != nil {
		return nil, err
	}
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		return nil, err
	}
	lab, err := netlab.New(ctx)
	if err != nil {
		return nil, err
	}
	return &network{o: o, lab: lab, key: key, cleanup: []func() error{lab.Close}}, nil
}

func (n *network) close() error {
	var errs []error
	for i := len(n.cleanup) - 1; i >= 0; i-- {
		errs = append(errs, n.cleanup[i]())
	}
	return errors.Join(errs...)
}

// host adds a host with a new machine.
func (n *network) host(ctx context.Context, name string, link netlab.Link) (*netHost, error) {
	host, err := n.lab.Host(ctx, name, link)
	if err != nil {
		return nil, err
	}
	h := &netHost{Host: host}
	n.cleanup = append(n.cleanup, h.halt)
	return h, n.boot(h)
}

// boot gives a host a machine that knows nothing, in place of the one it had.
func (n *network) boot(h *netHost) error {
	if err := h.halt(); err != nil {
		return err
	}
	m, err := realguix.Start(n.o.Root, realguix.Options{Net: h.Netns()})
	if err != nil {
		return err
	}
	h.machine = m
	return errors.Join(m.Trust(n.key, n.key.Public()),
		installErsatz(m, n.o.Ersatz),
		m.CopyFile(n.o.Wrapper, "/usr/local/bin/ersatz-guix", 0o755))
}

func (h *netHost) halt() error {
	if h.machine == nil {
		return nil
	}
	m := h.machine
	h.machine = nil
	return m.Close()
}

// shelf fills the store of a machine in which no daemon runs.
type shelf struct {
	machine *realguix.Machine
	dir     string // of the database: SQLite does not reach into machines
	db      *storedb.Scratch
}

func newShelf(m *realguix.Machine) (*shelf, error) {
	dir, err := os.MkdirTemp("", "ersatz-bench-")
	if err != nil {
		return nil, err
	}
	db, err := storedb.Create(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &shelf{m, dir, db}, nil
}

// close gives the machine its database.
func (s *shelf) close() error {
	err := s.db.Close()
	if err == nil {
		err = s.machine.CopyFile(filepath.Join(s.dir, "db/db.sqlite"), "/var/guix/db/db.sqlite", 0o644)
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// add makes a valid item. tree makes its files.
func (s *shelf) add(ctx context.Context, name string, refs []storepath.Path, tree func(path string) error) (item, error) {
	sum := sha256.Sum256([]byte(name))
	i := item{Item: realguix.Item{
		Path:       storepath.Path{Dir: storepath.Guix, Hash: nixbase32.Encode(sum[:20]), Name: name},
		References: refs,
	}}
	i.Tree = s.machine.Path(i.Path.String())
	if err := tree(i.Tree); err != nil {
		return item{}, err
	}
	var err error
	if i.nar, err = nar.Dump(io.Discard, i.Tree); err != nil {
		return item{}, err
	}
	return i, s.db.Register(ctx, storedb.Info{
		Path: i.Path, NarHash: i.nar.Hash, NarSize: uint64(i.nar.Size), References: refs, Registered: time.Unix(1, 0),
	})
}

// asker is a program that guix-daemon asks for substitutes.
type asker struct {
	name string
	env  []string // of guix-daemon
}

// The substituters that are compared.
func stockAsker() asker { return asker{name: "stock Guix"} }
func ersatzAsker() asker {
	return asker{name: "ersatz", env: []string{"GUIX=/usr/local/bin/ersatz-guix"}}
}

// trip is what it took to get items.
type trip struct {
	wall time.Duration
	sent int64 // by the origin, bytes of frames
	peak int64 // of the substituter, bytes
}

// trips are the figures of several.
type trips struct{ wall, sent, peak series }

func (t *trips) add(x trip) {
	t.wall = append(t.wall, x.wall.Seconds())
	t.sent = append(t.sent, float64(x.sent))
	t.peak = append(t.peak, float64(x.peak))
}

// install has a new machine of the host build the last of the items, which
// refers to the others, and checks that it then has them all.
func (n *network) install(ctx context.Context, h *netHost, by asker, from *origin, items []item) (trip, error) {
	if err := n.boot(h); err != nil {
		return trip{}, err
	}
	d, err := h.machine.StartDaemon(ctx, realguix.DaemonOptions{URLs: []string{from.url}, Env: by.env})
	if err != nil {
		return trip{}, err
	}
	defer d.Stop()
	before, err := from.Traffic()
	if err != nil {
		return trip{}, err
	}
	watch := watchPeak(h.machine)
	begin := time.Now()
	_, err = h.machine.Build(ctx, items[len(items)-1].Path)
	t := trip{wall: time.Since(begin), peak: watch()}
	if err != nil {
		return t, fmt.Errorf("%s: %w\n%s", by.name, err, d.Log())
	}
	after, err := from.Traffic()
	if err != nil {
		return t, err
	}
	t.sent = after.Since(before).Sent
	for _, i := range items {
		if got, err := h.machine.Hash(i.Path); err != nil || got != i.nar {
			return t, fmt.Errorf("%s: %s is not what it should be: %w", by.name, i.Path, err)
		}
	}
	n.o.Log.InfoContext(ctx, "installed", slog.String("by", by.name), slog.Int("items", len(items)),
		slog.Duration("wall", t.wall), slog.Int64("sent", t.sent), slog.Int64("peak", t.peak))
	return t, nil
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

// progress returns how fast a client that begins to build an item receives, in
// bytes of frames per second, over some time that begins with the first
// 64 KiB. It leaves the client in the middle.
func (n *network) progress(ctx context.Context, h *netHost, by asker, url string, i item, during time.Duration) (rate float64, err error) {
	if err := n.boot(h); err != nil {
		return 0, err
	}
	d, err := h.machine.StartDaemon(ctx, realguix.DaemonOptions{URLs: []string{url}, Env: by.env})
	if err != nil {
		return 0, err
	}
	defer d.Stop()
	start, err := h.Traffic()
	if err != nil {
		return 0, err
	}
	own, cancel := context.WithCancel(ctx)
	cmd := h.machine.Command(own, "guix", "build", i.Path.String())
	if err := cmd.Start(); err != nil {
		cancel()
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { cancel(); <-ended }()
	var from netlab.Traffic
	var begin time.Time
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case err := <-ended:
			ended <- nil
			return 0, fmt.Errorf("%s: the item was too small to be measured, or: %w\n%s", by.name, err, d.Log())
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		now, err := h.Traffic()
		switch {
		case err != nil:
			return 0, err
		case begin.IsZero():
			if now.Since(start).Received >= 64<<10 {
				begin, from = time.Now(), now
			}
		case time.Since(begin) >= during:
			return float64(now.Since(from).Received) / time.Since(begin).Seconds(), nil
		}
	}
}

// NetNames returns the names of the scenarios.
func NetNames() []string {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return names
}

// scenario is a network and what happens in it.
type scenario struct {
	name string
	run  func(*network, context.Context) ([]Table, error)
}

func scenarios() []scenario {
	return []scenario{
		{"slow", (*network).slow},
		{"closure", (*network).closure},
	}
}

// RunNet runs the named scenario, or all for "", each on a network of its own,
// and returns a document in Markdown.
func RunNet(ctx context.Context, name string, o NetOptions) (string, error) {
	begin := time.Now()
	about, err := machine(ctx, Options{Root: o.Root, Ersatz: o.Ersatz})
	if err != nil {
		return "", err
	}
	var body strings.Builder
	found := false
	for _, s := range scenarios() {
		if name != "" && name != s.name {
			continue
		}
		found = true
		tables, err := s.in(ctx, o)
		if err != nil {
			return "", fmt.Errorf("scenario %s: %w", s.name, err)
		}
		for _, t := range tables {
			body.WriteString("\n" + t.Markdown())
		}
	}
	if !found {
		return "", fmt.Errorf("no scenario %q: there are %s", name, strings.Join(NetNames(), ", "))
	}
	return fmt.Sprintf(`# Benchmarks over bad links

Made by `+"`make bench-net`"+` on %s, in %s. Hosts are network namespaces on one machine, each with a machine
of its own that runs a real guix-daemon; rate is by tc's token bucket, loss by nftables in both directions, delay is of each
packet, those that open a connection too (internal/bench/netlab). TCP is Linux's CUBIC. Bytes are those of Ethernet
frames, counted where the origin's line begins: what the line then loses is in them. Times are those of `+"`guix build`"+`, of
which a second or so is Guile's start. Where there are several runs, figures are medians, with the least and the greatest.

%s%s`, begin.UTC().Format("2 January 2006"), time.Since(begin).Round(time.Second), about, body.String()), nil
}

// in runs a scenario on a new network.
func (s scenario) in(ctx context.Context, o NetOptions) ([]Table, error) {
	n, err := newNetwork(ctx, o)
	if err != nil {
		return nil, err
	}
	t, err := s.run(n, ctx)
	return t, closing(err, n.close)
}
