// Command bench measures ersatz beside other programs and writes
// docs/benchmarks.md, or, as "bench net", docs/benchmarks-net.md. It runs as
// root, in the folder of the sources. BENCH names some sections, separated by
// commas: those of docs/benchmarks.md are printed only, unless BENCH_WRITE is
// set; what is written leaves the other sections as they were. "bench quick"
// prints, in two minutes, what shows that something has become slower. With
// BENCH_SHORT the scenarios of "bench net" do not take long and are printed
// only; what is said of times then means nothing.
package main

import (
	"context"
	"errors"
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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if child, err := bench.ERISChild(ctx, os.Stdout); child {
		stop()
		fail(err)
		return
	}
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 0:
		err = run(ctx, os.Getenv("BENCH"))
	case len(args) == 1 && args[0] == "quick":
		err = runQuick(ctx, os.Getenv("BENCH"))
	case len(args) == 1 && args[0] == "net":
		err = runNet(ctx, os.Getenv("BENCH"))
	default:
		err = fmt.Errorf("%q: there are only \"quick\" and \"net\"", args)
	}
	stop()
	fail(err)
}

// fail ends the program if there is an error.
func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

const document = "docs/benchmarks.md"

// run measures groups, and writes the document if all of them were asked for.
func run(ctx context.Context, groups string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	o := bench.Options{Log: log}
	before, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	if o.Root, err = part(ctx, "scripts/guix-root.sh"); err != nil {
		return err
	}
	if o.Kubo, err = part(ctx, "scripts/kubo.sh"); err != nil {
		log.WarnContext(ctx, "rows with an IPFS daemon are left out", slog.Any("error", err))
	}
	if o.Ersatz, err = build(ctx); err != nil {
		return err
	}
	if o.Wrapper, err = filepath.Abs("packaging/ersatz-guix"); err != nil {
		return err
	}
	if o.Disk, err = os.MkdirTemp("bin", "bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(o.Disk)
	if o.Disk, err = filepath.Abs(o.Disk); err != nil {
		return err
	}
	if groups != "" && os.Getenv("BENCH_WRITE") == "" {
		return bench.Print(ctx, os.Stdout, groups, string(before), o)
	}
	text, err := bench.Run(ctx, groups, string(before), o)
	if text == "" {
		return err
	}
	return errors.Join(err, publish(document, text, false))
}

// runQuick measures what shows that something has become slower, beside what
// the document has, and prints it.
func runQuick(ctx context.Context, groups string) error {
	before, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	o := bench.Options{Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Quick: true, Runs: 3}
	if o.Ersatz, err = build(ctx); err != nil {
		return err
	}
	return bench.Print(ctx, os.Stdout, groups, string(before), o)
}

// runNet measures over bad links, and writes what was measured into the
// document, beside what was there.
func runNet(ctx context.Context, scenarios string) error {
	const document = "docs/benchmarks-net.md"
	o := bench.NetOptions{Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Short: os.Getenv("BENCH_SHORT") != ""}
	var err error
	if o.Root, err = part(ctx, "scripts/guix-root.sh"); err != nil {
		return err
	}
	if o.Ersatz, err = build(ctx); err != nil {
		return err
	}
	if o.Wrapper, err = filepath.Abs("packaging/ersatz-guix"); err != nil {
		return err
	}
	if o.Short {
		text, err := bench.RunNet(ctx, scenarios, "", o)
		return errors.Join(err, publish(document, text, true))
	}
	before, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	text, err := bench.RunNet(ctx, scenarios, string(before), o)
	if text == "" {
		return err
	}
	return errors.Join(err, publish(document, text, false))
}

// publish prints a document, and writes it unless it is only a part.
func publish(document, text string, part bool) error {
	if _, err := os.Stdout.WriteString(text); err != nil || part {
		return err
	}
	return os.WriteFile(document, []byte(text), 0o644)
}

// build makes the program and returns where it is.
func build(ctx context.Context) (string, error) {
	if _, err := output(ctx, "make", "-s", "build"); err != nil {
		return "", err
	}
	return filepath.Abs("bin/ersatz")
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
