// Package share keeps networks fed with what this machine gives to others: it
// offers each content of a library to each network, again when the network
// would forget it, and takes back what has left the library. What a network
// keeps over restarts of this process is remembered in a file, so that nothing
// is put twice. docs/operations.md, "Networks", says what an operator sees of it.
package share

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"ersatz/internal/block"
)

// Network is what is fed. It is like block.Sink, and says something about each
// content that it wants to be told when it shall take it back. It is safe for
// concurrent use.
type Network interface {
	Offer(ctx context.Context, s block.Shared, open func(context.Context) (block.Content, error)) (note string, err error)
	Withdraw(ctx context.Context, s block.Shared, note string) error
}

// Plain returns a Network of a block.Sink, which wants no notes.
func Plain(s block.Sink) Network { return plain{s} }

type plain struct{ s block.Sink }

func (p plain) Offer(ctx context.Context, s block.Shared, open func(context.Context) (block.Content, error)) (string, error) {
	return "", p.s.Offer(ctx, s, open)
}

func (p plain) Withdraw(ctx context.Context, s block.Shared, _ string) error {
	return p.s.Withdraw(ctx, s)
}

// Sink is a network that is to be fed, and how.
type Sink struct {
	// Name is what logs, figures and the state have for it. It is the same after
	// a restart, and has no secrets in it.
	Name string
	Net  Network

	// Kind is of the few that figures are kept by, such as a URL's scheme.
	Kind string

	// Renew is the time after which a content is offered again. 0: never.
	Renew time.Duration

	// Keeps says that the network has what it was given after a restart of this
	// process too. What others were given is offered anew by each process.
	Keeps bool

	// Parallel bounds the contents that are offered at once. Default 1.
	Parallel int
}

// Options are what may be left out.
type Options struct {
	// State is the file that remembers what was given to networks that keep it.
	// It is made if it is missing, and anew if it is broken. Default: nothing is remembered, not even what
	// a Network has said of a content and wants to be told.
	State string

	// Log is told what an operator acts on, and of each content at level debug.
	// Default: nothing.
	Log *slog.Logger
}

// How long a network or a content that failed is left alone: the time doubles
// from the one to the other.
const (
	firstDelay = 10 * time.Second
	lastDelay  = 10 * time.Minute
)

// Listing a library takes time that grows with it. It is listed again after
// the first of these at the earliest, and takes one part of so many of the time.
const (
	listEvery = time.Second
	listShare = 20
)

// Feeder feeds networks. It is safe for concurrent use.
type Feeder struct {
	lib    block.Library
	log    *slog.Logger
	state  *state // nil: nothing is remembered
	queues []*queue
}

// New returns a Feeder of the contents of lib, which offers nothing before Run.
// Close it.
func New(lib block.Library, sinks []Sink, o Options) (*Feeder, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	f := &Feeder{lib: lib, log: o.Log}
	keeps := false
	names := map[string]bool{}
	for _, s := range sinks {
		if names[s.Name] {
			return nil, fmt.Errorf("share: two networks are %q", s.Name)
		}
		names[s.Name] = true
		keeps = keeps || s.Keeps
	}
	if keeps && o.State != "" {
		var err error
		if f.state, err = openState(o.State, o.Log); err != nil {
			return nil, fmt.Errorf("share: %w", err)
		}
	}
	for _, s := range sinks {
		q := newQueue(s, lib, o.Log)
		if s.Keeps && f.state != nil {
			q.state = f.state
		}
		f.queues = append(f.queues, q)
	}
	return f, nil
}

// Close closes the state. Run has returned before.
func (f *Feeder) Close() error {
	if f.state == nil {
		return nil
	}
	return f.state.close()
}

// Run feeds the networks until ctx ends. When it returns, all that has stopped.
// It runs once. An error means that what is remembered could not be read.
func (f *Feeder) Run(ctx context.Context) error {
	if len(f.queues) == 0 {
		return nil
	}
	for _, q := range f.queues {
		if err := q.load(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("share: %w", err)
		}
	}
	var g errgroup.Group
	for _, q := range f.queues {
		for range q.Parallel {
			g.Go(func() error { q.work(ctx); return nil })
		}
	}
	g.Go(func() error { f.watch(ctx); return nil })
	return g.Wait()
}

// watch lists the library each time that it has changed.
func (f *Feeder) watch(ctx context.Context) {
	delay := firstDelay
	for {
		changed := f.lib.Changed() // since before it was listed
		start := time.Now()
		err := f.list(ctx)
		rest := max(listEvery, (listShare-1)*time.Since(start))
		if err != nil && ctx.Err() == nil {
			f.log.ErrorContext(ctx, "listing what is shared", slog.Any("error", err), slog.Duration("again_in", delay))
			rest, changed = delay, nil
			delay = min(2*delay, lastDelay)
		}
		if err == nil {
			delay = firstDelay
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return
		}
		if changed == nil {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// list tells the queues what is in the library now. After an error, they know
// what has come, and nothing of what has left.
func (f *Feeder) list(ctx context.Context) error {
	for _, q := range f.queues {
		q.begin()
	}
	err := f.lib.Each(ctx, func(s block.Shared) error {
		c := f.queues[0].content(s)
		for _, q := range f.queues {
			q.see(c)
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	for _, q := range f.queues {
		q.sweep()
	}
	return nil
}

// Status is what there is to know of a network.
type Status struct {
	Name    string // of the Sink
	Kind    string // likewise
	Offered int    // contents that it was given
	Waiting int    // contents that are to be offered for the first time, or withdrawn
	Failed  int    // contents of which the last attempt failed
	Error   string // of the last attempt, if that failed
}

// Status returns what there is to know of each network, in the order of New.
func (f *Feeder) Status() []Status {
	all := make([]Status, len(f.queues))
	for i, q := range f.queues {
		all[i] = q.status()
	}
	return all
}
