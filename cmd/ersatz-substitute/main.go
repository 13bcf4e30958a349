// Command ersatz-substitute stands where guix-daemon starts `guix substitute`.
// It is a program of its own because it runs as the daemon's user and writes
// into the store: it links nothing that it does not need, HTTP is all that it
// knows of networks, and no C is in it. docs/substitute.md describes it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"ersatz/internal/config"
	"ersatz/internal/substitute"
	"ersatz/internal/votes"
)

// Exit statuses: those of docs/exit-codes.md that can come about here.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // command line, configuration, or the daemon's protocol
)

// repliesFD is where guix-daemon reads replies (Guix 1.5.0,
// nix/libutil/util.cc, Agent).
const repliesFD = 4

func main() {
	// The process lives for one query or some items, with a heap of some MiB. With
	// this beside it, which is never touched, its memory is collected from 32 MiB
	// on, and not ever so often before.
	ballast := make([]byte, 16<<20)
	p := process{stdin: os.Stdin, stdout: os.Stdout, stderr: &console{w: os.Stderr}, getenv: os.Getenv}
	status := p.main(context.Background(), os.Args[1:])
	runtime.KeepAlive(ballast)
	os.Exit(status)
}

// process is the surroundings of the program.
type process struct {
	stdin  io.Reader
	stdout io.Writer
	stderr *console
	getenv func(string) string
}

// main runs one command line and returns the exit status.
func (p process) main(ctx context.Context, args []string) int {
	mode := ""
	if len(args) == 1 {
		mode = args[0]
	}
	switch mode {
	case "--query", "--substitute", "--check":
	case "--help":
		_, err := io.WriteString(p.stdout, substitute.Help)
		return p.end(exitFailed, err)
	default:
		fmt.Fprint(p.stderr, substitute.Usage)
		return exitUsage
	}
	c, err := config.Load(p.getenv)
	if err == nil && mode == "--check" && c.Votes != "" {
		_, err = votes.Load(c.Votes)
	}
	if err != nil || mode == "--check" {
		return p.end(exitUsage, err)
	}
	replies, err := openReplies()
	if err != nil {
		return p.end(exitUsage, err)
	}
	err = errors.Join(p.answer(ctx, c, mode == "--query", replies), replies.Close())
	if errors.Is(err, substitute.ErrProtocol) {
		return p.end(exitUsage, err)
	}
	return p.end(exitFailed, err)
}

// answer answers the daemon's requests until there are no more.
func (p process) answer(ctx context.Context, c config.Config, query bool, replies io.Writer) error {
	s, err := substitute.New(substitute.ParseOptions(p.getenv("_NIX_OPTIONS")), p.stderr, substitute.Options{
		ACL: c.ACL, States: c.States, IPFS: c.IPFS, Node: c.Node, Votes: c.Votes, Log: p.logger(c.Log),
	})
	if err != nil {
		return err
	}
	if query {
		err = s.Query(ctx, p.stdin, replies)
	} else {
		err = s.Substitute(ctx, p.stdin, replies)
	}
	return errors.Join(err, s.Close())
}

// end returns the exit status: the given one if there is an error, of which it
// tells.
func (p process) end(status int, err error) int {
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(ownLines{p.stderr}, "ersatz-substitute: %v\n", err)
	return status
}

// openReplies returns the daemon's pipe. Without one, a person has started the
// program. What the Go runtime has opened there meanwhile is closed on exec,
// which an inherited descriptor is not.
func openReplies() (io.WriteCloser, error) {
	if flags, err := unix.FcntlInt(repliesFD, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
		return nil, fmt.Errorf("file descriptor %d is not open: guix-daemon runs this program; see docs/substitute.md", repliesFD)
	}
	return os.NewFile(repliesFD, "replies"), nil
}

// logger returns a logger for people who see the daemon's log: without the
// time, which that log has.
func (p process) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(ownLines{p.stderr}, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, attr slog.Attr) slog.Attr {
			if len(groups) == 0 && attr.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return attr
		},
	}))
}
