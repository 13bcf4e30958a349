package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
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

// RunNet runs scenarios, each on a network of its own, and returns a document
// in Markdown. names are separated by commas; "" means all. The others are
// taken from an earlier document, which must have been measured on a machine
// like this one. A scenario that fails is left as it was before.
func RunNet(ctx context.Context, names, before string, o NetOptions) (string, error) {
	wanted := NetNames()
	if names != "" {
		wanted = strings.Split(names, ",")
	}
	for _, name := range wanted {
		if !slices.Contains(NetNames(), name) {
			return "", fmt.Errorf("no scenario %q: there are %s", name, strings.Join(NetNames(), ", "))
		}
	}
	about, err := machine(ctx, Options{Root: o.Root, Ersatz: o.Ersatz}, false)
	if err != nil {
		return "", err
	}
	doc := netKind().parse(before)
	if doc.about != about {
		if len(wanted) < len(NetNames()) && len(doc.of) > 0 {
			return "", errors.New("the other scenarios were measured on another machine: measure them all")
		}
		doc = document{docKind: netKind(), about: about, of: map[string]string{}}
	}
	var errs []error
	for _, s := range scenarios() {
		if !slices.Contains(wanted, s.name) {
			continue
		}
		day := time.Now()
		tables, err := s.in(ctx, o)
		if err != nil {
			errs = append(errs, fmt.Errorf("scenario %s: %w", s.name, err))
			continue
		}
		doc.set(s.name, day, "", tables)
	}
	return doc.String(), errors.Join(errs...)
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
