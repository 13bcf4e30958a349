package weather

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ersatz/storepath"
)

// ErrList means that a text is no list of store paths.
var ErrList = errors.New("not a list of store paths")

// ParseList reads store paths, one a line, as `guix gc -R` prints them; empty
// lines and those that begin with "#" are passed over. The error matches
// ErrList or ErrTooMany.
func ParseList(text string) ([]storepath.Path, error) {
	var paths []storepath.Path
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		p, err := storepath.Parse(line)
		if err == nil && strings.ContainsAny(line, " \t") {
			err = errors.New("more than one word")
		}
		if err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrList, number, err)
		}
		if len(paths) == MaxItems {
			return nil, fmt.Errorf("%w: more than %d", ErrTooMany, MaxItems)
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// manifestScript is for `guix repl`: it prints the outputs of a manifest.
//
//go:embed manifest.scm
var manifestScript []byte

// maxList bounds what `guix repl` may print, in bytes.
const maxList = 64 << 20

// Manifest has the program guix read a manifest, which is a program of Guix's,
// and returns the outputs of its packages, as `guix weather --manifest` looks
// them up: without grafts. What guix says goes to messages. Nothing is built.
func Manifest(ctx context.Context, guix, file string, messages io.Writer) (paths []storepath.Path, err error) {
	dir, err := os.MkdirTemp("", "ersatz-weather-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	script := filepath.Join(dir, "manifest.scm")
	if err := os.WriteFile(script, manifestScript, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, guix, "repl", "--", script, file)
	var out limitedBuffer
	cmd.Stdout, cmd.Stderr = &out, messages
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %s repl: %w", file, guix, err)
	}
	if paths, err = ParseList(out.String()); err != nil {
		return nil, fmt.Errorf("what %s repl printed for %s: %w", guix, file, err)
	}
	return paths, nil
}

// limitedBuffer takes at most maxList bytes.
type limitedBuffer struct{ strings.Builder }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxList {
		return 0, fmt.Errorf("more than %d bytes", maxList)
	}
	return b.Builder.Write(p)
}
