package noded

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"ersatz/internal/durable"
	"ersatz/internal/fetch"
	"ersatz/internal/keep"
	"ersatz/internal/nodeapi"
	"ersatz/internal/share"
	"ersatz/internal/stores"
	"ersatz/internal/transfer"
)

// networks are the stores and networks of a node: those that it asks, and those
// that it serves at or feeds.
type networks struct {
	log  *slog.Logger
	book *fetch.Book
	set  *stores.Set
	feed *share.Feeder
}

// openNetworks opens the stores of o, which remember things in the folder dir.
// What is served is what store has and the share list allows.
func openNetworks(ctx context.Context, dir string, store *keep.Store, book *fetch.Book, o Options) (_ *networks, err error) {
	n := &networks{log: o.Node.Log, book: book}
	so := stores.Options{
		UserAgent: "ersatz/" + o.Node.Version, State: dir, Library: store.Library(o.Node.ShareKeys.Shares, o.Node.ShareKeys.Digest()), Log: n.log,
	}
	if o.Node.Upload != nil { // no interface of a nil pointer
		so.Limiter = o.Node.Upload
	}
	if !o.Stores.Empty() {
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if n.set, err = stores.Open(ctx, o.Stores, so); err != nil {
		if errors.Is(err, stores.ErrInvalid) {
			err = &OptionError{err}
		}
		return nil, err
	}
	n.feed, err = share.New(so.Library, n.set.Sinks(), share.Options{State: filepath.Join(dir, "shares.sqlite"), Log: n.log})
	if err != nil {
		return nil, errors.Join(err, n.set.Close())
	}
	return n, nil
}

// run serves and feeds until ctx ends.
func (n *networks) run(ctx context.Context) error {
	for _, l := range n.set.Listeners() {
		n.log.InfoContext(ctx, "serving blocks", slog.String("store", l.Name), slog.Any("addresses", addresses(l)))
	}
	for _, k := range n.set.Sinks() {
		n.log.InfoContext(ctx, "giving blocks to a network", slog.String("network", k.Name))
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.set.Run(ctx) })
	group.Go(func() error { return n.feed.Run(ctx) })
	return group.Wait()
}

// close ends all that is open. run has returned.
func (n *networks) close() error { return errors.Join(n.set.Close(), n.feed.Close()) }

// shares returns what networks have been given.
func (n *networks) shares() []share.Status { return n.feed.Status() }

// list returns what GET /v1/status says: each store once, those that blocks are got
// from first.
func (n *networks) list() (all []nodeapi.Network) {
	index := map[string]int{}
	of := func(url string) *nodeapi.Network {
		k, known := index[url]
		if !known {
			k, index[url] = len(all), len(all)
			kind, _, _ := strings.Cut(url, ":")
			all = append(all, nodeapi.Network{URL: url, Kind: kind})
		}
		return &all[k]
	}
	for _, s := range n.set.Sources() {
		e, x := n.book.Entry(s.Name), of(s.Name)
		x.From, x.StartMS = true, ms(transfer.Start(n.book, s))
		x.LatencyMS, x.PerBlockMS, x.Blocks, x.Bytes = ms(e.Learnt.Latency), ms(e.Learnt.Pace), e.Blocks, e.Bytes
		if err := n.book.Usable(s.Name); err != nil {
			x.Error = err.Error()
		}
	}
	for _, s := range n.feed.Status() {
		x := of(s.Name)
		x.Serve, x.Offered, x.Waiting, x.Failed, x.ServeError = true, s.Offered, s.Waiting, s.Failed, s.Error
	}
	for _, l := range n.set.Listeners() {
		x := of(l.Name)
		x.Serve, x.Listen = true, addresses(l)
	}
	return all
}

// addresses returns where a listener is reached.
func addresses(l stores.Listener) (all []string) {
	if l.Addr != nil {
		all = append(all, l.Addr.String())
	}
	return append(all, l.Multiaddrs...)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
