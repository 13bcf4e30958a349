package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"ersatz/internal/bake"
	"ersatz/internal/compress"
	"ersatz/internal/discover"
	"ersatz/internal/metrics"
	"ersatz/internal/publish"
	"ersatz/internal/storedb"
	"ersatz/internal/web"
	"ersatz/storepath"
)

func (a *app) publishCommand() *cobra.Command {
	var p publishFlags
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "Serve store items over HTTP, as nars and as ERIS blocks",
		Long: `Serve the items of a store over HTTP, as "guix publish" does and with its options.

With --cache, what a client asks for is baked in the background: compressed,
encoded as ERIS, and signed with its URN. Baked items are served as files and as
blocks, also after the store has lost them. Without --cache, nars are compressed
while they are sent, and there are no blocks.

With --nix-key, narinfos are signed for Nix as well, and for Nix alone if --store
is not Guix's and neither --public-key nor --private-key is given.

With --serve, the blocks can be had by other ways than HTTP. A store that this
machine listens at, such as coap+tcp://, has all that is baked, as HTTP has. A
network that everybody can ask, such as IPFS, is given what --bake-roots refers
to, and nothing else.

TTL is a number and s, h, d, w, m or y; m is a month. SIZE may have a unit, such
as 10M, 10MiB or 10MB. The keys are read and the socket is bound before --user
takes effect. A socket that systemd passes is used instead of --listen and
--port. SIGINT and SIGTERM end it; what is being answered may finish within 5
seconds.`,
		Example: `  ersatz publish --port 8181
  ersatz publish --cache=/var/cache/ersatz --compression=zstd:19 --ttl=30d --user=ersatz
  ersatz publish --store=/nix/store --nix-key=/etc/nix/nix-key.sec --cache=/var/cache/ersatz --user=ersatz
  ersatz publish -c /var/cache/ersatz --ipfs=http://127.0.0.1:5001 --bake-roots=/var/guix/profiles/system
  ersatz publish -c /var/cache/ersatz --bake-roots=/var/guix/profiles/system --serve ipfs: --serve coap+tcp://[::]:5683 --upload-limit 10MB`,
		Args: cobra.NoArgs,
		RunE: a.run(func(cmd *cobra.Command, _ []string) error {
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			p.guixKey = cmd.Flags().Changed("public-key") || cmd.Flags().Changed("private-key")
			return a.publish(ctx, p)
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&p.advertise, "advertise", "a", false, "advertise on the local network, as \"guix publish\" does")
	f.StringVar(&p.listen, "listen", "", "name or address of the `HOST` interface to listen on (default all)")
	f.IntVarP(&p.port, "port", "p", 8080, "`PORT` to listen on")
	f.StringVar(&p.metricsListen, "metrics-listen", "", "`HOST:PORT` to answer with metrics for Prometheus on, and with nothing else")
	f.StringVarP(&p.user, "user", "u", "", "go on as `USER` as soon as possible")
	f.StringArrayVarP(&p.compression, "compression", "C", nil, "compress by `METHOD[:LEVEL]`: zstd, gzip, lzip or none (repeatable; default zstd:19)")
	f.StringVarP(&p.cache, "cache", "c", "", "keep what was baked in `DIR`")
	f.StringVar(&p.bypass, "cache-bypass-threshold", "", "serve items below `SIZE` before they are baked (default 10MiB; with --nix-key, any)")
	f.IntVar(&p.workers, "workers", 0, "bake `N` items at once (default: one per processor)")
	f.StringVar(&p.ttl, "ttl", "", "say that narinfos and nars can be kept for `TTL`, and keep unused ones for as long")
	f.StringVar(&p.negativeTTL, "negative-ttl", "", "say that missing narinfos stay missing for `TTL`")
	f.StringVar(&p.narPath, "nar-path", "nar", "begin the URLs of nars with `PATH`")
	f.StringVar(&p.publicKey, "public-key", "/etc/guix/signing-key.pub", "`FILE` with the public key")
	f.StringVar(&p.privateKey, "private-key", "/etc/guix/signing-key.sec", "`FILE` with the private key")
	f.StringVar(&p.nixKey, "nix-key", "", "`FILE` with a secret key of Nix, to sign with as well")
	f.StringVar(&p.ipfs, "ipfs", "", "put blocks into the IPFS daemon whose RPC is at `URL`, such as http://127.0.0.1:5001")
	f.StringArrayVar(&p.roots, "bake-roots", nil, "bake ahead what `PROFILE|FILE`, a link into the store or a list of paths, refers to, also when that changes (repeatable)")
	f.StringArrayVar(&p.serve, "serve", nil, "serve blocks at the store `URL` too, or give them to that network, such as coap+tcp://[::]:5683 or ipfs: (repeatable)")
	f.StringVar(&p.uploadLimit, "upload-limit", "", "send at most `RATE`, in bytes per second, at and through --serve (default no limit)")
	f.StringVar(&p.store, "store", storepath.Guix, "`DIR` of the store")
	f.StringVar(&p.state, "state", "", "`DIR` that holds the store's database (default /var/guix; /nix/var/nix for --store=/nix/store)")
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "secret-key" {
			name = "private-key" // Guix has both
		}
		return pflag.NormalizedName(name)
	})
	completeStores(cmd, "serve")
	markDirname(cmd, "cache")
	markDirname(cmd, "store")
	markDirname(cmd, "state")
	markFilename(cmd, "public-key", "pub")
	markFilename(cmd, "private-key", "sec")
	markFilename(cmd, "nix-key", "sec")
	return cmd
}

