package realsystemd

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ersatz/internal/nodeapi"
	"ersatz/internal/storedb"
)

// need skips a test where a program of systemd is missing.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s (Debian package systemd): %v", program, err)
	}
}

// activate has systemd-socket-activate listen and start a program when somebody
// comes. The program ends with the test, and without an error.
func activate(t *testing.T, listen []string, args ...string) {
	t.Helper()
	var all []string
	for _, address := range listen {
		all = append(all, "--listen="+address)
	}
	cmd := exec.Command("systemd-socket-activate", append(append(all, "--"), args...)...)
	var log output
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// It has become the program, if anybody came.
		err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
		if err != nil || t.Failed() {
			t.Errorf("%v: %v\n%s", args, err, log.String())
		}
	})
}

// ask waits until something listens and returns the body of an answer with
// status 200.
func ask(t *testing.T, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v\n%s", url, resp.Status, err, text)
		}
		return string(text)
	}
}

// free returns an address of loopback on which nothing listens.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestActivateNode(t *testing.T) {
	need(t, "systemd-socket-activate")
	dir, addr := t.TempDir(), free(t)
	socket := filepath.Join(dir, "node.sock")
	// The addresses of the flags are not to be used: one cannot be.
	activate(t, []string{addr, socket}, program(t, "ersatz"), "node", "--state="+dir+"/state", "--socket=/proc/none", "--listen=127.0.0.1:99999")
	if got := ask(t, "http://"+addr+"/healthz"); got != "ok\n" {
		t.Errorf("%q", got)
	}
	c := nodeapi.New(socket, time.Minute)
	defer c.Close()
	if s, err := c.Status(t.Context()); err != nil || s.Share != "none" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestActivatePublish(t *testing.T) {
	need(t, "systemd-socket-activate")
	dir, addr := t.TempDir(), free(t)
	db, err := storedb.Create(dir + "/guix")
	if err == nil {
		err = errors.Join(db.Close(), os.Mkdir(dir+"/store", 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	ersatz := program(t, "ersatz")
	if out, err := exec.Command(ersatz, "keygen", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	activate(t, []string{addr}, ersatz, "publish", "--store="+dir+"/store", "--state="+dir+"/guix", "--cache="+dir+"/cache",
		"--public-key="+dir+"/signing-key.pub", "--private-key="+dir+"/signing-key.sec", "--listen=192.0.2.1")
	if got := ask(t, "http://"+addr+"/nix-cache-info"); !strings.Contains(got, "StoreDir: "+dir+"/store\n") {
		t.Errorf("%q", got)
	}
}

// TestVerify has systemd read the units where they will lie, on any machine
// that has systemd's programs.
func TestVerify(t *testing.T) {
	need(t, "systemd-analyze")
	root := t.TempDir()
	copyTree(t, "/usr/lib/systemd/system", root+"/usr/lib/systemd/system")
	put := func(name, text string, perm os.FileMode) {
		t.Helper()
		name = filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), perm)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"usr/local/bin/ersatz", "usr/local/bin/ersatz-guix", "usr/bin/guix-daemon"} {
		put(name, "#!/bin/sh\n", 0o755)
	}
	put("usr/lib/systemd/system/guix-daemon.service", "[Service]\nExecStart=/usr/bin/guix-daemon\n", 0o644)
	from := func(name string) string {
		text, err := os.ReadFile(filepath.Join(packaging, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	put("etc/systemd/system/guix-daemon.service.d/ersatz.conf", from("guix-daemon-ersatz.conf"), 0o644)
	units := []string{"guix-daemon.service"}
	for _, name := range []string{"ersatz-node.service", "ersatz-node.socket", "ersatz-publish.service", "ersatz-publish.socket"} {
		put("etc/systemd/system/"+name, from(name), 0o644)
		if strings.Contains(from(name), "network-online") {
			t.Errorf("%s waits for a network, without which what is kept can be served", name)
		}
		units = append(units, name)
	}
	verify := func() (string, error) {
		out, err := exec.Command("systemd-analyze", append([]string{"verify", "--root=" + root, "--man=no"}, units...)...).CombinedOutput()
		return string(out), err
	}
	if out, err := verify(); err != nil || out != "" {
		t.Errorf("%v\n%s", err, out)
	}
	for _, unit := range []string{"ersatz-node.service", "ersatz-publish.service"} {
		out, err := exec.Command("systemd-analyze", "security", "--root="+root, "--offline=yes", "--threshold=18", unit).CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
	// Systemd does look: a misspelled setting is found.
	put("etc/systemd/system/ersatz-node.service", strings.Replace(from("ersatz-node.service"), "\nUMask=", "\nUmask=", 1), 0o644)
	if out, _ := verify(); !strings.Contains(out, "Umask") {
		t.Errorf("a wrong setting is not found:\n%s", out)
	}
}

// copyTree copies a folder, links as they are.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
