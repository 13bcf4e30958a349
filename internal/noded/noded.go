// Package noded is the service that `ersatz node` runs: the packages of
// docs/node.md, wired into one. It has no flags and opens no socket, so that the
// demonstration can have several in one process.
package noded

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"ersatz/internal/discover"
	"ersatz/internal/fetch"
	"ersatz/internal/keep"
	"ersatz/internal/metrics"
	"ersatz/internal/node"
	"ersatz/internal/nodeapi"
	"ersatz/internal/peers"
	"ersatz/internal/stores"
	"ersatz/internal/transfer"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/upstream"
	"ersatz/internal/web"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// What the state folder has beside what is kept: the cache of narinfos, what was
// learnt of sources, and what networks remember.
const (
	textsDir    = "texts"
	bookFile    = "sources.json"
	networksDir = "networks"
)

// Options are what may be left out.
type Options struct {
	// Node is what the faces are told. Its Log is that of all parts, and
	// servers and metrics are told its Version too. Who its peers are, and what
	// is counted, is set here.
	Node node.Options

	// Servers are the upstreams, the best first. Default: none.
	Servers []*upstream.Server

	// Quota bounds what is kept, in bytes. Default keep.DefaultQuota.
	Quota int64

	// Policy says where bytes come from. Default transfer.Mixed.
	Policy transfer.Policy

	// Peers are the URLs of other nodes, and Browser finds more. Default: none.
	Peers   []string
	Browser peers.Browser

	// Stores are asked for items that they may have (From), and what is shared by
	// Node.ShareKeys is served at them (Serve), whatever Node.Share says. Default:
	// there are none.
	Stores stores.Plan
}

// OptionError says that an option cannot be used.
type OptionError struct{ error }

// Unwrap returns what is wrong with it.
func (e *OptionError) Unwrap() error { return e.error }

// Service is a node with all that it is made of.
type Service struct {
	log       *slog.Logger
	share     node.Share
	http      *http.Client
	store     *keep.Store
	networks  *networks
	client    *upstream.Client
	book      *fetch.Book
	peers     *peers.Set
	transfers *transfer.Transfers
	node      *node.Node
}

