package main

import (
	"fmt"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"ersatz/internal/bake"
)

// bakeChild is the command that publish bakes by. It is none for users.
const bakeChild = "bake-child"

func (a *app) bakeChildCommand() *cobra.Command {
	return &cobra.Command{
		Use:     bakeChild + " VERSION",
		Short:   "Bake what \"ersatz publish\" of that version says on stdin",
		Hidden:  true,
		Example: "  ersatz bake-child VERSION",
		Args:    cobra.ExactArgs(1),
		RunE: a.run(func(cmd *cobra.Command, args []string) error {
			if args[0] != version() {
				return usageError(fmt.Errorf("this is version %s, and the server is version %s", version(), args[0]))
			}
			// The server says when it is over: systemd tells both at once.
			signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
			return bake.Child(a.stdin, a.stdout)
		}),
	}
}

// newBakeChild returns a command that runs this very program, also when another
// version has taken its name meanwhile.
func newBakeChild() *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", bakeChild, version())
	cmd.Args[0] = "ersatz" // for ps
	return cmd
}
