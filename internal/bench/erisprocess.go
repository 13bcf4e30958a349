package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ersatz/eris"
)

// erisProcesses measures whole processes, from their start to their end.
func erisProcesses(ctx context.Context, o Options) (_ Table, err error) {
	dir, err := os.MkdirTemp("", "ersatz-bench-")
	if err != nil {
		return Table{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	loop := filepath.Join(dir, "erisloop")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", loop, "ersatz/internal/bench/erisloop").CombinedOutput(); err != nil {
		return Table{}, fmt.Errorf("%w\n%s", err, out)
	}
	length := 128 * mib
	if o.Quick {
		length = 32 * mib
	}
	file, folder := filepath.Join(dir, "content"), filepath.Join(dir, "blocks")
	if err := os.WriteFile(file, randomBytes(length, 2), 0o600); err != nil {
		return Table{}, err
	}
	t := Table{
		Title: fmt.Sprintf("ERIS, %d MiB by a whole process", length/mib),
		Note: "`ersatz encode FILE`, and `ersatz decode` from a folder of blocks, beside a program that does the same by the plain loop; from start to end, files in memory. " +
			"The limit is a program of one goroutine that reads the same, writes the same, and between that does the kernels alone.",
		Peer: "x/crypto loop", Limit: "files and kernels",
	}
	for _, size := range []eris.BlockSize{eris.Size32KiB, eris.Size1KiB} {
		err := compareProcesses(ctx, o, &t, fmt.Sprintf("encode, blocks of %v", size),
			[]string{o.Ersatz, "encode", "--block-size", size.String(), file}, []string{loop, "encode", size.String(), file},
			[]string{loop, "encode-limit", size.String(), file})
		if err != nil {
			return Table{}, err
		}
	}
	urn, err := ersatzCommand(ctx, o.Ersatz, "encode", "--block-size", "32KiB", "--blocks", folder, file).Output()
	if err != nil {
		return Table{}, err
	}
	name := strings.TrimSpace(string(urn))
	err = compareProcesses(ctx, o, &t, "decode, blocks of 32KiB",
		[]string{o.Ersatz, "decode", "--blocks", folder, name}, []string{loop, "decode", name, folder},
		[]string{loop, "decode-limit", "32KiB", folder})
	return t, err
}

// compareProcesses runs two programs, which must print the same, and one that is their
// limit, in turns.
func compareProcesses(ctx context.Context, o Options, t *Table, what string, ours, loop, limit []string) error {
	var want []byte
	of := func(name string, args []string) side {
		return side{name: name, once: func(ctx context.Context) (usage, error) {
			cmd := ersatzCommand(ctx, args[0], args[1:]...)
			out, err := os.CreateTemp("", "ersatz-bench-out-")
			if err != nil {
				return usage{}, err
			}
			defer out.Close()
			if err := os.Remove(out.Name()); err != nil {
				return usage{}, err
			}
			cmd.Stdout = out
			u, err := wholeProcess(cmd)
			if err != nil {
				return usage{}, err
			}
			got := make([]byte, 128) // a URN, or the begin of a content
			n, err := out.ReadAt(got, 0)
			if n == 0 {
				return usage{}, fmt.Errorf("it prints nothing: %w", err)
			}
			switch {
			case name == "limit":
			case want == nil:
				want = got
			case !bytes.Equal(got, want):
				return usage{}, errors.New("it prints something else")
			}
			return u, nil
		}}
	}
	a, b, c := of("ersatz", ours), of("plain loop", loop), of("limit", limit)
	if err := turns(ctx, o, &a, &b, &c); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	t.versus(what+": CPU", milliseconds, a.cpu, b.cpu, c.cpu)
	t.versus(what+": wall", milliseconds, a.wall, b.wall, c.wall)
	return nil
}

// ersatzCommand returns a command that no configuration of the machine changes.
func ersatzCommand(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "ERSATZ_CONFIG=/dev/null", "ERIS_STORE_URL=")
	return cmd
}