func (a *app) publish(ctx context.Context, p publishFlags) error {
	log, err := a.logger()
	if err != nil {
		return err
	}
	if p.store, err = filepath.Abs(p.store); err != nil {
		return err
	}
	if p.state, err = filepath.Abs(cmp.Or(p.state, storedb.StateDir(p.store))); err != nil {
		return err
	}
	plan, err := p.plan(log)
	if err != nil {
		return err
	}
	who, err := lookupAccount(p.user)
	if err != nil {
		return err
	}
	signer, err := p.signer()
	if err != nil {
		return err
	}
	for _, name := range p.secrets() {
		if fi, err := os.Stat(name); err == nil && fi.Mode().Perm()&0o004 != 0 {
			log.WarnContext(ctx, "everybody can read the private key", slog.String("file", name))
		}
	}
	listeners, err := p.listeners()
	if err != nil {
		return err
	}
	measure, err := listenMetrics(p.metricsListen)
	if err == nil && p.advertise {
		var service discover.Service
		if service, err = p.advertised(listeners); err == nil {
			plan.advertise = &service
		}
	}
	if err == nil {
		err = a.publishOn(ctx, listeners, measure, p, plan, who, signer)
	}
	for _, l := range slices.Concat(listeners, measure) {
		l.Close() // closed already unless it was never served
	}
	return err
}

// publishOn gives up privileges, opens the store and the cache, and serves
// until ctx ends.
func (a *app) publishOn(ctx context.Context, listeners, measure []net.Listener, p publishFlags, plan publishPlan, who account, signer bake.Signer) (err error) {
	log := plan.publish.Log
	if p.cache != "" {
		if err := who.own(p.cache); err != nil {
			return fmt.Errorf("cache folder: %w", err)
		}
	}
	if err := who.become(); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		log.WarnContext(ctx, "running as root; --user would do with less")
	}
	db, err := storedb.Open(storedb.Options{StoreDir: p.store, StateDir: p.state})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var cache *bake.Cache
	if p.cache != "" {
		if err := who.canWrite(p.cache); err != nil {
			return fmt.Errorf("cache %w", err)
		}
		if err := notState(p.cache); err != nil { // whose nars and trees would be removed in time
			return fmt.Errorf("cache folder: %w", err)
		}
		for _, name := range p.roots {
			if _, err := bake.RootsOf(db, name); err != nil {
				return err
			}
		}
		if cache, err = bake.Open(p.cache, db, signer, plan.bake); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, cache.Close()) }()
		plan.publish.Cache = &publish.Baked{Dir: cache.Dir(), Baker: cache, Blocks: cache.Blocks(), Contents: cache.Blocks()}
	}
	counted := metrics.New(version())
	plan.publish.Requests = metrics.NewRequests(counted, metrics.Web)
	if cache != nil {
		metrics.RegisterBakes(counted, cache.Status)
	}
	server, err := publish.New(db, signer, plan.publish)
	if err != nil {
		return usageError(err)
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if !compress.Native && cache != nil {
		log.WarnContext(ctx, "built without cgo: zstd is compressed by an encoder in Go, whose nars at level 19 are larger than those of libzstd")
	}

	served := &serving{}
	if cache != nil {
		if served, err = plan.serve.openFor(ctx, cache, log); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, served.Close()) }()
		metrics.RegisterShares(counted, served.status)
	}

	group, ctx := errgroup.WithContext(ctx)
	served.run(ctx, group)
	if cache != nil {
		group.Go(func() error { return cache.Run(ctx) })
		group.Go(func() error {
			cache.BakeAhead(ctx, p.roots)
			return nil
		})
	}
	group.Go(func() error { return web.ServeQuick(ctx, listeners, server, server, log) })
	group.Go(func() error { return web.Serve(ctx, measure, metricsHandler(counted), log) })
	if plan.advertise != nil {
		group.Go(func() error { return discover.Announce(ctx, *plan.advertise, discover.Options{Log: log}) })
	}
	for _, l := range listeners {
		log.InfoContext(ctx, "publishing", slog.String("address", l.Addr().String()), slog.String("store", p.store),
			slog.String("cache", p.cache), slog.String("database", db.Source()), keyAttrs(signer))
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.WarnContext(ctx, "telling systemd", slog.Any("error", err))
	}
	return group.Wait()
}