// Open opens the state folder dir, which is made if need be, and asks the
// upstreams for their store folders, for 5 seconds at most, if these are not
// known from before. The error is an *OptionError if no other state of the world
// would help, and matches keep.ErrLocked if another process has the folder. Close
// it; ctx bounds its life, too.
func Open(ctx context.Context, dir string, o Options) (_ *Service, err error) {
	if o.Node.Log == nil {
		o.Node.Log = slog.New(slog.DiscardHandler)
	}
	if o.Node.Version == "" {
		o.Node.Version = "unknown"
	}
	log := o.Node.Log
	s := &Service{log: log, share: o.Node.Share, http: httpclient.New(httpclient.Options{UserAgent: "ersatz/" + o.Node.Version})}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.store, err = keep.Open(dir, keep.Options{Quota: o.Quota, Log: log}); err != nil {
		return nil, err
	}
	counted := metrics.New(o.Node.Version)
	metrics.RegisterKept(counted, s.store.Usage)
	o.Node.Requests = metrics.NewRequests(counted, metrics.Local, metrics.Shared, metrics.Socket)
	o.Node.Metrics = metrics.Handler(counted)
	s.client = upstream.New(s.http, []string{filepath.Join(dir, textsDir)}, upstream.Options{
		OnlyKept: true, Enough: enough(o.Node), Log: log, Progress: countLooked(metrics.NewNarinfos(counted)),
	})
	if s.book, err = fetch.OpenBook(filepath.Join(dir, bookFile), fetch.BookOptions{Log: log}); err != nil {
		return nil, err
	}
	if s.peers, err = peers.New(s.http, o.Peers, o.Browser, s.book, peers.Options{Log: log}); err != nil {
		return nil, &OptionError{err}
	}
	s.usePeers(&o.Node)
	if s.networks, err = openNetworks(ctx, filepath.Join(dir, networksDir), s.store, s.book, o); err != nil {
		return nil, err
	}
	o.Node.Networks = s.networks.list
	metrics.RegisterShares(counted, s.networks.shares)
	s.transfers = transfer.New(s.store, s.client, s.book, transfer.Options{
		Policy: o.Policy, Peers: s.peers, Networks: s.networks.set.Sources(), Count: metrics.NewTransfers(counted), Log: log,
		Look: func(ctx context.Context, p storepath.Path) (node.Want, error) { return s.node.Look(ctx, p) },
		Join: func(ctx context.Context, w node.Want) node.Want { return s.node.Join(ctx, w) },
	})
	s.node, err = node.New(ctx, dir, node.Keep(s.store), s.transfers, s.client, o.Servers, o.Node)
	if errors.Is(err, node.ErrConflict) {
		err = &OptionError{err}
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// enough returns what says that a narinfo counts for clients of the node, nil where
// votes do.
func enough(o node.Options) func(*narinfo.Narinfo) bool {
	switch {
	case o.Votes != nil:
		return nil
	case o.Keys == nil:
		return func(*narinfo.Narinfo) bool { return true }
	}
	return func(n *narinfo.Narinfo) bool {
		keys, err := o.Keys()
		if err == nil {
			_, err = keys.Verify(n)
		}
		return err == nil
	}
}

// usePeers has the node ask peers for narinfos, and say who they are. Where
// every narinfo counts, only those that were named are asked: anybody can be
// among the others, and a forged one that is kept would stand in the way.
func (s *Service) usePeers(o *node.Options) {
	o.Peers, o.NearServers, o.PeerServers = s.peers.List, s.peers.NearServers, s.peers.Named
	if o.Keys != nil || o.Votes != nil {
		o.PeerServers = s.peers.Servers
	}
	o.Have = func(ctx context.Context, narHashes [][32]byte) [][]nodeapi.Claim {
		all := make([][]nodeapi.Claim, len(narHashes))
		for i, claims := range s.peers.Have(ctx, narHashes) {
			for _, c := range claims {
				all[i] = append(all[i], nodeapi.Claim{Peer: c.Peer.Name(), URN: c.Held.ReadCap.URN(), Format: c.Held.Format, Part: c.Held.Part})
			}
		}
		return all
	}
}

// countLooked returns what counts the narinfos that upstreams are asked for.
func countLooked(n *metrics.Narinfos) func([]upstream.Pending) func(int) {
	return func(pending []upstream.Pending) func(int) {
		for _, p := range pending {
			n.Looked(p.Cached, p.Count)
		}
		return func(int) {}
	}
}

// Run serves until ctx ends or a listener breaks: stock clients and other
// machines on the listeners tcp, ersatz-substitute on those of Unix sockets. It
// closes them. Where others are served, the local network is told of each
// address that they can reach.
func (s *Service) Run(ctx context.Context, tcp, unix []net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.store.Run(ctx) })
	group.Go(func() error { return s.node.Run(ctx) })
	group.Go(func() error { return s.book.Run(ctx) })
	group.Go(func() error { return s.peers.Run(ctx) })
	group.Go(func() error { return s.networks.run(ctx) })
	group.Go(func() error { return web.Serve(ctx, tcp, s.node.Web(), s.log) })
	var local []net.Listener
	for _, l := range unix {
		local = append(local, node.Credentials(l))
	}
	group.Go(func() error { return web.Serve(ctx, local, s.node.Socket(), s.log) })
	if s.share != node.ShareNone {
		for _, l := range tcp {
			if a, err := netip.ParseAddrPort(l.Addr().String()); err == nil && !a.Addr().IsLoopback() {
				group.Go(func() error {
					s.announce(ctx, a)
					return nil
				})
			}
		}
	}
	return group.Wait()
}

// announce tells the local network of the node until ctx ends. A network where
// that cannot be is no reason to serve nobody.
func (s *Service) announce(ctx context.Context, listen netip.AddrPort) {
	service := discover.Service{Kind: discover.Node, Instance: discover.NewInstance(), Listen: listen}
	if err := discover.Announce(ctx, service, discover.Options{Log: s.log}); err != nil {
		s.log.WarnContext(ctx, "node is not announced", slog.Any("error", err))
	}
}

// Close ends all transfers and closes the state folder. What has arrived stays.
func (s *Service) Close() error {
	var errs []error
	if s.transfers != nil {
		errs = append(errs, s.transfers.Close())
	}
	if s.client != nil {
		errs = append(errs, s.client.Close())
	}
	s.http.CloseIdleConnections()
	if s.networks != nil {
		errs = append(errs, s.networks.close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	return errors.Join(errs...)
}
