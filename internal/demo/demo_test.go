package demo

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRun wants every step to succeed and nothing to be left.
func TestRun(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	extra := filepath.Join(t.TempDir(), ".odd name!")
	if err := os.WriteFile(extra, bytes.Repeat([]byte("content "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := Run(t.Context(), &out, Options{Level: 1, Paths: []string{extra, extra}}); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{
		"-odd_name_-demo", "urn:eris:B4", "same hash", "dropped: ", "given up: ", "as a plain nar",
		"changed after it was signed", "kept by node three", "byte for byte",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestMissingPath(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var out strings.Builder
	err := Run(t.Context(), &out, Options{Paths: []string{"/no/such/file"}})
	if err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("got %v", err)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{968: "968 B", 9_999: "9999 B", 57_691: "57 kB", 12_340_000: "12.3 MB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}
