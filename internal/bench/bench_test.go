package bench

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
)

func TestGroups(t *testing.T) {
	o := Options{Ersatz: "true", Root: t.TempDir(), Runs: 1}
	if _, err := Run(t.Context(), "nothing", "", o); err == nil || !strings.Contains(err.Error(), "narinfo") {
		t.Errorf("a group that is not there: %v", err)
	}
	// Without an ipfs program its group has no table, and what the document
	// says of it stays.
	before := "# Other\n\n- processor: old\n\n## Kubo\n\nMeasured on Monday by `BENCH=kubo make bench`.\n\n| what |\n"
	text, err := Run(t.Context(), "kubo", before, o)
	if err != nil || !strings.HasPrefix(text, "# Benchmarks\n") || !strings.Contains(text, "\n- memory: ") ||
		!strings.HasSuffix(text, "## Kubo\n\nMeasured on Monday by `BENCH=kubo make bench`. On another machine: old.\n\n| what |\n") {
		t.Errorf("%v\n%s", err, text)
	}
	var out strings.Builder
	if err := Print(t.Context(), &out, "kubo", before, o); err != nil || !strings.HasPrefix(out.String(), "kubo took 0s.") {
		t.Errorf("%v\n%s", err, &out)
	}
	if err := Print(t.Context(), &out, "start", before, Options{Quick: true}); err == nil || !strings.Contains(err.Error(), "needs a folder with a Guix") {
		t.Errorf("without a Guix: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Print(ctx, &out, "kubo", before, o); !errors.Is(err, context.Canceled) {
		t.Errorf("nothing stops it: %v", err)
	}
}

func TestVectors(t *testing.T) {
	for flags, want := range map[string]string{
		"fpu avx avx2 avx512f sha_ni x": "avx2, avx512f, sha_ni",
		"fp asimd sha2":                 "asimd, sha2",
		"":                              "unknown",
	} {
		if got := vectors(flags); got != want {
			t.Errorf("%q: %q, not %q", flags, got, want)
		}
	}
}

func TestStockVersion(t *testing.T) {
	root := t.TempDir()
	if got := stockVersion(root); got != "unknown" {
		t.Errorf("of nothing: %q", got)
	}
	if err := os.MkdirAll(root+"/var/lib/dpkg", 0o755); err != nil {
		t.Fatal(err)
	}
	status := "Package: guile\nVersion: 3\n\nPackage: guix\nStatus: ok\nVersion: 1.5.0-1\n\nPackage: z\nVersion: 9\n"
	if err := os.WriteFile(root+"/var/lib/dpkg/status", []byte(status), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := stockVersion(root); got != "GNU Guix 1.5.0-1 of Debian" {
		t.Errorf("%q", got)
	}
}
