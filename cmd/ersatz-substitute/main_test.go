package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes "ersatz-substitute" a command in the PATH of the tests: this
// test binary under another name, which runs main.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ersatz-substitute": main})
}

// TestCommandLine runs command lines as a person does, without descriptor 4.
func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args, config   string
		status         int
		stdout, stderr string // regular expressions; empty for no output
	}{
		{args: "--check"},
		{args: "--check", config: "# a comment\nacl = /nonexistent/acl\nlog = error\n"},
		{args: "--check", config: "acl = /etc/guix/acl\nstates = /var/lib/ersatz\nlog =\n", status: 2,
			stderr: `^ersatz-substitute: .*line 2: unknown name "states"(?s:.*)line 3: log has no value`},
		{args: "--check", config: "votes = /nonexistent/votes\n", status: 2, stderr: "/nonexistent/votes"},
		{args: "--query", config: "log = loud\n", status: 2, stderr: `none of debug`},
		{args: "--query", status: 2, stderr: `^ersatz-substitute: file descriptor 4 is not open: guix-daemon runs this program; see docs/substitute.md\n$`},
		{args: "--substitute", status: 2, stderr: `descriptor 4`},

		{args: "", status: 2, stderr: "^Usage: .*\n$"},
		{args: "--query --substitute", status: 2, stderr: "^Usage"},
		{args: "--querry", status: 2, stderr: "^Usage"},
		{args: "query", status: 2, stderr: "^Usage"},
		{args: "--help", stdout: `^Usage: (?s:.*)\nExit status: 0 `},
	} {
		name := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(name, []byte(c.config), 0o644); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), "ersatz-substitute", strings.Fields(c.args)...)
		cmd.Env = append(os.Environ(), "ERSATZ_CONFIG="+name, "ERSATZ_ACL=")
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if got := status(t, cmd.Run()); got != c.status {
			t.Errorf("%q, %q: status %d, want %d", c.args, c.config, got, c.status)
		}
		for _, out := range [][2]string{{stdout.String(), c.stdout}, {stderr.String(), c.stderr}} {
			if got, want := out[0], out[1]; want == "" && got != "" || !regexp.MustCompile(want).MatchString(got) {
				t.Errorf("%q, %q: output %q, want %q", c.args, c.config, got, want)
			}
		}
	}
}

// status returns the exit status that an error of exec stands for.
func status(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit == nil {
		return 0
	}
	return exit.ExitCode()
}

// TestMissingConfiguration: a file that somebody names has to be there.
func TestMissingConfiguration(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "ersatz-substitute", "--check")
	cmd.Env = append(os.Environ(), "ERSATZ_CONFIG="+filepath.Join(t.TempDir(), "missing"))
	if out, err := cmd.CombinedOutput(); status(t, err) != exitUsage || !strings.Contains(string(out), "no such file") {
		t.Errorf("%v, %q", err, out)
	}
}

// TestFullOutput: what cannot be printed is no success.
func TestFullOutput(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	cmd := exec.CommandContext(t.Context(), "ersatz-substitute", "--help")
	cmd.Stdout = full
	if err := cmd.Run(); status(t, err) != exitFailed {
		t.Errorf("help into a full device: %v", err)
	}
}
