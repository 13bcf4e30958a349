package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/spool"
	"ersatz/internal/share"
	"ersatz/internal/stores"
	"ersatz/internal/torrent"
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

	magnet string // of the content, "" if there is no torrent of it
}

// openEncodeStores opens the stores, for blocks of a size.
func openEncodeStores(ctx context.Context, a *app, urls []stores.URL, size eris.BlockSize) (_ *openStores, err error) {
	log, err := a.logger()
	if err != nil {
		return nil, err
	}
	o := &openStores{log: log}
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

// finish returns when all stores have the content, or why not in which. Networks
// that have to be told again and again are told by serve.
func (o *openStores) finish(ctx context.Context, c eris.ReadCap, length int64) error {
	errs := []error{o.puts.wait()}
	if o.spool == nil {
		return errors.Join(errs...)
	}
	magnet, err := o.describe(ctx, c.Root)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	shared := block.Shared{ReadCap: c, Length: length, Magnet: magnet}
	o.spool.Finish(shared)
	open := func(ctx context.Context) (block.Content, error) { return o.spool.Open(ctx, c.Root) }
	for _, k := range o.set.Sinks() {
		if k.Renew > 0 {
			continue
		}
		if _, err := k.Net.Offer(ctx, shared, open); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", k.Name, err))
		}
	}
	return errors.Join(errs...)
}

// describe returns the magnet link of the content if a torrent is wanted.
func (o *openStores) describe(ctx context.Context, root eris.Ref) (string, error) {
	i := slices.IndexFunc(o.set.Listeners(), func(l stores.Listener) bool { return l.URL.Scheme() == "bittorrent" })
	if i < 0 {
		return "", nil
	}
	info, err := o.spool.Torrent(ctx, root)
	if err != nil {
		return "", err
	}
	l := o.set.Listeners()[i]
	m := torrent.Magnet{Hash: info.Hash(), Name: info.Name, Trackers: l.URL.Params("tr")}
	if a, ok := l.Addr.(*net.TCPAddr); ok && !a.IP.IsUnspecified() {
		m.Peers = []string{a.String()}
	}
	o.magnet = m.String()
	return o.magnet, nil
}

// serve gives the content to others if that needs this process: until ctx ends,
// or the duration is over, if it is above 0.
func (o *openStores) serve(ctx context.Context, stderr io.Writer, duration time.Duration) error {
	if len(o.set.Listeners()) == 0 {
		return nil
	}
	sinks := slices.DeleteFunc(o.set.Sinks(), func(k share.Sink) bool { return k.Renew == 0 })
	feeder, err := share.New(o.spool, sinks, share.Options{Log: o.log})
	if err != nil {
		return err
	}
	defer feeder.Close()
	until := "until it is interrupted"
	if duration > 0 {
		until = "for " + duration.String()
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, duration)
		defer cancel()
	}
	for _, l := range o.set.Listeners() {
		fmt.Fprintf(stderr, "ersatz: serving at %s %s\n", l.Name, until)
		for _, a := range l.Multiaddrs {
			fmt.Fprintf(stderr, "ersatz: others get it by --from 'ipfs:?peer=%s'\n", a)
		}
		if l.URL.Scheme() == "bittorrent" {
			fmt.Fprintf(stderr, "ersatz: others get it by --from '%s'\n", o.magnet)
		}
	}
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { return o.set.Run(ctx) })
	work.Go(func() error { return feeder.Run(ctx) })
	return work.Wait()
}

func (o *openStores) close() error {
	errs := []error{o.puts.wait(), o.set.Close()}
	if o.spool != nil {
		errs = append(errs, o.spool.Close())
	}
	return errors.Join(errs...)
}
