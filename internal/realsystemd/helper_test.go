package realsystemd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// packaging is the folder of what is tested.
const packaging = "../../packaging"

// limit bounds one test.
const limit = 3 * time.Minute

// world is a machine and a running test's context.
type world struct {
	*Machine
	t   *testing.T
	ctx context.Context
}

// boot gives the test a machine, or skips it where there is none.
func boot(t *testing.T) *world {
	t.Helper()
	root, layer := os.Getenv("ERSATZ_GUIX_ROOT"), os.Getenv(EnvLayer)
	switch {
	case root == "" || layer == "":
		t.Skipf("ERSATZ_GUIX_ROOT and %s do not name folders with Guix and systemd (make check makes them)", EnvLayer)
	case os.Getuid() != 0:
		t.Skip("not root")
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	m, err := Boot(ctx, root, layer)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{m, t, ctx}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.Run(context.WithoutCancel(ctx), "journalctl", "--no-pager", "--quiet", "--lines=60")
			t.Logf("journal:\n%s\nsystemd:\n%s", out, m.Log())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// run runs a command that has to succeed.
func (w *world) run(name string, args ...string) string {
	w.t.Helper()
	out, err := w.Run(w.ctx, name, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// copy copies a file of the host into the machine.
func (w *world) copy(from, to string, perm os.FileMode) {
	w.t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = w.WriteFile(to, text, perm)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// buildPrograms builds the programs once, loading nothing at run time, as make
// build does. It returns their folder.
var buildPrograms = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "realsystemd-bin-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-tags", "netgo,osusergo,disable_libutp,nosqlite,noboltdb", "-ldflags", `-linkmode external -extldflags "-static"`, "-o", dir, "ersatz/cmd/...")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := buildPrograms(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// program returns the path of a program of this module.
func program(t *testing.T, name string) string {
	t.Helper()
	dir, err := buildPrograms()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// has wants words in a text.
func has(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("no %q in:\n%s", word, text)
		}
	}
}

// get asks a server of the machine, and waits for an answer that has a word:
// "" for any.
func (w *world) get(url, word string, args ...string) string {
	w.t.Helper()
	pid := strconv.Itoa(w.init.Process.Pid)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		cmd := exec.CommandContext(w.ctx, "nsenter", append([]string{"-t", pid, "-n", "--", "curl", "-sS", "-i", url}, args...)...)
		out, err := cmd.CombinedOutput()
		if err == nil && strings.Contains(string(out), word) {
			return string(out)
		}
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("%s: nothing of %q: %v\n%s", url, word, err, out)
		}
	}
}

// stock starts the stock guix-daemon of Debian.
func (w *world) stock() {
	w.t.Helper()
	w.run("chown", "guix-daemon:guix-daemon", "/gnu/store", "/var/guix")
	w.run("systemctl", "start", "guix-daemon")
}

// daemonHas reports whether the running guix-daemon has a variable.
func (w *world) daemonHas(variable string) bool {
	w.t.Helper()
	return strings.Contains(w.run("sh", "-ec", `tr '\0' '\n' </proc/$(systemctl show --value --property=MainPID guix-daemon)/environ`), variable+"\n")
}

// travel has an item, whose name and content are text, go from publish to the
// node, and from there into the store again, and reports what is wrong. The
// sockets are there, and guix-daemon runs.
func (w *world) travel(text string) {
	w.t.Helper()
	w.run("sh", "-ec", `[ -e /etc/guix/signing-key.pub ] || { ersatz keygen /etc/guix; ersatz authorize /etc/guix/signing-key.pub; }`)
	file := "/tmp/" + text
	if err := w.WriteFile(file, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	item := ""
	for line := range strings.Lines(w.run("guix", "download", "file://"+file)) {
		if strings.HasPrefix(line, "/gnu/store/") {
			item = strings.TrimSpace(line)
		}
	}
	hash, _, _ := strings.Cut(strings.TrimPrefix(item, "/gnu/store/"), "-")
	w.get("http://127.0.0.1:8080/"+hash+".narinfo", "\nERIS: ")
	w.get("http://127.0.0.1:8181/"+hash+".narinfo", "URL: nar/"+filepath.Base(item))
	w.run("guix", "gc", "--delete", item)
	before := w.nars()
	w.run("guix", "build", "--substitute-urls=http://127.0.0.1:8080", item)
	if got := w.run("cat", item); got != text {
		w.t.Errorf("the item is %q", got)
	}
	if got := w.nars(); got != before+1 {
		w.t.Errorf("the node gave %d nars", got-before)
	}
}

// nars returns how many the node has given to ersatz-substitute.
func (w *world) nars() (n int) {
	w.t.Helper()
	const series = `ersatz_http_requests_total{code="200",face="socket",kind="nar"} `
	_, rest, found := strings.Cut(w.get("http://127.0.0.1:8181/metrics", ""), series)
	if found {
		line, _, _ := strings.Cut(rest, "\n")
		var err error
		if n, err = strconv.Atoi(line); err != nil {
			w.t.Fatal(err)
		}
	}
	return n
}
