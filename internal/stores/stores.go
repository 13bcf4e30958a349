// Package stores opens store URLs: places that blocks are got from, put to, or
// served to others at, by any transport (docs/stores.md). It is where the
// transports are put together, each behind the same few interfaces.
package stores

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"

	"golang.org/x/sync/errgroup"

	"ersatz/internal/block"
	"ersatz/internal/fetch"
	"ersatz/internal/share"
)

// Plan says what store URLs are for.
type Plan struct {
	From  []URL // blocks are got from these
	To    []URL // blocks are put to these; to those that are Whole, as Serve does it
	Serve []URL // others get blocks at these, or through these networks
}

// Empty reports whether the plan has nothing in it.
func (p Plan) Empty() bool { return len(p.From)+len(p.To)+len(p.Serve) == 0 }

// Limiter bounds what is sent to others; *rate.Limiter is one, with a burst of
// at least a block.
type Limiter interface {
	// WaitN returns when n bytes may be sent, or ctx's error.
	WaitN(ctx context.Context, n int) error
}

// Options are the optional parts of a Set. The zero value works.
type Options struct {
	// UserAgent is what servers are told by HTTP. Default "ersatz".
	UserAgent string

	// State is a folder for what networks remember, such as who this host is.
	// It is made if it is missing. Default: nothing is remembered.
	State string

	// Library is what is served. Plan.Serve needs it, and what is Whole in Plan.To.
	Library block.Library

	// Limiter bounds the bytes of blocks that others get. Default: nothing.
	Limiter Limiter

	// Log is told what an operator may act on. Default: nobody.
	Log *slog.Logger
}

// Putter is a place that takes single blocks.
type Putter struct {
	Name string // its URL without secrets, or its network
	block.Putter
}

// Listener is a place at which blocks are served while Run runs.
type Listener struct {
	Name string   // its URL without secrets, or its network
	URL  URL      // what all URLs say that mean it
	Addr net.Addr // nil in networks that have addresses of their own

	// Multiaddrs are those of an IPFS host, which others give as peer=.
	Multiaddrs []string
}

// Set is what the URLs of a Plan stand for. Its methods are safe for concurrent
// use, but for Close.
type Set struct {
	o Options

	sources   []fetch.Network
	putters   []Putter
	sinks     []share.Sink
	listeners []Listener
	runs      []func(context.Context) error
	closers   []func() error
}

// Open opens all of a plan: it listens, and joins networks, but asks nobody for
// blocks. There is one host per network, whatever is done with it. An error
// matches ErrInvalid if a URL cannot be used so. Close the Set; ctx bounds its
// life, too.
func Open(ctx context.Context, p Plan, o Options) (*Set, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	groups, err := p.groups()
	if err != nil {
		return nil, err
	}
	s := &Set{o: o}
	for _, g := range groups {
		sch, _ := schemeOf(g.url.scheme)
		if o.Library == nil && (g.uses.has(useServe) || g.uses.has(useTo) && sch.whole) {
			return nil, errors.Join(fmt.Errorf("%s: no library to serve", g.url), s.Close())
		}
		if err := sch.open(ctx, s, g.url, g.uses); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", g.url, err), s.Close())
		}
	}
	return s, nil
}

// group is one thing to open.
type group struct {
	url  URL
	uses use
}

