package main

import (
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"ersatz/internal/compress"
)

// root returns the command tree. It is built anew for each run: there is no
// global state.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ersatz",
		Short: "Substitutes from anywhere, verified, for Guix and Nix",
		Long: `ersatz publishes store items as ERIS blocks beside ordinary substitutes, and
fetches, keeps and shares them, from whoever has the blocks, for this machine's
Guix and Nix. ersatz-substitute, a program of its own, installs them under a
stock guix-daemon.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 corrupt,
5 untrusted, 6 unreachable, 7 doctor found a fault, 130 interrupted.`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			_, err := a.logger() // wrong in every command or in none
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetIn(a.stdin)
	root.SetErr(a.stderr)
	a.log.register(root)
	root.AddCommand(
		a.encodeCommand(), a.decodeCommand(),
		a.publishCommand(), a.nodeCommand(), a.peersCommand(), a.fsckCommand(), a.gcCommand(),
		a.exportCommand(), a.importCommand(), a.weatherCommand(), a.doctorCommand(), a.demoCommand(),
		a.keygenCommand(), a.authorizeCommand(), a.narinfoCommand(),
		a.manCommand(), a.bakeChildCommand(), a.versionCommand(),
	)
	return root
}

// logFlags say how the commands that run for long log, on stderr.
type logFlags struct{ format, level string }

func (l *logFlags) register(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&l.format, "log-format", "text", "`FORMAT` of log lines: text or json")
	f.StringVar(&l.level, "log-level", "info", "least `LEVEL` that is logged: debug, info, warn or error")
	complete(root, "log-format", "text", "json")
	complete(root, "log-level", "debug", "info", "warn", "error")
}

// logger returns the logger that the flags ask for.
func (a *app) logger() (*slog.Logger, error) {
	var o slog.HandlerOptions
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.log.level)); err != nil {
		return nil, usageError(fmt.Errorf("--log-level: %w", err))
	}
	o.Level = level
	switch a.log.format {
	case "text":
		return slog.New(slog.NewTextHandler(a.stderr, &o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.stderr, &o)), nil
	}
	return nil, usageError(fmt.Errorf("--log-format: %q is neither text nor json", a.log.format))
}

// complete makes the shell offer values for a flag. The flag may be one of the
// command or, for the root, a persistent one.
func complete(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // our own misspelling
	}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version and what the program was built with",
		Example: "  ersatz version",
		Args:    cobra.NoArgs,
		RunE: a.run(func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(a.stdout, "ersatz %s (%s, %s/%s, %s)\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH, zstdEncoder())
			return err
		}),
	}
}

// version returns the module's version and the commit that it was built from,
// as far as the Go toolchain has recorded them.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" {
		v = "(devel)"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && v == "(devel)" {
			v = s.Value
		}
	}
	return v
}

// zstdEncoder says which encoder publish compresses with.
func zstdEncoder() string {
	if compress.Native {
		return "libzstd"
	}
	return "zstd in Go, whose level 19 is larger than the reference's"
}
