package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/eris"
)

// TestMain lets the tests start a process that measures, as main programs do.
func TestMain(m *testing.M) {
	if child, err := ERISChild(context.Background(), os.Stdout); child {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestERISChild wants figures of all ways from a process with other kernels.
func TestERISChild(t *testing.T) {
	o := Options{Runs: 1}
	found, err := erisChild(t.Context(), o, mib, "cpu.avx512f=off")
	if err != nil || len(found) != 6 {
		t.Fatalf("%v, %v", found, err)
	}
	table := erisTable(", somehow", mib, found)
	if text := table.Markdown(); strings.Contains(text, "–") || len(table.Rows) != 12 || table.Title != "ERIS, 1 MiB in memory, somehow" {
		t.Errorf("figures are missing:\n%s", text)
	}
	o.Runs = -1
	t.Setenv(erisRuns, "none")
	t.Setenv(erisLength, "1024")
	if child, err := ERISChild(t.Context(), os.Stdout); !child || err == nil {
		t.Errorf("a wrong number: %v, %v", child, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := measureERIS(ctx, Options{Runs: 1, Log: slog.New(slog.DiscardHandler)}, mib); !errors.Is(err, context.Canceled) {
		t.Errorf("nothing stops it: %v", err)
	}
}

// TestWaysOfERIS: what is compared must do the same, and say so if not.
func TestWaysOfERIS(t *testing.T) {
	content, blocks, rows := randomBytes(100_000, 1), blockMap{}, &blockRows{place: map[eris.Ref]rowPlace{}}
	c, _, err := eris.Encode(strings.NewReader(string(content)), eris.Size1KiB, eris.Secret{}, func(b eris.Block) error {
		return errors.Join(blocks.put(b), rows.put(b))
	})
	if err != nil {
		t.Fatal(err)
	}
	order, err := rows.inOrder(c)
	if err != nil || len(order) != len(blocks) || !bytes.Equal(order[0], blocks[c.Root]) {
		t.Fatalf("%d blocks in order, %v", len(order), err)
	}
	other := c
	other.Key[0]++
	for what, err := range map[string]error{
		"encodes otherwise":         encodeOurs(content, eris.Size1KiB, other),
		"loop encodes otherwise":    encodePlain(content, eris.Size1KiB, other),
		"decodes another length":    decodeOurs(t.Context(), c, blocks, len(content)+1),
		"decodes another in order":  decodeOurs(t.Context(), c, rows, len(content)+1),
		"loop decodes another one":  decodePlain(c, blocks.get, len(content)+1),
		"loop ends before the list": decodePlain(c, following(order), len(content)+1),
		"list ends before the loop": decodePlain(c, following(order[:3]), len(content)),
		"another order":             decodePlain(c, following(order[1:]), len(content)),
		"none that is asked for":    rows.Fetch(t.Context(), eris.Size1KiB, make([]eris.Ref, 1), nil),
		"more than a row has":       rows.Fetch(t.Context(), eris.Size1KiB, []eris.Ref{c.Root, c.Root}, nil),
	} {
		if err == nil {
			t.Errorf("%s, and nobody sees it", what)
		}
	}
	for what, err := range map[string]error{
		"ours":   errors.Join(encodeOurs(content, eris.Size1KiB, c), decodeOurs(t.Context(), c, blocks, len(content)), decodeOurs(t.Context(), c, rows, len(content))),
		"loop":   errors.Join(encodePlain(content, eris.Size1KiB, c), decodePlain(c, blocks.get, len(content)), decodePlain(c, following(order), len(content))),
		"kernel": errors.Join(encodeKernels(content, eris.Size32KiB, 2)(), decodeKernels(func(int) []byte { return order[0] }, 1, eris.Size1KiB, 2)()),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestProcesses has programs of a shell stand for those that are measured.
func TestProcesses(t *testing.T) {
	o := Options{Runs: 1, Log: slog.New(slog.DiscardHandler)}
	script := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho $1 $ERSATZ_CONFIG\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	table := Table{Peer: "other"}
	if err := compareProcesses(t.Context(), o, &table, "same", []string{script, "a"}, []string{"sh", script, "a"}, []string{script, "b"}); err != nil || len(table.Rows) != 2 {
		t.Errorf("%v, %v", table, err)
	}
	for fault, args := range map[string][]string{"something else": {script, "b"}, "nothing": {"true"}, "exit status": {"false"}} {
		if err := compareProcesses(t.Context(), o, &table, "other", []string{script, "a"}, args, args); err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("%q: %v", args, err)
		}
	}
	if out, err := ersatzCommand(t.Context(), script, "x").Output(); err != nil || string(out) != "x /dev/null\n" {
		t.Errorf("%q, %v", out, err)
	}
}
