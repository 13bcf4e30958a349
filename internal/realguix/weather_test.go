package realguix

import (
	"encoding/json"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"ersatz/internal/weather"
	"ersatz/storepath"
)

// TestWeatherManifest: the real guix reads a manifest, and what is looked for is
// what guix weather looks for, and store items, at which that breaks off.
func TestWeatherManifest(t *testing.T) {
	w, item := withErsatz(t), makeItems(t).big
	w.daemon(DaemonOptions{})
	w.check(w.Import(w.ctx, w.key, item))
	addr := w.publish("zstd:3", item)
	packages := `
(use-modules (guix packages) (guix build-system trivial) (gnu packages base))
(define two
  (package
    (name "two-outputs") (version "1") (source #f) (build-system trivial-build-system)
    (outputs '("out" "doc"))
    (arguments '(#:builder #t #:guile #f))
    (home-page #f) (synopsis #f) (description #f) (license #f)))
(define those (list (package->manifest-entry two) (package->manifest-entry hello)))
`
	w.check(w.WriteFile("/root/packages.scm", []byte(packages+"(make-manifest those)\n"), 0o644))
	w.check(w.WriteFile("/root/manifest.scm", []byte(packages+
		`(make-manifest (cons (manifest-entry (name "big") (version "1") (item "`+item.Path.String()+`")) those))`), 0o644))

	stock, err := w.Run(w.ctx, "guix", "weather", "--display-missing", "--substitute-urls=http://"+addr, "-m", "/root/packages.scm")
	if err == nil {
		t.Errorf("guix weather finds what nobody has: %s", stock)
	}
	var want []string
	for line := range strings.Lines(stock) {
		if words := strings.Fields(line); len(words) > 0 && strings.HasPrefix(words[0], storepath.Guix) {
			want = append(want, words[0])
		}
	}
	if len(want) != 3 {
		t.Fatalf("guix weather looks for %q:\n%s", want, stock)
	}
	want = append(want, item.Path.String())

	cmd := w.Command(w.ctx, "ersatz", "weather", "--json", "--server=http://"+addr, "/root/manifest.scm")
	var messages strings.Builder
	cmd.Stderr = &messages
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Fatalf("%v\n%s", err, messages.String())
	}
	var report weather.Report
	w.check(json.Unmarshal(out, &report))
	var got []string
	for _, it := range report.Items {
		got = append(got, it.Path)
		if is := it.Path == item.Path.String(); it.Available != is || is != (it.URN != "") {
			t.Errorf("%s: %v, %q", it.Path, it.Available, it.URN)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("looks for %q, guix weather for %q", got, want)
	}

	if out, err := w.Run(w.ctx, "ersatz", "weather", "--server=http://"+addr, "/root/none.scm"); err == nil || !strings.Contains(out, "none.scm") {
		t.Errorf("%v: %s", err, out)
	}
}
