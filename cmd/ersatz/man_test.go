package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/internal/man"
)

// TestManPages has groff and mandoc take the page of every command.
func TestManPages(t *testing.T) {
	a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, getenv: os.Getenv}
	dir := t.TempDir()
	if err := writePages(dir, a.root(), man.Options{Date: "2026-01-31", Version: "1.0"}); err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(dir + "/*.[18]")
	if err != nil || len(pages) < 15 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, command := range [][]string{
		{"groff", "-Kutf8", "-man", "-Tutf8", "-ww", "-z"},
		{"mandoc", "-Tlint", "-Wwarning"},
	} {
		if _, err := exec.LookPath(command[0]); err != nil {
			t.Logf("SKIPPED: %v", err)
			continue
		}
		if out, err := exec.Command(command[0], append(command[1:], pages...)...).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v: %v\n%s", command, err, out)
		}
	}
}
