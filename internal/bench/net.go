package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/bench/netlab"
	"ersatz/internal/realguix"
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
		{"swarm", (*network).swarm},
		{"orphans", (*network).orphans},
		{"liars", (*network).liars},
		{"slow", (*network).slow},
		{"closure", (*network).closure},
		{"killed", (*network).killed},
		{"fast", (*network).fast},
	}
}

// RunNet runs the named scenario, or all for "", each on a network of its own,
// and returns a document in Markdown. If one fails, the others are in it.
func RunNet(ctx context.Context, name string, o NetOptions) (string, error) {
	begin := time.Now()
	about, err := machine(ctx, Options{Root: o.Root, Ersatz: o.Ersatz})
	if err != nil {
		return "", err
	}
	var body strings.Builder
	found := false
	var errs []error
	for _, s := range scenarios() {
		if name != "" && name != s.name {
			continue
		}
		found = true
		tables, err := s.in(ctx, o)
		if err != nil {
			errs = append(errs, fmt.Errorf("scenario %s: %w", s.name, err))
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
frames, counted where the origin's line begins: what the line then loses is in them. Times are those of `+"`guix build`"+`,
from its start to its end. Where there are several runs, figures are medians, with the least and the greatest.
The origin is ersatz publish with zstd:3 nars, also for stock Guix. Nodes run as a user without privileges beside the daemon,
and memory is the greatest that was resident, as Linux says at the end. A run that leaves an item missing, or other than it
should be, fails; so do a liar that is not named, and kills after which 5 %% or more is fetched twice.

%s%s`, begin.UTC().Format("2 January 2006"), time.Since(begin).Round(time.Second), about, body.String()), errors.Join(errs...)
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
