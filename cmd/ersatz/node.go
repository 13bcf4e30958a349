package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"ersatz/internal/config"
	"ersatz/internal/discover"
	"ersatz/internal/fetch"
	"ersatz/internal/keep"
	"ersatz/internal/metrics"
	"ersatz/internal/node"
	"ersatz/internal/peers"
	"ersatz/internal/transfer"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/upstream"
	"ersatz/internal/web"
	"ersatz/storepath"
)

// What a node's state folder has beside what is kept: the cache of narinfos, and
// what was learnt of sources.
const (
	textsDir = "texts"
	bookFile = "sources.json"
)

func (a *app) nodeCommand() *cobra.Command {
	var f nodeFlags
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Fetch, keep and share substitutes for this machine's clients",
		Long: `Fetch substitutes from the best mix of servers, peers and IPFS, keep them under a
quota, and give them to this machine's clients: to ersatz-substitute through a
Unix socket, to a stock guix-daemon or Nix over HTTP. Guix upstreams answer at /,
Nix upstreams at /nix; upstreams of one kind only, at / too.

Without --acl or --nix-trusted-key, narinfos are passed on whoever has signed
them, since the client judges; with them, only those that one of the keys has
signed. With --votes, several keys have to agree (docs/votes.md). Those files are
read anew for each request.

With --share, other machines get the items that a key of a --share-list has
signed, and nothing else. A share list is a Guix ACL, or public keys of Nix, one
a line.

SIZE may have a unit, such as 10G, 10GiB or 10GB; RATE is such a SIZE per second.
Sockets that systemd passes are used instead of --listen (TCP) and --socket
(Unix). Run it as a user of its own: it needs no privileges. SIGINT and SIGTERM
end it; parts that have arrived stay.`,
		Example: `  ersatz node --upstream http://substitutes.example --acl /etc/guix/acl
  ersatz node --upstream http://cache.example --nix-trusted-key cache.example-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=
  ersatz node --upstream http://substitutes.example --listen 0.0.0.0:8181 --share lan --share-list /etc/guix/acl --upload-limit 2MB
  guix build hello --substitute-urls=http://127.0.0.1:8181`,
		Args: cobra.NoArgs,
		RunE: a.run(func(cmd *cobra.Command, _ []string) error {
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			return a.node(ctx, f)
		}),
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.listen, "listen", []string{"127.0.0.1:8181"}, "`HOST:PORT` to serve HTTP on (repeatable)")
	flags.StringVar(&f.socket, "socket", config.DefaultNode, "`PATH` of the Unix socket of ersatz-substitute; none: no socket")
	flags.StringVar(&f.state, "state", "/var/lib/ersatz-node", "`DIR` that holds what is kept and learnt")
	flags.StringArrayVar(&f.upstreams, "upstream", nil, "`URL` of a substitute server of Guix or Nix (repeatable, best first)")
	flags.StringVar(&f.acl, "acl", "", "pass on only what a key in the ACL `FILE` has signed")
	flags.StringArrayVar(&f.nixKeys, "nix-trusted-key", nil, "pass on only what this `KEY`, NAME:BASE64 or a file, has signed for Nix (repeatable)")
	flags.StringVar(&f.votes, "votes", "", "pass on only what as many keys have signed as the policy `FILE` requires")
	flags.StringVar(&f.policy, "policy", transfer.Mixed.String(), "`POLICY` of where bytes come from: mixed, p2p-only or http-only")
	flags.StringVar(&f.share, "share", node.ShareNone.String(), "`WHO` else is served: none, lan or all")
	flags.StringArrayVar(&f.shareLists, "share-list", nil, "share what a key in `FILE` has signed (repeatable)")
	flags.StringVar(&f.quota, "quota", "10GiB", "keep at most `SIZE` on disk")
	flags.StringVar(&f.uploadLimit, "upload-limit", "", "send other machines at most `RATE`, in bytes per second (default no limit)")
	flags.StringArrayVar(&f.peers, "peer", nil, "`URL` of another node (repeatable)")
	flags.StringVar(&f.discover, "discover", discoverAuto, "look for nodes and servers on the local network: `WHEN` is yes, no, or auto: with --share")
	flags.StringVar(&f.ipfs, "ipfs", "", "`URL` of the RPC of an IPFS daemon, such as http://127.0.0.1:5001")
	markDirname(cmd, "state")
	markFilename(cmd, "acl")
	markFilename(cmd, "votes")
	markFilename(cmd, "share-list")
	complete(cmd, "policy", transfer.Policies()...)
	complete(cmd, "discover", discoverAuto, discoverYes, discoverNo)
	complete(cmd, "share", node.ShareNone.String(), node.ShareLAN.String(), node.ShareAll.String())
	return cmd
}

