package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ersatz/internal/config"
	"ersatz/internal/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	var o doctor.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor [--json]",
		Short: "Say what is missing for substitutes to work, and what to do",
		Long: `Look at all that ersatz depends on: keys, access control list, policy of votes,
units of systemd, the node, the settings of guix-daemon and of Nix, servers, IPFS
daemon, clock and disk. Nothing is changed.

What is for Guix alone, or for Nix alone, is looked at where there is a trace of
it: store, daemon, its socket or unit, profiles. Of Nix, that is what
/etc/nix/nix.conf says, and whether it trusts the keys of some items of the store
that the node has.

The settings of ersatz-substitute apply. Run it as root, or as the daemon's
user: some of it others cannot see. The exit status is 7 if something is to be
mended.`,
		Example: `  sudo ersatz doctor
  ersatz doctor --json --server http://server.example:8080`,
		Args: cobra.NoArgs,
		RunE: a.run(func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(a.getenv)
			if err != nil {
				return usageError(err)
			}
			o.ACL, o.IPFS, o.State, o.Node, o.Votes = c.ACL, c.IPFS, c.States[0], c.Node, c.Votes
			o.Version = version()
			findings := doctor.Examine(cmd.Context(), o)
			print := doctor.Print
			if asJSON {
				print = doctor.PrintJSON
			}
			if err := print(a.stdout, findings); err != nil {
				return err
			}
			if n := doctor.Faults(findings); n > 0 {
				return fmt.Errorf("%d of %d: %w", n, len(findings), errDoctor)
			}
			return nil
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print the findings as JSON")
	f.StringArrayVar(&o.Servers, "server", nil, "`URL` of a substitute server to ask instead of the daemon's (repeatable)")
	f.StringVar(&o.Store, "store", "", "`DIR` of store items (default /gnu/store)")
	f.StringVar(&o.Root, "root", "", "`DIR` that is put before all paths, for another machine's files")
	markDirname(cmd, "store")
	markDirname(cmd, "root")
	return cmd
}
