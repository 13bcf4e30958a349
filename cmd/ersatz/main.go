// Command ersatz publishes store items of Guix and Nix as ERIS blocks, and
// fetches, keeps and shares them for a machine's clients; ersatz-substitute
// installs them. Each command has a --help with examples;
// docs/exit-codes.md has the table of exit statuses.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
	os.Exit(a.main(context.Background(), os.Args[1:]))
}

// app is what the commands share: the process's surroundings.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	getenv func(string) string

	log     logFlags
	started bool // whether a command's own work has begun
}

// main runs one command line and returns the exit status.
func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	help := &checkedWriter{w: a.stdout}
	root.SetOut(help)
	cmd, err := root.ExecuteContextC(ctx)
	misused := err != nil && !a.started
	switch {
	case help.err != nil:
		err, misused = help.err, false
	case misused:
		err = usageError(err)
	}
	if err == nil {
		return exitOK
	}
	status, text := exitCode(err), strings.TrimPrefix(err.Error(), "ersatz: ")
	if status == exitInterrupted {
		text = strings.ReplaceAll(text, context.Canceled.Error(), "interrupted")
	}
	fmt.Fprintln(a.stderr, "ersatz: "+text)
	if misused {
		if cmd.HasParent() {
			fmt.Fprintln(a.stderr, "Usage: "+cmd.UseLine())
		}
		fmt.Fprintf(a.stderr, "Try '%s --help'.\n", cmd.CommandPath())
	}
	return status
}

// checkedWriter keeps the first error for those who print and do not look after
// it, as cobra does with help and scripts for completion.
type checkedWriter struct {
	w   io.Writer
	err error
}

func (c *checkedWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if c.err == nil {
		c.err = err
	}
	return n, err
}

// run is what each command's RunE is made with. Errors before it are the
// command line's.
func (a *app) run(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.started = true
		return f(cmd, args)
	}
}

// untilSignal returns a context that SIGINT and SIGTERM end, for commands that
// have something to wind up. The others die at once, as is usual: a filter
// whose input was cut by the same keystroke must not take that for its end.
// A second signal kills.
func untilSignal(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
