package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"ersatz/eris"
	"ersatz/internal/bundle"
	"ersatz/internal/config"
	"ersatz/internal/durable"
	"ersatz/internal/nodeapi"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// trustFlags say whose narinfos travel.
type trustFlags struct {
	acl     string
	nixKeys []string
	any     bool
}

func (t *trustFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&t.acl, "acl", "", "`FILE` of the keys that are authorized (default: as ersatz-substitute)")
	f.StringArrayVar(&t.nixKeys, "nix-trusted-key", nil, "`KEY` of Nix that is authorized, NAME:BASE64 or a file (repeatable)")
	f.BoolVar(&t.any, "any-key", false, "take narinfos that any key has signed for Guix: whoever installs judges")
	markFilename(cmd, "acl")
}

// judge returns who says which narinfos count.
func (t trustFlags) judge(c config.Config) (upstream.Judge, error) {
	keys, err := trustedKeys(c, t.acl, t.nixKeys, t.any || len(t.nixKeys) > 0)
	if err != nil || !t.any {
		return keys.Verify, err
	}
	return func(n *narinfo.Narinfo) (narinfo.Signed, error) {
		if s, err := keys.Verify(n); err == nil {
			return s, nil
		}
		return bundle.AnyKey(n)
	}, nil
}

// exportFlags are the settings of export as they are written.
type exportFlags struct {
	trust      trustFlags
	from, have []string
	output     string
	json       bool
}

func (a *app) exportCommand() *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "export [--from URL] [--have FILE] PATH... > BUNDLE",
		Short: "Write store items and all they refer to into one file, to be carried",
		Long: `Write a bundle: the blocks of the compressed nars of store items, and of all that
they refer to, with their signed narinfos. It goes on a USB stick, say, and into
a machine that "ersatz import" is run on. docs/bundles.md describes the file.

PATH is a store path, a link to one such as a profile, or a file with store paths,
one a line; "-" is standard input. --have names lists of what the receiver has,
and what is left out therefore: what "guix gc -R PROFILE" or "ersatz import --list"
prints there.

The items come from substitute servers: an ersatz publish, an ersatz node, any
other, or a folder, file:///DIR. Blocks are taken if a signed narinfo names them,
else whole nars. Without --from, the servers are those of the running guix-daemon,
or else Guix's.
Narinfos must be signed by an authorized key, as for ersatz-substitute.

If an item cannot be had, nothing is written, and the exit status is 3. If the
status is not 0, what was written is of no use.`,
		Example: `  ersatz export --from http://127.0.0.1:8080 /gnu/store/…-emacs-30.1 > emacs.cbor
  ersatz export --have list-of-the-receiver --output /media/stick/system.cbor /run/current-system
  guix build hello | ersatz export - | ssh far.example ersatz import --to /srv/mirror`,
		Args: cobra.MinimumNArgs(1),
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			return a.export(ctx, f, args)
		}),
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.from, "from", nil, "`URL` of a substitute server, best first (repeatable)")
	flags.StringArrayVar(&f.have, "have", nil, "`FILE` of store paths that the receiver has (repeatable)")
	flags.StringVar(&f.output, "output", "", "`FILE` to write instead of standard output, when all is there")
	flags.BoolVar(&f.json, "json", false, "print what was exported as JSON; needs --output")
	f.trust.register(cmd)
	markFilename(cmd, "have")
	markFilename(cmd, "output")
	return cmd
}

func (a *app) export(ctx context.Context, f exportFlags, args []string) error {
	log, err := a.logger()
	if err != nil {
		return err
	}
	c, err := config.Load(a.getenv)
	if err != nil {
		return usageError(err)
	}
	judge, err := f.trust.judge(c)
	if err != nil {
		return usageError(err)
	}
	switch {
	case f.json && f.output == "":
		return usageError(errors.New("--json needs --output: standard output takes the bundle"))
	case f.output == "" && isTerminal(a.stdout):
		return usageError(errors.New("a bundle is nothing for a terminal: redirect it, or use --output"))
	}
	servers, err := weatherFlags{servers: f.from}.sources(nodeapi.Status{})
	if err != nil {
		return usageError(fmt.Errorf("--from: %w", err))
	}
	paths, err := a.weatherPaths(ctx, args)
	if err != nil {
		return err
	}
	have := map[storepath.Path]bool{}
	for _, name := range f.have {
		list, err := a.pathList(name)
		if err != nil {
			return err
		}
		for _, p := range list {
			have[p] = true
		}
	}
	hc := httpclient.New(httpclient.Options{Idle: upstream.DefaultStall, UserAgent: "ersatz/" + version()})
	defer hc.CloseIdleConnections()
	client := upstream.New(hc, nil, upstream.Options{Log: log})
	defer client.Close()
	bar := a.countBar("exporting")
	var done bundle.Exported
	err = a.writeTo(f.output, func(w io.Writer) (err error) {
		done, err = bundle.Export(ctx, w, client, servers, paths, judge, bundle.ExportOptions{Have: have, Progress: bar.set, Log: log})
		return err
	})
	bar.clear()
	switch {
	case errors.Is(err, bundle.ErrMissing):
		return &markedError{eris.ErrNotFound, err}
	case err != nil:
		return err
	case f.json:
		return json.NewEncoder(a.stdout).Encode(done)
	}
	_, err = fmt.Fprintf(a.stderr, "%s, %d left out, %s in %d blocks\n",
		storeItems(len(done.Items)), done.Had, humanize.IBytes(uint64(done.Bytes)), done.Blocks)
	return err
}

// storeItems says how many there are.
func storeItems(n int) string {
	if n == 1 {
		return "1 store item"
	}
	return strconv.Itoa(n) + " store items"
}

// writeTo has fill write a file, which appears when it is whole, or standard
// output for "".
func (a *app) writeTo(name string, fill func(w io.Writer) error) error {
	if name == "" {
		return fill(a.stdout)
	}
	if err := checkOutput(name); err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	return durable.WriteFile(name, 0o644, fill)
}
