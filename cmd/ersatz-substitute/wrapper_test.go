package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// wrapper is packaging/ersatz-guix in a folder of its own, with programs that
// say who they are.
type wrapper struct {
	t   *testing.T
	dir string
	env []string
}

func newWrapper(t *testing.T) *wrapper {
	t.Helper()
	w := &wrapper{t: t, dir: t.TempDir()}
	text, err := os.ReadFile("../../packaging/ersatz-guix")
	if err != nil {
		t.Fatal(err)
	}
	w.write("bin/ersatz-guix", string(text))
	w.write("bin/ersatz-substitute", "#!/bin/sh\n[ \"$1\" = --check ] || echo \"ours $*\"\n")
	w.write("guix", "#!/bin/sh\necho \"guix $* GUIX=${GUIX:-none}\"\n")
	// guix-daemon's PATH may have no programs: on Guix System it has tar and gzip.
	w.env = []string{"PATH=" + w.path("none"), "GUIX=" + w.path("bin/ersatz-guix"), "ERSATZ_GUIX_REAL=" + w.path("guix")}
	return w
}

func (w *wrapper) path(name string) string { return filepath.Join(w.dir, name) }

func (w *wrapper) write(name, text string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.path(name), []byte(text), 0o755); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wrapper) remove(name string) {
	w.t.Helper()
	if err := os.Remove(w.path(name)); err != nil {
		w.t.Fatal(err)
	}
}

// want runs the wrapper and compares its output; stderr must have a part.
func (w *wrapper) want(stdout, stderr string, args ...string) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), w.path("bin/ersatz-guix"), args...)
	cmd.Env = w.env
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && (stdout != "" || !errors.As(err, &exit) || exit.ExitCode() != 127) {
		w.t.Errorf("%q: %v", args, err)
	}
	if strings.TrimSpace(string(out)) != stdout {
		w.t.Errorf("%q: output %q, want %q", args, out, stdout)
	}
	if !strings.Contains(errOut.String(), stderr) || stderr == "" && errOut.Len() > 0 {
		w.t.Errorf("%q: stderr %q, want %q", args, errOut.String(), stderr)
	}
}

func TestWrapper(t *testing.T) {
	if out, err := exec.Command("sh", "-n", "../../packaging/ersatz-guix").CombinedOutput(); err != nil {
		t.Fatalf("sh -n: %v: %s", err, out)
	}
	w := newWrapper(t)
	w.want("ours --query", "", "substitute", "--query")
	w.want("guix gc --list-busy GUIX=none", "", "gc", "--list-busy")
	w.want("guix authenticate a b  c GUIX=none", "", "authenticate", "a", "b  c")
	w.want("guix  GUIX=none", "")

	// ersatz-substitute cannot start, or is not there.
	w.write("bin/ersatz-substitute", "#!/bin/sh\necho 'ersatz-substitute: line 1: unknown name' >&2\nexit 2\n")
	w.want("guix substitute --query GUIX=none", "unknown name", "substitute", "--query")
	w.want("guix gc GUIX=none", "", "gc")
	if _, err := os.Stat("/usr/local/bin/ersatz-substitute"); err != nil {
		w.remove("bin/ersatz-substitute")
		w.want("guix substitute --query GUIX=none", "the real guix substitutes", "substitute", "--query")
	}

	// With a policy of votes, which the real guix does not know, nothing else
	// substitutes.
	w.write("bin/ersatz-substitute", "#!/bin/sh\n[ \"$1\" != --check ] || exit 2\necho \"ours $*\"\n")
	plain := w.env
	w.write("config", "log = info\n# votes = /none\n")
	w.env = append(plain, "ERSATZ_CONFIG="+w.path("config"))
	w.want("guix substitute --query GUIX=none", "the real guix substitutes", "substitute", "--query")
	w.write("config", "nonsense\n votes=/none\n")
	w.want("ours --query", "", "substitute", "--query")
	w.want("guix gc GUIX=none", "", "gc")
	// A configuration that cannot be read may set one; where there is none, none
	// is set.
	w.env = append(plain, "ERSATZ_CONFIG="+w.path("bin"))
	w.want("ours --query", "", "substitute", "--query")
	w.env = append(plain, "ERSATZ_CONFIG="+w.path("missing"))
	w.want("guix substitute --query GUIX=none", "the real guix substitutes", "substitute", "--query")
	w.env = append(plain, "ERSATZ_VOTES=/none")
	w.want("ours --query", "", "substitute", "--query")
	w.env = plain

	// Another one.
	w.write("other", "#!/bin/sh\n[ \"$1\" = --check ] || echo \"other $*\"\n")
	w.env = append(w.env, "ERSATZ_SUBSTITUTE="+w.path("other"))
	w.want("other --substitute", "", "substitute", "--substitute")
}

// TestWrapperIsNotGuix: it does not run itself, nor a copy, for ever.
func TestWrapperIsNotGuix(t *testing.T) {
	for _, usual := range []string{"/usr/bin/guix", "/run/current-system/profile/bin/guix", "/var/guix/profiles/per-user/root/current-guix/bin/guix"} {
		if _, err := os.Stat(usual); err == nil {
			t.Skip("this machine has " + usual)
		}
	}
	w := newWrapper(t)
	if err := os.Symlink(w.path("bin/ersatz-guix"), w.path("bin/guix")); err != nil {
		t.Fatal(err)
	}
	path := "PATH=" + w.path("bin") + ":" + os.Getenv("PATH")
	w.env = []string{path}
	w.want("", "no guix is found", "gc")

	w.remove("bin/guix")
	text, err := os.ReadFile(w.path("bin/ersatz-guix"))
	if err != nil {
		t.Fatal(err)
	}
	w.write("bin/guix", string(text)) // a copy
	w.want("", "is not the real guix", "gc")
	w.env = []string{path, "ERSATZ_GUIX_REAL=" + w.path("bin/ersatz-guix")}
	w.want("", "is not the real guix", "gc")

	// A child of the real guix may ask again.
	w.write("guix", "#!/bin/sh\n[ \"$1\" = outer ] && "+w.path("bin/ersatz-guix")+" inner || echo \"guix $*\"\n")
	w.env = []string{path, "ERSATZ_GUIX_REAL=" + w.path("guix")}
	w.want("guix inner", "", "outer")
}
