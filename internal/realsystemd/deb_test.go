package realsystemd

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// makePackage makes the Debian package and returns its path.
func makePackage(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"dpkg-deb", "git", "strip"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	out, err := exec.Command("../../scripts/deb.sh", filepath.Dir(program(t, "ersatz")), dir).CombinedOutput()
	if err != nil {
		t.Fatalf("deb.sh: %v\n%s", err, out)
	}
	files, err := filepath.Glob(dir + "/ersatz_*.deb")
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	return files[0]
}

// TestDebianPackage installs the package beside Debian's own Guix, upgrades,
// removes and purges it.
func TestDebianPackage(t *testing.T) {
	w := boot(t)
	deb := makePackage(t)
	// Lintian, where it is, finds nothing but whom it takes for nobody.
	if _, err := exec.LookPath("lintian"); err != nil {
		t.Logf("SKIPPED: %v", err)
	} else if out, err := exec.Command("lintian", "--allow-root", "--fail-on=error,warning",
		"--suppress-tags=bogus-mail-host,bogus-mail-host-in-debian-changelog", deb).CombinedOutput(); err != nil {
		t.Errorf("lintian: %v\n%s", err, out)
	}

	w.stock()
	w.copy(deb, "/tmp/package.deb", 0o644)
	w.run("dpkg", "--install", "/tmp/package.deb")
	if !w.daemonHas("GUIX=/usr/libexec/ersatz/ersatz-guix") {
		t.Error("guix-daemon does not know the wrapper")
	}
	has(t, w.run("systemctl", "is-enabled", "ersatz-node.socket"), "enabled")
	if out, err := w.Run(w.ctx, "systemctl", "is-enabled", "ersatz-publish.socket", "ersatz-publish.service"); err == nil {
		t.Errorf("the server for others is enabled: %s", out)
	}
	if out := w.run("dpkg", "--verify", "ersatz"); out != "" {
		t.Errorf("files are not what the package says:\n%s", out)
	}
	w.nodeOptions()
	w.run("systemctl", "enable", "--now", "ersatz-publish.socket")
	w.travel("first")
	has(t, w.run("ersatz", "doctor", "--server=http://127.0.0.1:8080"), "ok   wrapper: GUIX=/usr/libexec/ersatz/ersatz-guix", "ok   node: version ",
		"ok   node's upstreams: 1 upstream", "ok   node's sharing: --share=none", "ok   node's unit: ", "ok   publish's unit: ", "ok   state folder: ")

	// An upgrade keeps settings, and what was enabled.
	w.run("dpkg", "--install", "/tmp/package.deb")
	has(t, w.run("cat", "/etc/default/ersatz-node"), "http://127.0.0.1:8080")
	w.run("systemctl", "is-enabled", "ersatz-publish.socket")
	w.travel("second")

	w.run("dpkg", "--remove", "ersatz")
	if w.daemonHas("GUIX=/usr/libexec/ersatz/ersatz-guix") {
		t.Error("guix-daemon would start what is gone")
	}
	w.run("guix", "download", "file:///tmp/first")
	if out, err := w.Run(w.ctx, "systemctl", "is-active", "ersatz-node.socket", "ersatz-publish.service"); err == nil {
		t.Errorf("still active: %s", out)
	}
	has(t, w.run("ls", "/var/lib/ersatz-node"), "upstreams.json")
	w.run("dpkg", "--purge", "ersatz")
	left := w.run("sh", "-ec", "find / /run -xdev -name '*ersatz*' ! -path '/proc/*'")
	for line := range strings.Lines(left) {
		t.Errorf("left: %s", line)
	}
}
