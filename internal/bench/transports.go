package bench

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ersatz/eris"
	"ersatz/internal/transport/ipfs/kubotest"
)

// What BenchmarkTransport reports is in these units already.
var (
	inMilliseconds = unit{name: "ms", scale: 1}
	inMicroseconds = unit{name: "µs", scale: 1}
)

// transportPackages are the folders of internal/transport whose tests have a
// BenchmarkTransport.
var transportPackages = []string{"n2r", "coap", "ipfs", "bitswap", "bittorrent", "ndn", "gnunet"}

// sample is what one run of a part of BenchmarkTransport has reported, by unit.
type sample map[string]float64

// transportGroup measures each transport beside a bare loop around the library or
// program that it uses, each run in a process of its own.
func transportGroup(ctx context.Context, o Options) (_ []Table, err error) {
	o.Runs = min(o.Runs, 3) // there are many
	dir, err := os.MkdirTemp("", "ersatz-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	t := Table{
		Title: "Transports: 2,000 blocks of 32 KiB",
		Note: "By each transport over loopback, verified; beside it the same library, or the same daemon, in a bare loop which verifies too. " +
			"Latency is that of one block at a time. Memory is by how much the process grew, with what serves the blocks unless that is a daemon, and the garbage of both. " +
			"CPU per block is that of the same process. Medians of 3.",
		Head: []string{"transport", "blocks/s", "bare loop", "ersatz ahead", "MB/s", "latency", "bare loop", "CPU per block", "bare loop", "memory", "bare loop"},
	}
	for _, name := range transportPackages {
		rows, err := transportRows(ctx, o, name, filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		t.Rows = append(t.Rows, rows...)
	}
	sizes, err := transportSizes(ctx, dir)
	return []Table{t, sizes}, err
}

// transportRows runs the parts of one transport in turns.
func transportRows(ctx context.Context, o Options, name, program string) ([][]string, error) {
	folder := filepath.Join("internal", "transport", name)
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, "./"+folder)
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	var order []string
	all := map[string][]sample{}
	for n := range o.Runs + 1 {
		parts := order
		if n == 0 {
			parts = []string{".*"} // which are there is not known yet
		}
		for _, part := range parts {
			found, err := runTransport(ctx, o, program, folder, part)
			if err != nil {
				return nil, err
			}
			for _, f := range found {
				if n == 0 {
					order = append(order, f.part)
				} else {
					all[f.part] = append(all[f.part], f.sample)
				}
			}
		}
	}
	var rows [][]string
	for _, part := range order {
		what, ok := strings.CutPrefix(part, "ersatz/")
		if ok {
			rows = append(rows, transportRow(name, what, all[part], all["bare/"+what]))
		}
	}
	return rows, nil
}

type transportRun struct {
	part   string // ersatz/X or bare/X
	sample sample
}

// runTransport runs parts of BenchmarkTransport once, in one process.
func runTransport(ctx context.Context, o Options, program, folder, part string) ([]transportRun, error) {
	pattern := part
	if part != ".*" {
		a, b, _ := strings.Cut(part, "/")
		pattern = "^" + a + "$/^" + regexp.QuoteMeta(strings.ReplaceAll(b, " ", "_")) + "$"
	}
	cmd := exec.CommandContext(ctx, program, "-test.run", "-", "-test.bench", "^BenchmarkTransport$/"+pattern, "-test.benchtime", "1x", "-test.timeout", "5m")
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), kubotest.EnvBinary+"="+o.Kubo)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", part, err, out)
	}
	return parseTransport(out)
}

// parseTransport reads what `go test -bench` prints.
func parseTransport(out []byte) ([]transportRun, error) {
	var all []transportRun
	for line := range bytes.Lines(out) {
		f := strings.Split(strings.TrimSpace(string(line)), "\t")
		name, ok := strings.CutPrefix(f[0], "BenchmarkTransport/")
		if !ok || len(f) < 3 {
			continue
		}
		name = strings.TrimSpace(name)
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i] // the number of processors
		}
		r := transportRun{strings.ReplaceAll(name, "_", " "), sample{}}
		for _, cell := range f[2:] {
			value, unit, _ := strings.Cut(strings.TrimSpace(cell), " ")
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", line, err)
			}
			r.sample[unit] = v
		}
		all = append(all, r)
	}
	return all, nil
}

func transportRow(name, what string, ours, bare []sample) []string {
	column := func(from []sample, unit string, scale float64) (s series) {
		for _, x := range from {
			s = append(s, x[unit]*scale)
		}
		return s
	}
	of := func(unit string, scale float64) (a, b series) {
		return column(ours, unit, scale), column(bare, unit, scale)
	}
	rate, bareRate := of("blocks/s", 1)
	ones, bareOnes := of("ms/one", 1)
	busy, bareBusy := of("cpu-µs/block", 1)
	grown, bareGrown := of("bytes-more", 1)
	return []string{
		name + ", " + what, perSecond.cell(rate), perSecond.cell(bareRate), perSecond.ahead(rate, bareRate),
		number(rate.median() * float64(eris.Size32KiB) / 1e6), inMilliseconds.cell(ones), inMilliseconds.cell(bareOnes),
		inMicroseconds.cell(busy), inMicroseconds.cell(bareBusy), mebibytes.cell(grown), mebibytes.cell(bareGrown),
	}
}

// transportSizes measures by how much each transport makes a program larger.
func transportSizes(ctx context.Context, dir string) (Table, error) {
	t := Table{
		Title: "Transports: size of a program",
		Note:  "A program that links the transport, without symbols, and one that links no more of it than its interfaces.",
		Head:  []string{"transport", "program", "more than without"},
	}
	none, err := sizeWith(ctx, dir, "")
	if err != nil {
		return Table{}, err
	}
	for _, name := range slices.SortedFunc(slices.Values(transportPackages), cmp.Compare) {
		n, err := sizeWith(ctx, dir, name)
		if err != nil {
			return Table{}, fmt.Errorf("%s: %w", name, err)
		}
		t.Rows = append(t.Rows, []string{name, mebibytes.one(float64(n)), mebibytes.one(float64(n - none))})
	}
	return t, nil
}

// sizeWith builds a program that links a transport, and returns its size in
// bytes. Its source is not in the folder of the sources, but said to be.
func sizeWith(ctx context.Context, dir, name string) (int64, error) {
	from, what := "internal/block", "block.Fetcher"
	if name != "" {
		from, what = "internal/transport/"+name, name+".New"
	}
	// All methods of what New returns are linked, since they are looked at.
	source := fmt.Sprintf(`package main

import (
	"reflect"

	"ersatz/%s"
)

func main() {
	t := reflect.TypeOf(%s).Out(0)
	for i := range t.NumMethod() {
		println(t.Method(i).Name)
	}
}
`, from, what)
	file := filepath.Join(dir, "main.go")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		return 0, err
	}
	here, err := filepath.Abs(filepath.Join("internal", "bench", "size", "main.go"))
	if err != nil {
		return 0, err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{here: file}})
	if err != nil {
		return 0, err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return 0, err
	}
	program := filepath.Join(dir, "size")
	build := exec.CommandContext(ctx, "go", "build", "-overlay", list, "-trimpath", "-ldflags=-s -w", "-o", program, "./internal/bench/size")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w\n%s", err, out)
	}
	fi, err := os.Stat(program)
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}
