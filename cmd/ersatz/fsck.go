package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ersatz/guixsig"
	"ersatz/internal/bake"
	"ersatz/internal/folder"
	"ersatz/internal/keep"
	"ersatz/nixsig"
)

// fsckFlags are the settings of fsck as they are written.
type fsckFlags struct {
	repair, json            bool
	acl, publicKey, narPath string
	nixPublicKey            string
}

func (a *app) fsckCommand() *cobra.Command {
	var f fsckFlags
	cmd := &cobra.Command{
		Use:   "fsck [--repair] [--json] DIR",
		Short: "Check all that is in the folder of publish or of a node",
		Long: `Read everything in the cache folder of "ersatz publish": signatures of narinfos,
nars against sizes and hashes, ERIS trees and the index of blocks against the
nars, files that belong to nothing. Each fault is a line. The exit status is 4
if there was any, also if it was repaired.

With --repair, what is broken is removed, so that it is baked again, and trees
and index rows are made anew. publish may go on meanwhile.

The state folder of "ersatz node" is known by what is in it. It is checked in
the same way, but for signatures: a node keeps what its clients judge. The node
may go on meanwhile, but not with --repair.

In the folder of publish, a narinfo must be signed by the key in --public-key, by
default that in DIR, or by one in --acl; and for Nix by that in --nix-public-key,
by default that in DIR. Of the defaults, one may be missing.`,
		Example: `  ersatz fsck /var/cache/ersatz
  ersatz fsck --repair --json --public-key /etc/guix/signing-key.pub /var/cache/ersatz
  ersatz fsck /var/lib/ersatz-node`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: dirArgs,
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			return a.fsck(ctx, f, args[0])
		}),
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.repair, "repair", false, "remove what is broken, and make anew what can be")
	flags.BoolVar(&f.json, "json", false, "print faults as JSON objects, one a line")
	flags.StringVar(&f.acl, "acl", "", "`FILE` with the keys that may have signed")
	flags.StringVar(&f.publicKey, "public-key", "", "`FILE` with the key that signed (default: DIR/signing-key.pub)")
	flags.StringVar(&f.nixPublicKey, "nix-public-key", "", "`FILE` with Nix's key that signed (default: DIR/nix-key.pub)")
	flags.StringVar(&f.narPath, "nar-path", "nar", "`PATH` that publish was told")
	markFilename(cmd, "acl")
	markFilename(cmd, "public-key", "pub")
	markFilename(cmd, "nix-public-key", "pub")
	cmd.MarkFlagsMutuallyExclusive("acl", "public-key")
	return cmd
}

func (a *app) fsck(ctx context.Context, f fsckFlags, dir string) error {
	if _, err := os.ReadDir(dir); err != nil {
		return err
	}
	r := faultReport{w: a.stdout, json: f.json, bar: a.countBar("checking")}
	if keep.IsState(dir) {
		if f.acl != "" || f.publicKey != "" || f.nixPublicKey != "" {
			return usageError(fmt.Errorf("%s is the state folder of a node, where no key is asked for", dir))
		}
		err := keep.Fsck(ctx, dir, keep.CheckOptions{Repair: f.repair, Progress: r.bar.set}, r.report)
		return r.end(dir, nodeRuns(err))
	}
	keys, err := f.keys(dir)
	if err != nil {
		return err
	}
	o := bake.FsckOptions{NarPath: strings.Trim(f.narPath, "/"), Repair: f.repair, Progress: r.bar.set}
	return r.end(dir, bake.Fsck(ctx, dir, keys, o, r.report))
}

// faultReport prints faults and counts them.
type faultReport struct {
	w                io.Writer
	json             bool
	bar              countBar
	faults, repaired int
	err              error // the first of printing
}

func (r *faultReport) report(x folder.Fault) {
	r.faults++
	if x.Repaired {
		r.repaired++
	}
	r.bar.clear()
	if err := r.print(x); err != nil && r.err == nil {
		r.err = err
	}
}

func (r *faultReport) print(x folder.Fault) error {
	if r.json {
		return json.NewEncoder(r.w).Encode(x)
	}
	tail := ""
	if x.Repaired {
		tail = " (repaired)"
	}
	_, err := fmt.Fprintf(r.w, "%s: %s%s\n", x.File, x.Text, tail)
	return err
}

// end returns what the command ends with: err, or that there were faults.
func (r *faultReport) end(dir string, err error) error {
	r.bar.clear()
	switch {
	case err != nil:
		return err
	case r.err != nil:
		return r.err
	case r.faults > 0:
		return fmt.Errorf("%s: %w: %s, %d repaired", dir, errDamage, plural(r.faults, "fault"), r.repaired)
	}
	return nil
}

// plural returns "1 fault" or "2 faults".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// keys returns the keys that narinfos must be signed by. One kind may have
// none, if that is left to what lies in the folder.
func (f fsckFlags) keys(dir string) (keys bake.Keys, err error) {
	if f.acl != "" {
		keys.Guix, _, err = readACL(f.acl)
	} else {
		keys.Guix, err = guixKey(cmp.Or(f.publicKey, filepath.Join(dir, bake.KeyFile)))
		if f.publicKey == "" && errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return keys, err
	}
	name := cmp.Or(f.nixPublicKey, filepath.Join(dir, bake.NixKeyFile))
	text, err := readFile(name)
	switch {
	case f.nixPublicKey == "" && errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return keys, err
	default:
		key, err := nixsig.ParsePublicKey(strings.TrimSpace(string(text)))
		if err != nil {
			return keys, usageError(fmt.Errorf("%s: %w", name, err))
		}
		keys.Nix = append(keys.Nix, key)
	}
	if f.acl == "" && len(keys.Guix.Keys()) == 0 && len(keys.Nix) == 0 {
		return keys, fmt.Errorf("no %s in %s (either it is no cache folder of publish, or --public-key or --nix-public-key is needed): %w",
			bake.KeyFile, dir, fs.ErrNotExist)
	}
	return keys, nil
}

func guixKey(name string) (guixsig.ACL, error) {
	text, err := readFile(name)
	if err != nil {
		return guixsig.ACL{}, err
	}
	key, err := guixsig.ParsePublicKey(text)
	if err != nil {
		return guixsig.ACL{}, usageError(fmt.Errorf("%s: %w", name, err))
	}
	return guixsig.ACL{}.Add(key), nil
}

// countBar shows on a terminal how many of a number of things are done.
type countBar struct{ bar *progressbar.ProgressBar } // nil: shows nothing

func (a *app) countBar(what string) countBar {
	f, ok := a.stderr.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return countBar{}
	}
	return countBar{progressbar.NewOptions(-1,
		progressbar.OptionSetWriter(f),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowCount(),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionFullWidth(),
	)}
}

// set says that done of total things are done. An error is the terminal's.
func (c countBar) set(done, total int) {
	if c.bar == nil {
		return
	}
	c.bar.ChangeMax(total)
	c.bar.Set(done)
}

// clear takes the bar off the terminal, so that a line can be printed.
func (c countBar) clear() {
	if c.bar != nil {
		c.bar.Clear()
	}
}
