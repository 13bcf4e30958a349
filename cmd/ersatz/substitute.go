package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"ersatz/internal/config"
	"ersatz/internal/substitute"
)

// repliesFD is where guix-daemon reads replies (Guix 1.5.0,
// nix/libutil/util.cc, Agent).
const repliesFD = 4

func (a *app) substituteCommand() *cobra.Command {
	var query, install, check bool
	cmd := &cobra.Command{
		Use:   "substitute --query|--substitute|--check",
		Short: "Install substitutes: run by guix-daemon, not by people",
		Long: `Answer guix-daemon, which asks what servers have (--query) and has it installed
(--substitute): requests come on standard input, replies go to file descriptor
4, progress to standard error. The daemon names the servers in _NIX_OPTIONS.

Settings are in /etc/ersatz/config, or in the environment: ERSATZ_ACL,
ERSATZ_STATE, ERSATZ_IPFS, ERSATZ_NODE, ERSATZ_LOG. None is needed.`,
		Example: `  ersatz substitute --check
  sudo install packaging/ersatz-guix /usr/local/bin/ersatz-guix
  sudo install -D -m 644 packaging/guix-daemon-ersatz.conf \
    /etc/systemd/system/guix-daemon.service.d/ersatz.conf`,
		Args: cobra.NoArgs,
		RunE: a.run(func(cmd *cobra.Command, _ []string) error {
			return a.substitute(cmd.Context(), query, check)
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&query, "query", false, "answer what can be had")
	f.BoolVar(&install, "substitute", false, "install what is asked for")
	f.BoolVar(&check, "check", false, "load the configuration, say nothing if it is good")
	cmd.MarkFlagsOneRequired("query", "substitute", "check")
	cmd.MarkFlagsMutuallyExclusive("query", "substitute", "check")
	return cmd
}

func (a *app) substitute(ctx context.Context, query, check bool) error {
	c, err := config.Load(a.getenv)
	if err != nil || check {
		return usageError(err)
	}
	replies, err := openReplies()
	if err != nil {
		return err
	}
	defer replies.Close()
	s, err := substitute.New(substitute.ParseOptions(a.getenv("_NIX_OPTIONS")), a.stderr, substitute.Options{
		ACL: c.ACL, States: c.States, IPFS: c.IPFS, Node: c.Node, Log: a.settingsLogger(c.Log),
	})
	if err != nil {
		return err
	}
	if query {
		err = s.Query(ctx, a.stdin, replies)
	} else {
		err = s.Substitute(ctx, a.stdin, replies)
	}
	if errors.Is(err, substitute.ErrProtocol) {
		err = usageError(err)
	}
	return errors.Join(err, s.Close())
}

// openReplies returns the daemon's pipe. Without one, a person has started the
// program. What the Go runtime has opened there meanwhile is closed on exec,
// which an inherited descriptor is not.
func openReplies() (io.WriteCloser, error) {
	if flags, err := unix.FcntlInt(repliesFD, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
		return nil, usageError(fmt.Errorf("file descriptor %d is not open: ersatz substitute is run by guix-daemon; see docs/substitute.md", repliesFD))
	}
	return os.NewFile(repliesFD, "replies"), nil
}

// settingsLogger returns a logger for people who see the daemon's log: without
// the time, which the daemon's own log has.
func (a *app) settingsLogger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, attr slog.Attr) slog.Attr {
			if len(groups) == 0 && attr.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return attr
		},
	}))
}
