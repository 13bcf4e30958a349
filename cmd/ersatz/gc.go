package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"ersatz/internal/folder"
	"ersatz/internal/keep"
)

func (a *app) gcCommand() *cobra.Command {
	var quota string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "gc [--quota SIZE] [--json] STATE",
		Short: "Remove what is broken or too much in the state folder of a node",
		Long: `Read everything in the state folder of "ersatz node", as fsck does, remove what
is broken, and say so. Then remove, with --quota, what was used least recently
until the rest is within SIZE; and parts of items that nobody has used for 30
days. The node must not run: while it does, it keeps to its own --quota.

Each fault is a line; the last line says what was freed. What is broken is
fetched again when it is asked for, so that the exit status is 0.`,
		Example: `  ersatz gc /var/lib/ersatz-node
  ersatz gc --quota 2G --json /var/lib/ersatz-node`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: dirArgs,
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			return a.gc(ctx, quota, asJSON, args[0])
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&quota, "quota", "", "`SIZE` that may stay, as 500M or 10G (default: all)")
	flags.BoolVar(&asJSON, "json", false, "print faults and the last line as JSON objects, one a line")
	return cmd
}

func (a *app) gc(ctx context.Context, quota string, asJSON bool, dir string) error {
	var o keep.GCOptions
	if quota != "" {
		n, err := parseSize(quota)
		if err == nil && n <= 0 {
			err = fmt.Errorf("%q leaves no place", quota)
		}
		if err != nil {
			return usageError(fmt.Errorf("--quota: %w", err))
		}
		o.Quota = n
	}
	if _, err := os.ReadDir(dir); err != nil {
		return err
	}
	// Else a folder of something else would get folders of a node.
	if !keep.IsState(dir) {
		return fmt.Errorf("%s is no state folder of a node", dir)
	}
	r := faultReport{w: a.stdout, json: asJSON, bar: a.countBar("checking")}
	o.Progress = r.bar.set
	freed, err := keep.GC(ctx, dir, o, r.report)
	r.bar.clear()
	if err != nil {
		return nodeRuns(err)
	}
	if r.err != nil {
		return r.err
	}
	if asJSON {
		return json.NewEncoder(a.stdout).Encode(freed)
	}
	_, err = fmt.Fprintf(a.stdout, "%s repaired, %s and %s removed, %d bytes freed, %d bytes kept\n",
		plural(freed.Broken, "fault"), plural(freed.Items, "item"), plural(freed.Parts, "part"), freed.Bytes, freed.Left)
	return err
}

// nodeRuns says what to do if a node has its state folder.
func nodeRuns(err error) error {
	if errors.Is(err, folder.ErrLocked) {
		return fmt.Errorf("%w: stop the node first", err)
	}
	return err
}
