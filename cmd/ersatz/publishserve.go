package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"ersatz/internal/bake"
	"ersatz/internal/block"
	"ersatz/internal/block/narindex"
	"ersatz/internal/durable"
	"ersatz/internal/node"
	"ersatz/internal/share"
	"ersatz/internal/stores"
)

// networksDir is where networks keep what they remember, below the cache folder:
// in what a mirror does not copy, since who this host is there is a secret.
const networksDir = narindex.Dir + "/networks"

// servePlan is what --serve means: the stores that blocks are served at or
// through, besides HTTP.
type servePlan struct {
	// public are for everybody, such as IPFS: they get what the bake roots refer
	// to. own are where the operator listens, or keeps blocks: they get all that
	// is baked, as who asks by HTTP does.
	public, own []stores.URL

	limit *rate.Limiter // nil: none
}

// servePlan reads the flags and reports what is wrong with them.
func (p publishFlags) servePlan() (plan servePlan, err error) {
	urls, err := storeURLs("serve", p.serve)
	if err != nil {
		return plan, err
	}
	var errs []error
	for _, u := range urls {
		if u.Public() {
			plan.public = append(plan.public, u)
		} else {
			plan.own = append(plan.own, u)
		}
		if strings.HasPrefix(u.Scheme(), "ipfs+") && p.ipfs != "" {
			errs = append(errs, fmt.Errorf("--serve '%s': with --ipfs as well, one would remove what the other has put: leave one of them out", u))
		}
	}
	if len(urls) > 0 && p.cache == "" {
		errs = append(errs, errors.New("--serve needs --cache"))
	}
	if len(plan.public) > 0 && len(p.roots) == 0 {
		errs = append(errs, fmt.Errorf("--serve '%s': everybody can get what is put there: "+
			"say with --bake-roots which items, with all that they refer to, may be", plan.public[0]))
	}
	if p.uploadLimit != "" {
		n, err := parseSize(strings.TrimSuffix(p.uploadLimit, "/s"))
		switch {
		case err == nil && n == 0:
			err = errors.New("nothing could be served; leave --serve out")
		case err == nil && len(urls) == 0:
			err = errors.New("bounds what --serve sends, and nothing is served so")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("--upload-limit: %w", err))
		}
		plan.limit = node.NewLimiter(n)
	}
	return plan, errors.Join(errs...)
}

// torrents has narinfos name torrents if there is a network that wants them.
func (s servePlan) torrents(o *bake.Options) {
	for _, u := range s.public {
		if u.Scheme() == "bittorrent" {
			o.Torrents = true
			o.Trackers = append(o.Trackers, u.Params("tr")...)
		}
	}
	slices.Sort(o.Trackers)
	o.Trackers = slices.Compact(o.Trackers)
}

// serving are the stores of --serve, opened.
type serving struct {
	log     *slog.Logger
	sets    []*stores.Set
	feeders []*share.Feeder
}

// openFor opens the stores for what is in a cache. Close what it returns.
func (s servePlan) openFor(ctx context.Context, cache *bake.Cache, log *slog.Logger) (_ *serving, err error) {
	v := &serving{log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.Close())
		}
	}()
	dir := filepath.Join(cache.Dir(), networksDir)
	if len(s.public)+len(s.own) > 0 {
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	for _, part := range []struct {
		name string
		urls []stores.URL
		lib  block.Library
	}{{"public", s.public, cache.RootsLibrary()}, {"own", s.own, cache.Library()}} {
		if len(part.urls) == 0 {
			continue
		}
		o := stores.Options{UserAgent: "ersatz/" + version(), State: filepath.Join(dir, part.name), Library: part.lib, Log: log}
		if s.limit != nil { // no interface of a nil pointer
			o.Limiter = s.limit
		}
		set, err := stores.Open(ctx, stores.Plan{Serve: part.urls}, o)
		if err != nil {
			return nil, fmt.Errorf("--serve: %w", storesError(err))
		}
		v.sets = append(v.sets, set)
		feeder, err := share.New(part.lib, set.Sinks(), share.Options{State: filepath.Join(dir, part.name+".sqlite"), Log: log})
		if err != nil {
			return nil, err
		}
		v.feeders = append(v.feeders, feeder)
	}
	return v, nil
}

// run serves until ctx ends.
func (v *serving) run(ctx context.Context, group *errgroup.Group) {
	for _, set := range v.sets {
		group.Go(func() error { return set.Run(ctx) })
		for _, l := range set.Listeners() {
			attrs := []any{slog.String("store", l.Name)}
			if l.Addr != nil {
				attrs = append(attrs, slog.String("address", l.Addr.String()))
			}
			v.log.InfoContext(ctx, "serving blocks", attrs...)
		}
		for _, n := range set.Sinks() {
			v.log.InfoContext(ctx, "giving blocks to a network", slog.String("network", n.Name))
		}
	}
	for _, f := range v.feeders {
		group.Go(func() error { return f.Run(ctx) })
	}
}

// status returns what all networks have been given.
func (v *serving) status() (all []share.Status) {
	for _, f := range v.feeders {
		all = append(all, f.Status()...)
	}
	return all
}

// Close ends all that is open. run's group has ended.
func (v *serving) Close() error {
	var errs []error
	for _, s := range v.sets {
		errs = append(errs, s.Close())
	}
	for _, f := range v.feeders {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
