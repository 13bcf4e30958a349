package main

import (
	"bufio"
	"errors"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ersatz/internal/compress"
	"ersatz/internal/storedb"
	"ersatz/storepath"
)

func TestPlan(t *testing.T) {
	p := publishFlags{
		bypass: "5MiB", ttl: "30d", negativeTTL: "3m", narPath: "/some/where/", cache: "c", state: "/var/guix",
		compression: []string{"lzip", "9", "0"}, ipfs: "http://127.0.0.1:5001", workers: 3,
	}
	plan, err := p.plan(nil)
	if err != nil {
		t.Fatal(err)
	}
	o := plan.publish
	if o.BypassThreshold != 5<<20 || o.TTL != 720*time.Hour || o.NegativeTTL != 90*24*time.Hour || o.NarPath != "some/where" || o.LogDir != "/var/log/guix" {
		t.Errorf("%+v", o)
	}
	want := []compress.Method{{Name: "lzip", Level: 9}, {Name: "gzip", Level: 9}, compress.None}
	for i, m := range o.Methods {
		if m != want[i] || plan.bake.Methods[i] != m {
			t.Errorf("method %s, want %s", m, want[i])
		}
	}
	if plan.bake.IPFS == nil || plan.bake.Workers != 3 || plan.bake.TTL != o.TTL {
		t.Errorf("%+v", plan.bake)
	}
	if plan, err := (publishFlags{bypass: "0"}).plan(nil); err != nil || plan.publish.BypassThreshold >= 0 {
		t.Errorf("threshold 0 bypasses: %v", err)
	}
	if _, err := (publishFlags{bypass: "1", port: 70000, workers: -1}).plan(nil); !errors.Is(err, errUsage) ||
		!strings.Contains(err.Error(), "--port") || !strings.Contains(err.Error(), "--workers") {
		t.Errorf("%v", err)
	}
	if got := logDir("/srv/state"); got != "/srv/state/log/guix" {
		t.Errorf("logs in %s", got)
	}
}

// TestNixPlan: with a key of Nix no item is held back, and a store other than
// Guix's needs no key of Guix.
func TestNixPlan(t *testing.T) {
	for _, c := range []struct {
		p       publishFlags
		bypass  int64
		guix    bool
		secrets int
	}{
		{publishFlags{store: storepath.Guix}, 0, true, 1},
		{publishFlags{store: storepath.Nix}, 0, true, 1},
		{publishFlags{store: storepath.Nix, nixKey: "n"}, math.MaxInt64, false, 1},
		{publishFlags{store: storepath.Nix, nixKey: "n", guixKey: true}, math.MaxInt64, true, 2},
		{publishFlags{store: storepath.Guix, nixKey: "n"}, math.MaxInt64, true, 2},
		{publishFlags{store: storepath.Nix, nixKey: "n", bypass: "1MiB"}, 1 << 20, false, 1},
		{publishFlags{store: storepath.Nix, nixKey: "n", bypass: "0"}, -1, false, 1},
	} {
		plan, err := c.p.plan(nil)
		if err != nil || plan.publish.BypassThreshold != c.bypass || c.p.forGuix() != c.guix || len(c.p.secrets()) != c.secrets {
			t.Errorf("%+v: threshold %d, for Guix %t, %d secrets, %v", c.p, plan.publish.BypassThreshold, c.p.forGuix(), len(c.p.secrets()), err)
		}
	}
	if got := logDir(storedb.StateDir(storepath.Nix)); got != "/nix/var/log/nix" {
		t.Errorf("logs of Nix in %s", got)
	}
}

// scratchArgs makes keys and an empty store for publish.
func scratchArgs(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	if err := (&app{stdout: t.Output()}).keygen(dir); err != nil {
		t.Fatal(err)
	}
	db, err := storedb.Create(filepath.Join(dir, "guix"))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return []string{
		"publish", "--store", filepath.Join(dir, "store"), "--state", filepath.Join(dir, "guix"),
		"--public-key", filepath.Join(dir, "signing-key.pub"), "--private-key", filepath.Join(dir, "signing-key.sec"),
	}
}

// TestSocketActivation passes a socket as systemd does.
func TestSocketActivation(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ersatz, err := exec.LookPath("ersatz") // as testscript.Main has set it up
	if err != nil {
		t.Fatal(err)
	}
	// The shell knows the process's number before ersatz runs.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`, ersatz}, append(scratchArgs(t), "--port=1")...)...)
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	res, err := http.Get("http://" + l.Addr().String() + "/nix-cache-info") // the socket has a queue
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("%v, %v", res, err)
	} else {
		res.Body.Close()
	}
	if err := errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait()); err != nil {
		t.Error(err)
	}
}

// TestPublishUser wants publish to serve as another user, from a cache folder
// that was given to that user.
func TestPublishUser(t *testing.T) {
	who := nobody(t)
	ersatz, err := exec.LookPath("ersatz")
	if err != nil {
		t.Fatal(err)
	}
	args := scratchArgs(t)
	top, err := os.MkdirTemp("", "ersatz-user-*") // t.TempDir is for its owner alone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(top)
	if err := os.Chmod(top, 0o755); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(top, "guix")
	db, err := storedb.Create(state)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // keeps the -shm file, as the daemon does
	cache := filepath.Join(top, "cache")
	cmd := exec.Command(ersatz, append(args, "--user=nobody", "--listen=127.0.0.1", "--port=0", "--cache="+cache, "--state="+state)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	served := false
	for !served && lines.Scan() {
		t.Log(lines.Text())
		served = strings.Contains(lines.Text(), "msg=publishing")
	}
	if !served {
		t.Fatal("does not serve:", cmd.Wait())
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/status")
	if err != nil {
		t.Error(err)
	}
	ids := map[string]string{}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		ids[name] = strings.Join(strings.Fields(value), " ")
	}
	uid, gid := strconv.Itoa(who.uid), strconv.Itoa(who.gid)
	if ids["Uid"] != strings.Join([]string{uid, uid, uid, uid}, " ") || ids["Gid"] != strings.Join([]string{gid, gid, gid, gid}, " ") || ids["Groups"] != "" {
		t.Errorf("serves as users %s, groups %s and %q", ids["Uid"], ids["Gid"], ids["Groups"])
	}
	if got := owner(t, cache); got != who.uid {
		t.Errorf("the cache folder belongs to %d", got)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	for lines.Scan() {
		t.Log(lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}

	// A folder that is in use by root stays root's.
	if err := os.MkdirAll(filepath.Join(top, "roots", "something"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(ersatz, append(args, "--user=nobody", "--listen=127.0.0.1", "--port=0", "--cache="+filepath.Join(top, "roots"), "--state="+state)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "belongs to user 0 and cannot be written by nobody") {
		t.Errorf("%v\n%s", err, out)
	}
}