func (a *app) node(ctx context.Context, f nodeFlags) error {
	log, err := a.logger()
	if err != nil {
		return err
	}
	plan, err := f.plan()
	if err != nil {
		return err
	}
	plan.node.Log = log
	if f.state, err = filepath.Abs(f.state); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		log.WarnContext(ctx, "running as root; a user of its own would do")
	}
	s, err := f.open()
	if err != nil {
		return err
	}
	if plan.node.Share != node.ShareNone && !s.reachable() {
		err = usageError(fmt.Errorf("--share=%s needs a --listen address that other machines can reach", plan.node.Share))
	}
	if err == nil {
		err = a.nodeOn(ctx, f, plan, s)
	}
	return errors.Join(err, s.close())
}

// nodeOn opens the state folder and serves on the sockets until ctx ends.
func (a *app) nodeOn(ctx context.Context, f nodeFlags, plan nodePlan, s sockets) (err error) {
	log := plan.node.Log
	store, err := keep.Open(f.state, keep.Options{Quota: plan.quota, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	hc := httpclient.New(httpclient.Options{UserAgent: "ersatz/" + version()})
	defer hc.CloseIdleConnections()
	up := upstream.Options{Log: log}
	counted := metrics.New(version())
	countNode(counted, &plan.node, &up)
	metrics.RegisterKept(counted, store.Usage)
	client := upstream.New(hc, []string{filepath.Join(f.state, textsDir)}, up)
	defer func() { err = errors.Join(err, client.Close()) }()
	book, err := fetch.OpenBook(filepath.Join(f.state, bookFile), fetch.BookOptions{Log: log})
	if err != nil {
		return err
	}
	neighbours, err := peers.New(hc, plan.peers, plan.browser(), book, peers.Options{Log: log})
	if err != nil {
		return usageError(err)
	}
	plan.usePeers(neighbours)
	var n *node.Node // which transfers is a part of, and asks for what is to be fetched ahead
	transfers := transfer.New(store, client, book, transfer.Options{
		Policy: plan.policy, Peers: neighbours, IPFS: plan.ipfs, Count: metrics.NewTransfers(counted), Log: log,
		Look: func(ctx context.Context, p storepath.Path) (node.Want, error) { return n.Look(ctx, p) },
	})
	defer func() { err = errors.Join(err, transfers.Close()) }()
	n, err = node.New(ctx, f.state, node.Keep(store), transfers, client, plan.servers, plan.node)
	if errors.Is(err, node.ErrConflict) {
		err = usageError(err)
	}
	if err != nil {
		return err
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.Run(ctx) })
	group.Go(func() error { return book.Run(ctx) })
	group.Go(func() error { return neighbours.Run(ctx) })
	group.Go(func() error { return web.Serve(ctx, s.web, n.Web(), log) })
	var local []net.Listener
	for _, l := range s.unix {
		local = append(local, node.Credentials(l))
	}
	group.Go(func() error { return web.Serve(ctx, local, n.Socket(), log) })
	if plan.node.Share != node.ShareNone {
		for _, l := range s.web {
			if a, err := netip.ParseAddrPort(l.Addr().String()); err == nil && !a.Addr().IsLoopback() {
				group.Go(func() error { return announce(ctx, a, log) })
			}
		}
	}
	log.InfoContext(ctx, "node serves", slog.Any("addresses", addresses(s.web)), slog.Any("sockets", addresses(s.unix)),
		slog.String("state", f.state), slog.String("share", plan.node.Share.String()), slog.Int("upstreams", len(plan.servers)))
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.WarnContext(ctx, "telling systemd", slog.Any("error", err))
	}
	return group.Wait()
}

// announce tells the local network of the node until ctx ends. A network where
// that cannot be is no reason to serve nobody.
func announce(ctx context.Context, listen netip.AddrPort, log *slog.Logger) error {
	service := discover.Service{Kind: discover.Node, Instance: discover.NewInstance(), Listen: listen}
	if err := discover.Announce(ctx, service, discover.Options{Log: log}); err != nil {
		log.WarnContext(ctx, "node is not announced", slog.Any("error", err))
	}
	return nil
}

func addresses(listeners []net.Listener) []string {
	var list []string
	for _, l := range listeners {
		list = append(list, l.Addr().String())
	}
	return list
}
