package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"ersatz/internal/config"
	"ersatz/internal/node"
	"ersatz/internal/noded"
	"ersatz/internal/transfer"
)

func (a *app) nodeCommand() *cobra.Command {
	var f nodeFlags
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Fetch, keep and share substitutes for this machine's clients",
		Long: `Fetch substitutes from the best mix of servers, peers, stores and networks, keep
them under a quota, and give them to this machine's clients: to ersatz-substitute through a
Unix socket, to a stock guix-daemon or Nix over HTTP. Guix upstreams answer at /,
Nix upstreams at /nix; upstreams of one kind only, at / too.

Without --acl or --nix-trusted-key, narinfos are passed on whoever has signed
them, since the client judges; with them, only those that one of the keys has
signed. With --votes, several keys have to agree (docs/votes.md). Those files are
read anew for each request.

With --share, other machines get the items that a key of a --share-list has
signed, and nothing else. A share list is a Guix ACL, or public keys of Nix, one
a line. With --serve, these items are served at a store URL, or given to the
network that it names, too.

A store URL (docs/stores.md) of --from names a store or network that any item may
be got from: it is asked when that is worth it (docs/node.md, "When to use what").

SIZE may have a unit, such as 10G, 10GiB or 10GB; RATE is such a SIZE per second.
Sockets that systemd passes are used instead of --listen (TCP) and --socket
(Unix). Run it as a user of its own: it needs no privileges. SIGINT and SIGTERM
end it; parts that have arrived stay.`,
		Example: `  ersatz node --upstream http://substitutes.example --acl /etc/guix/acl
  ersatz node --upstream http://cache.example --nix-trusted-key cache.example-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=
  ersatz node --upstream http://substitutes.example --listen 0.0.0.0:8181 --share lan --share-list /etc/guix/acl --upload-limit 2MB
  ersatz node --upstream http://substitutes.example --from ipfs:?bootstrap=public --from ndn:
  ersatz node --upstream http://substitutes.example --serve ipfs: --share-list /etc/guix/acl --upload-limit 2MB
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
	flags.StringArrayVar(&f.from, "from", nil, "store `URL` that blocks are got from (repeatable): "+schemeList())
	flags.StringArrayVar(&f.serve, "serve", nil, "store `URL` at which what is shared is served, or to whose network it is given (repeatable)")
	flags.StringVar(&f.ipfs, "ipfs", "", "`URL` of the RPC of an IPFS daemon, such as http://127.0.0.1:5001: as --from ipfs+URL")
	completeStores(cmd, "from")
	completeStores(cmd, "serve")
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
	o, err := f.options(log)
	if err != nil {
		return err
	}
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
	if o.Node.Share != node.ShareNone && !s.reachable() {
		err = usageError(fmt.Errorf("--share=%s needs a --listen address that other machines can reach", o.Node.Share))
	}
	if err == nil {
		err = nodeOn(ctx, f.state, o, s)
	}
	return errors.Join(err, s.close())
}

// nodeOn opens the state folder and serves on the sockets until ctx ends.
func nodeOn(ctx context.Context, state string, o noded.Options, s sockets) error {
	log := o.Node.Log
	o.Node.Listen = addresses(s.web)
	service, err := noded.Open(ctx, state, o)
	err = unlessPermitted(err, "--state names another folder")
	var option *noded.OptionError
	if errors.As(err, &option) {
		err = usageError(err)
	}
	if err != nil {
		return err
	}
	log.InfoContext(ctx, "node serves", slog.Any("addresses", addresses(s.web)), slog.Any("sockets", addresses(s.unix)),
		slog.String("state", state), slog.String("share", o.Node.Share.String()), slog.Int("upstreams", len(o.Servers)))
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.WarnContext(ctx, "telling systemd", slog.Any("error", err))
	}
	return errors.Join(service.Run(ctx, s.web, s.unix), service.Close())
}

func addresses(listeners []net.Listener) []string {
	var list []string
	for _, l := range listeners {
		list = append(list, l.Addr().String())
	}
	return list
}
