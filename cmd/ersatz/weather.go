package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/internal/config"
	"ersatz/internal/doctor"
	"ersatz/internal/node"
	"ersatz/internal/nodeapi"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/upstream"
	"ersatz/internal/votes"
	"ersatz/internal/weather"
	"ersatz/storepath"
)

// weatherFlags are the settings of weather as they are written.
type weatherFlags struct {
	servers, nixKeys   []string
	acl, votes, socket string
	closure, missing   bool
	json               bool
}

func (a *app) weatherCommand() *cobra.Command {
	var f weatherFlags
	cmd := &cobra.Command{
		Use:   "weather [--server URL] [--json] MANIFEST|PATH...",
		Short: "Say what of a manifest can be had, where and from whom",
		Long: `Ask substitute servers for the narinfos of store items, all servers at once, and
the peers of this machine's node for what they hold. For each server: how many of
the items it has, signed by which keys, how many as blocks under a signed URN,
how much is to be downloaded, how fast it answers. Altogether: what can be had.
No nar is fetched, and nothing that servers answer is kept.

PATH is a store path, a link to one such as a profile, or a file with store paths,
one a line; "-" is standard input. MANIFEST is a file whose name ends in .scm: the
program guix, in the PATH, reads it, which is to run it.

An item can be had if a narinfo counts as for ersatz-substitute, whose settings
apply: the ACL and, if it is set, the policy of votes. Servers are those of the
running guix-daemon and of the node; without any, Guix's.

The exit status is 3 if an item cannot be had. docs/weather.md has more.`,
		Example: `  ersatz weather manifest.scm
  guix gc -R /run/current-system | ersatz weather --missing -
  ersatz weather --closure ~/.guix-profile --json
  ersatz weather --server http://cache.example --nix-trusted-key cache.example-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY= paths`,
		Args: cobra.MinimumNArgs(1),
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			ctx, stop := untilSignal(cmd.Context()) // guix reads a script in a temporary folder
			defer stop()
			return a.weather(ctx, f, args)
		}),
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.servers, "server", nil, "`URL` of a substitute server to ask instead of the known ones (repeatable)")
	flags.StringVar(&f.acl, "acl", "", "`FILE` of the keys that are authorized (default: as ersatz-substitute)")
	flags.StringArrayVar(&f.nixKeys, "nix-trusted-key", nil, "`KEY` of Nix that is authorized, NAME:BASE64 or a file (repeatable)")
	flags.StringVar(&f.votes, "votes", "", "policy `FILE` of how many keys have to agree (default: as ersatz-substitute)")
	flags.StringVar(&f.socket, "socket", "", "`PATH` of the node's socket, none: no peers are asked (default: as ersatz-substitute)")
	flags.BoolVar(&f.closure, "closure", false, "look at all that the items refer to as well")
	flags.BoolVar(&f.missing, "missing", false, "list what cannot be had, and why")
	flags.BoolVar(&f.json, "json", false, "print all of it, item by item, as JSON")
	markFilename(cmd, "acl")
	markFilename(cmd, "votes")
	return cmd
}

func (a *app) weather(ctx context.Context, f weatherFlags, args []string) error {
	c, err := config.Load(a.getenv)
	if err != nil {
		return usageError(err)
	}
	o, err := f.options(c)
	if err != nil {
		return usageError(err)
	}
	node, status, err := f.node(ctx, c)
	if err != nil {
		return err
	}
	if node != nil {
		defer node.Close()
		o.Peers = node
	}
	servers, err := f.sources(status)
	if err != nil {
		return usageError(err)
	}
	paths, err := a.weatherPaths(ctx, args)
	if err != nil {
		return err
	}
	bar := a.countBar("looking for substitutes")
	o.Progress = bar.set
	hc := httpclient.New(httpclient.Options{Idle: upstream.DefaultStall, UserAgent: "ersatz/" + version()})
	defer hc.CloseIdleConnections()
	report, err := weather.Look(ctx, hc, servers, paths, o)
	bar.clear()
	if err != nil {
		return err
	}
	if f.json {
		err = weather.PrintJSON(a.stdout, report)
	} else {
		err = weather.Print(a.stdout, report, f.missing)
	}
	if lacking := len(report.Items) - report.Available; err == nil && lacking > 0 {
		return &markedError{eris.ErrNotFound, fmt.Errorf("%d of %d store items cannot be had", lacking, len(report.Items))}
	}
	return err
}

