package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/spool"
	"ersatz/internal/stores"
)

// encodeStores say which stores encode puts blocks to, and how long it serves
// what only lives in this process; 0 is until it is interrupted.
type encodeStores struct {
	to       []string
	duration time.Duration
}

// urls returns the stores. Without --to they are the ones of the environment or
// the configuration that grant put, if byDefault.
func (s encodeStores) urls(a *app, byDefault bool) (urls []stores.URL, err error) {
	if len(s.to) > 0 || !byDefault {
		return storeURLs("to", s.to)
	}
	all, err := a.defaultStores()
	if err != nil {
		return nil, err
	}
	for _, u := range all {
		if u.Puts() {
			urls = append(urls, u)
		}
	}
	return urls, nil
}

// openStores are the stores of one encode.
type openStores struct {
	log   *slog.Logger
	set   *stores.Set
	puts  *puts
	spool *spool.Spool // of what is given to networks as a whole; nil if none wants that

	served chan error // what Run of the set returns
	stop   context.CancelFunc
}

// openEncodeStores opens the stores, for blocks of a size, and begins to serve at those that are served.
func openEncodeStores(ctx context.Context, a *app, urls []stores.URL, size eris.BlockSize) (_ *openStores, err error) {
	log, err := a.logger()
	if err != nil {
		return nil, err
	}
	o := &openStores{log: log, served: make(chan error, 1)}
	options := stores.Options{UserAgent: "ersatz/" + version(), Log: log}
	if slices.ContainsFunc(urls, stores.URL.Whole) {
		if o.spool, err = spool.New(size); err != nil {
			return nil, err
		}
		options.Library = o.spool
	}
	if o.set, err = stores.Open(ctx, stores.Plan{To: urls}, options); err != nil {
		err = storesError(err)
		if o.spool != nil {
			err = errors.Join(err, o.spool.Close())
		}
		return nil, err
	}
	o.puts = newPuts(ctx, o.set.Putters())
	ctx, o.stop = context.WithCancel(ctx)
	go func() { o.served <- o.set.Run(ctx) }()
	return o, nil
}

// emit takes a block. It reports whether anything is left that wants it.
func (o *openStores) emit(b eris.Block) (alive bool, err error) {
	alive = len(o.puts.stores) == 0 || o.puts.put(b)
	if o.spool == nil {
		return alive, nil
	}
	return true, o.spool.Add(b)
}

// finish returns when all stores have the content, or why not in which.
func (o *openStores) finish(ctx context.Context, c eris.ReadCap, length int64) error {
	errs := []error{o.puts.wait()}
	if o.spool == nil {
		return errors.Join(errs...)
	}
	shared := block.Shared{ReadCap: c, Length: length}
	o.spool.Finish(shared)
	open := func(ctx context.Context) (block.Content, error) { return o.spool.Open(ctx, c.Root) }
	for _, k := range o.set.Sinks() {
		if _, err := k.Net.Offer(ctx, shared, open); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", k.Name, err))
		}
	}
	return errors.Join(errs...)
}

// serve gives the content to others as long as it is to, if that needs this
// process: until ctx ends, or the time is over.
func (o *openStores) serve(ctx context.Context, stderr io.Writer, duration time.Duration) error {
	var names []string
	for _, l := range o.set.Listeners() {
		names = append(names, l.Name)
	}
	for _, k := range o.set.Sinks() {
		if !k.Keeps {
			names = append(names, k.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	until := "until it is interrupted"
	if duration > 0 {
		until = "for " + duration.String()
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, duration)
		defer cancel()
	}
	for _, n := range names {
		fmt.Fprintf(stderr, "ersatz: serving at %s %s\n", n, until)
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-o.served:
		o.served <- err
		return err
	}
}

func (o *openStores) close() error {
	o.stop()
	<-o.served
	errs := []error{o.puts.wait(), o.set.Close()}
	if o.spool != nil {
		errs = append(errs, o.spool.Close())
	}
	return errors.Join(errs...)
}