// groups puts URLs together that mean the same store, or the same network.
func (p Plan) groups() ([]group, error) {
	var groups []group
	var errs []error
	add := func(u URL, as use) {
		sch, _ := schemeOf(u.scheme)
		if err := sch.allows(u, as); err != nil {
			errs = append(errs, err)
			return
		}
		i := slices.IndexFunc(groups, func(g group) bool { return g.url.same(u, sch.one) })
		if i < 0 {
			groups = append(groups, group{u, as})
			return
		}
		if err := groups[i].url.merge(u, sch); err != nil {
			errs = append(errs, err)
			return
		}
		groups[i].uses |= as
	}
	for _, u := range p.From {
		add(u, useFrom)
	}
	for _, u := range p.To {
		add(u, useTo)
	}
	for _, u := range p.Serve {
		add(u, useServe)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return groups, nil
}

// allows returns an error that matches ErrInvalid unless u can be used so.
func (s scheme) allows(u URL, as use) error {
	wrong := ""
	switch {
	case as == useFrom && !s.uses.has(useFrom):
		wrong = "blocks cannot be got from here"
	case as == useFrom && !u.get:
		wrong = "does not grant get; it would say ?get"
	case as == useTo && !s.uses.has(useTo):
		wrong = "blocks cannot be put here"
	case as == useTo && !u.put && (s.asks || u.said):
		wrong = "does not grant put; a URL that does says ?put, or ?get&put"
	case as == useServe && !s.uses.has(useServe):
		wrong = "nothing can be served here"
	case as == useServe && u.said && (u.put || !u.get):
		wrong = "others can only get blocks here, not put them: leave put out"
	default:
		return nil
	}
	return invalid("%s: %s", u, wrong)
}

// same reports whether two URLs mean the same store, or network.
func (u URL) same(v URL, network bool) bool {
	if u.scheme != v.scheme {
		return false
	}
	return network || u.user == v.user && u.host == v.host && u.path == v.path
}

// merge has u say what v says, too.
func (u *URL) merge(v URL, sch scheme) error {
	if u.path != v.path {
		return invalid("%s and %s: there is one %s: for all", *u, v, u.scheme)
	}
	u.get, u.put, u.said = u.get || v.get, u.put || v.put, u.said || v.said
	params := slices.Clone(u.params)
	for _, p := range v.params {
		if have := u.param(p.name); !sch.params[p.name].many && have != "" && have != p.value {
			return invalid("%s and %s differ in %s", *u, v, p.name)
		}
		if !slices.Contains(params, p) {
			params = append(params, p)
		}
	}
	u.params = params
	return nil
}

// Sources returns what blocks can be got from, in the order of Plan.From.
func (s *Set) Sources() []fetch.Network { return slices.Clone(s.sources) }

// Putters returns what single blocks can be put to.
func (s *Set) Putters() []Putter { return slices.Clone(s.putters) }

// Sinks returns the networks that want to be offered the contents of
// Options.Library.
func (s *Set) Sinks() []share.Sink { return slices.Clone(s.sinks) }

// Listeners returns the places at which blocks are served.
func (s *Set) Listeners() []Listener { return slices.Clone(s.listeners) }

// Run serves until ctx ends, and returns nil then, or what broke. It is called
// once at most.
func (s *Set) Run(ctx context.Context) error {
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error {
		<-ctx.Done()
		return nil
	})
	for _, run := range s.runs {
		work.Go(func() error { return run(ctx) })
	}
	return work.Wait()
}

// Close ends all that the Set has opened. Run has returned by then, or was never
// called.
func (s *Set) Close() error {
	var errs []error
	for _, c := range slices.Backward(s.closers) {
		errs = append(errs, c())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// onClose has Close call f.
func (s *Set) onClose(f func() error) { s.closers = append(s.closers, f) }

// onRun has Run call f, whose error is of u.
func (s *Set) onRun(u URL, f func(context.Context) error) {
	s.runs = append(s.runs, func(ctx context.Context) error {
		if err := f(ctx); err != nil {
			return fmt.Errorf("%s: %w", u.name(), err)
		}
		return nil
	})
}

// source adds a source that u names. o has what is particular about it.
func (s *Set) source(u URL, n block.Network, o fetch.Network) {
	o.Name, o.Kind, o.Network = u.name(), u.scheme, n
	s.sources = append(s.sources, o)
}

func (s *Set) putter(u URL, p block.Putter) { s.putters = append(s.putters, Putter{u.name(), p}) }

// sink adds a sink that u names. k has what is particular about it.
func (s *Set) sink(u URL, k share.Sink) {
	k.Name, k.Kind = u.name(), u.scheme
	s.sinks = append(s.sinks, k)
}
