package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"ersatz/internal/demo"
)

func (a *app) demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo [PATH…]",
		Short: "Show the whole path in one temporary folder",
		Long: `Make a store in a temporary folder, publish it from two servers on loopback, and
substitute it into a second store from ERIS blocks, also while a server lies and
when no blocks are left. Then three nodes pass it on when no server is left, also
while one of them is cut off. No root, Guix, network service or setting is needed.

The items are this program and a small folder, and each PATH.`,
		Example: `  ersatz demo
  ersatz demo --keep /usr/share/doc`,
		Args: cobra.ArbitraryArgs,
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			if o.Level < 1 || o.Level > 19 {
				return usageError(fmt.Errorf("--level: %d is not between 1 and 19", o.Level))
			}
			o.Paths = args
			out := &checkedWriter{w: a.stdout}
			err := demo.Run(ctx, out, o)
			if err != nil && ctx.Err() != nil {
				return fmt.Errorf("demo: %w", ctx.Err()) // and not what that brought about
			}
			return errors.Join(err, out.err)
		}),
	}
	f := cmd.Flags()
	f.IntVar(&o.Level, "level", 9, "zstd `LEVEL` of the servers, 1 to 19")
	f.BoolVar(&o.Keep, "keep", false, "leave the temporary folder behind")
	return cmd
}
