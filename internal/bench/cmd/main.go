// Command bench measures ersatz beside stock Guix and writes
// docs/benchmarks.md. It runs as root, in the folder of the sources; BENCH
// names one group of rows, which is printed instead.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"ersatz/internal/bench"
)

const document = "docs/benchmarks.md"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Getenv("BENCH"))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, group string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	o := bench.Options{Log: log}
	var err error
	if o.Root, err = part(ctx, "scripts/guix-root.sh"); err != nil {
		return err
	}
	if o.Kubo, err = part(ctx, "scripts/kubo.sh"); err != nil {
		log.WarnContext(ctx, "rows with an IPFS daemon are left out", slog.Any("error", err))
	}
	if _, err := output(ctx, "make", "-s", "build"); err != nil {
		return err
	}
	if o.Ersatz, err = filepath.Abs("bin/ersatz"); err != nil {
		return err
	}
	if o.Disk, err = os.MkdirTemp("bin", "bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(o.Disk)
	if o.Disk, err = filepath.Abs(o.Disk); err != nil {
		return err
	}
	text, err := bench.Run(ctx, group, o)
	if err != nil {
		return err
	}
	if group != "" {
		_, err := os.Stdout.WriteString(text)
		return err
	}
	return os.WriteFile(document, []byte(text), 0o644)
}

// part runs a script that prints where a real part is.
func part(ctx context.Context, script string) (string, error) {
	out, err := output(ctx, script)
	return strings.TrimSpace(out), err
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return string(out), nil
}