// options returns who is believed.
func (f weatherFlags) options(c config.Config) (weather.Options, error) {
	o := weather.Options{Closure: f.closure}
	keys, err := trustedKeys(c, f.acl, f.nixKeys, len(f.nixKeys) > 0)
	if err != nil {
		return o, err
	}
	o.ACL, o.Nix = keys.Guix, keys.Nix
	if file := cmp.Or(f.votes, c.Votes); file != "" {
		policy, err := votes.Load(file)
		if err != nil {
			return o, err
		}
		o.Agree = func(answers []upstream.Answer, judge upstream.Judge) upstream.Judge {
			return policy.Count(answers, keys.Guix, keys.Nix).Judge(judge)
		}
	}
	return o, nil
}

// trustedKeys reads the keys that flags name, or the ACL of the configuration,
// which may be missing if nothing needs it.
func trustedKeys(c config.Config, acl string, nixKeys []string, optional bool) (node.Keys, error) {
	if acl == "" {
		switch _, err := os.Stat(c.ACL); {
		case !errors.Is(err, fs.ErrNotExist):
			acl = c.ACL
		case !optional:
			return node.Keys{}, noACL(err)
		}
	}
	return nodeFlags{acl: acl, nixKeys: nixKeys}.keys(guixsig.ParseACL)
}

// node returns the node whose peers are asked, nil if there is none, and what it
// does. One that is named has to answer.
func (f weatherFlags) node(ctx context.Context, c config.Config) (*nodeapi.Client, nodeapi.Status, error) {
	socket := cmp.Or(f.socket, c.Node)
	if socket == "" || socket == noSocket {
		return nil, nodeapi.Status{}, nil
	}
	node := nodeapi.New(socket, 0)
	status, err := node.Status(ctx)
	if err == nil {
		return node, status, nil
	}
	node.Close()
	if f.socket == "" {
		return nil, nodeapi.Status{}, nil
	}
	return nil, nodeapi.Status{}, noNode(socket, err)
}

// sources returns the servers that are asked.
func (f weatherFlags) sources(node nodeapi.Status) ([]*upstream.Server, error) {
	urls := f.servers
	if len(urls) == 0 {
		urls = doctor.DaemonServers("/")
		for _, u := range node.Upstreams {
			urls = append(urls, u.URL)
		}
	}
	if len(urls) == 0 {
		urls = doctor.DefaultServers()
	}
	var servers []*upstream.Server
	for _, u := range urls {
		sv, err := upstream.ParseServer(u)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(servers, func(other *upstream.Server) bool { return other.String() == sv.String() }) {
			servers = append(servers, sv)
		}
	}
	return servers, nil
}

// maxPathList bounds a file of store paths, in bytes.
const maxPathList = 64 << 20

// weatherPaths returns the store paths that arguments stand for.
func (a *app) weatherPaths(ctx context.Context, args []string) ([]storepath.Path, error) {
	var all []storepath.Path
	for _, arg := range args {
		p, err := storePath(arg)
		paths := []storepath.Path{p}
		switch {
		case err == nil:
		case strings.HasSuffix(arg, ".scm"):
			paths, err = weather.Manifest(ctx, "guix", arg, a.stderr)
		default:
			paths, err = a.pathList(arg)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, paths...)
	}
	return all, nil
}

// storePath returns the store path that an argument is or, as a profile, leads
// to by links.
func storePath(arg string) (storepath.Path, error) {
	if p, err := storepath.Parse(arg); err == nil {
		return p, nil
	}
	target, err := filepath.EvalSymlinks(arg)
	if err == nil {
		target, err = filepath.Abs(target)
	}
	if err != nil {
		return storepath.Path{}, err
	}
	return storepath.Parse(target)
}

func (a *app) pathList(name string) ([]storepath.Path, error) {
	text, err := a.readAll(name, maxPathList)
	if err != nil {
		return nil, err
	}
	paths, err := weather.ParseList(string(text))
	if err != nil {
		return nil, usageError(fmt.Errorf("%s: %w", name, err))
	}
	return paths, nil
}
