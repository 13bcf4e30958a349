package main

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"ersatz/guixsig"
	"ersatz/internal/nodeapi"
)

// TestNodeActivation passes a node both its sockets as systemd does, in either
// order, and wants it to make none.
func TestNodeActivation(t *testing.T) {
	ersatz, err := exec.LookPath("ersatz") // as testscript.Main has set it up
	if err != nil {
		t.Fatal(err)
	}
	for _, unixFirst := range []bool{true, false} {
		dir := t.TempDir()
		socket := filepath.Join(dir, "passed.sock")
		web, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer web.Close()
		local, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer local.Close()
		var files []*os.File
		for _, l := range []interface{ File() (*os.File, error) }{local.(*net.UnixListener), web.(*net.TCPListener)} {
			f, err := l.File()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			files = append(files, f)
		}
		if !unixFirst {
			slices.Reverse(files)
		}
		// The shell knows the process's number before ersatz runs.
		cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=2 exec "$0" "$@"`, ersatz,
			"node", "--listen=127.0.0.1:1", "--socket="+filepath.Join(dir, "own.sock"), "--state="+filepath.Join(dir, "state"))
		cmd.ExtraFiles = files
		cmd.Stderr = t.Output()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		res, err := http.Get("http://" + web.Addr().String() + "/healthz") // the socket has a queue
		if err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("%v, %v", res, err)
		} else {
			res.Body.Close()
		}
		c := nodeapi.New(socket, 0)
		if s, err := c.Status(t.Context()); err != nil || s.Share != "none" {
			t.Errorf("%+v, %v", s, err)
		}
		c.Close()
		if err := errors.Join(cmd.Process.Signal(os.Interrupt), cmd.Wait()); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "own.sock")); err == nil {
			t.Error("a socket was made beside the one that was passed")
		}
		if _, err := os.Lstat(socket); err != nil {
			t.Errorf("the socket that was passed is gone: %v", err)
		}
	}
}

func TestUnlessPermitted(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&fs.PathError{Op: "mkdir", Path: "/run/x", Err: syscall.EACCES}, "mkdir /run/x: permission denied (try y)"},
		{&fs.PathError{Op: "mkdir", Path: "/run/x", Err: syscall.ENOSPC}, "mkdir /run/x: no space left on device"},
	} {
		if got := unlessPermitted(c.err, "try y"); got.Error() != c.want || !errors.Is(got, c.err) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if err := unlessPermitted(nil, "try y"); err != nil {
		t.Error(err)
	}
}

func TestNodeOptions(t *testing.T) {
	f := nodeFlags{
		quota: "1GB", uploadLimit: "2MiB/s", share: "lan", policy: "mixed", discover: discoverAuto, upstreams: []string{"http://a", "https://b/x/"},
		shareLists: []string{filepath.Join(t.TempDir(), "acl")}, peers: []string{"http://192.168.1.2:8181"},
	}
	if err := os.WriteFile(f.shareLists[0], []byte("(acl)"), 0o644); err != nil {
		t.Fatal(err)
	}
	o, err := f.options(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if o.Quota != 1e9 || o.Node.Upload.Limit() != 2<<20 || o.Node.Share.String() != "lan" || len(o.Servers) != 2 || o.Node.Keys != nil || o.Browser == nil {
		t.Errorf("%+v", o)
	}
	f.acl = f.shareLists[0]
	if o, err = f.options(slog.New(slog.DiscardHandler)); err != nil || o.Node.Keys == nil {
		t.Errorf("with an ACL: %+v, %v", o, err)
	}
	// It is read anew, and parsed anew if it has changed.
	acl := func() string {
		k, err := o.Node.Keys()
		if err != nil {
			t.Fatal(err)
		}
		return string(k.Guix.Text())
	}
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []guixsig.ACL{{}, guixsig.ACL{}.Add(key.Public()), {}} {
		if err := os.WriteFile(f.acl, want.Text(), 0o644); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := acl(); got != string(want.Text()) {
				t.Errorf("%s\nwant %s", got, want.Text())
			}
		}
	}
	if err := os.WriteFile(f.acl, []byte("(acl"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Node.Keys(); err == nil || !strings.Contains(err.Error(), f.acl) {
		t.Errorf("a broken ACL: %v", err)
	}
}
