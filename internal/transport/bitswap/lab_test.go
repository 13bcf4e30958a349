package bitswap_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// envLab names the test that runs in its own network namespace.
const envLab = "ERSATZ_BITSWAP_LAB"

// inLab runs the calling test again, in namespaces of its own for the network and
// for mounts, with what `ip` is told there; only in there it returns true. All of
// it ends with the process.
func inLab(t *testing.T, lines ...string) bool {
	t.Helper()
	if os.Getenv(envLab) == t.Name() {
		shell(t, "mkdir -p /run/netns && mount -t tmpfs none /run/netns")
		for _, line := range lines {
			shell(t, "ip "+line)
		}
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("not root")
	}
	for _, program := range []string{"ip", "nft", "unshare", "mount"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--net", "--mount", "--", os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), envLab+"="+t.Name())
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in the lab: %v\n%s", err, out)
	} else if strings.Contains(string(out), "--- SKIP: "+t.Name()) {
		t.Skipf("in the lab:\n%s", out)
	}
	if testing.Verbose() {
		t.Logf("in the lab:\n%s", out)
	}
	return false
}

// shell runs a line of shell.
func shell(t testing.TB, line string, args ...any) {
	t.Helper()
	line = fmt.Sprintf(line, args...)
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
}
