// Package gnunettest runs real peers of GNUnet, which talk to each other over
// Unix sockets and to nobody else.
package gnunettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Peer is a running peer.
type Peer struct {
	Socket string // of its DHT service

	dir  string
	arm  *exec.Cmd // starts the services, and ends them when it ends
	done chan struct{}
	log  bytes.Buffer // read after done only
}

// config keeps a peer on this machine: no address of another peer is known, no
// port is opened, and services that use the network do not run. Proofs of work,
// which keep a processor busy for hours, are as good as left out. The DHT has room
// for more than the 50 MB that are the default.
const config = `[PATHS]
GNUNET_HOME = %[1]s
GNUNET_DATA_HOME = %[1]s
GNUNET_CONFIG_HOME = %[1]s
GNUNET_CACHE_HOME = %[1]s
GNUNET_RUNTIME_DIR = %[1]s
GNUNET_USER_RUNTIME_DIR = %[1]s
GNUNET_TMP = %[1]s
[arm]
START_SYSTEM_SERVICES = YES
START_USER_SERVICES = NO
[peerinfo]
USE_INCLUDED_HELLOS = NO
[transport]
PLUGINS = unix
[nse]
WORKBITS = 1
[dhtcache]
QUOTA = 200 MB
`

// unused are services that would start by themselves.
var unused = []string{"cadet", "fs", "gns", "hostlist", "rest", "revocation", "zonemaster"}

// Start runs a peer until the test ends. The test is skipped if GNUnet is not
// installed.
func Start(t testing.TB) *Peer {
	t.Helper()
	if _, err := exec.LookPath("gnunet-arm"); err != nil {
		t.Skip("no gnunet-arm (Debian package gnunet)")
	}
	// Paths of Unix sockets are short: t.TempDir could be too long.
	dir, err := os.MkdirTemp("", "gnunet")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p, err := Launch(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("peer in %s:\n%s", dir, tail(p.log.Bytes()))
		}
	})
	return p
}

// Launch runs a peer until Stop. dir is an empty folder with a short path.
func Launch(ctx context.Context, dir string) (*Peer, error) {
	text := fmt.Sprintf(config, dir)
	for _, name := range unused {
		text += fmt.Sprintf("[%s]\nIMMEDIATE_START = NO\nSTART_ON_DEMAND = NO\n", name)
	}
	p := &Peer{dir: dir, Socket: filepath.Join(dir, "gnunet-service-dht.sock"), done: make(chan struct{})}
	if err := os.WriteFile(p.config(), []byte(text), 0o600); err != nil {
		return nil, err
	}
	found, err := filepath.Glob("/usr/lib/*/gnunet/libexec/gnunet-service-arm")
	if err != nil || len(found) == 0 {
		return nil, errors.New("gnunet-service-arm is not where Debian has it")
	}
	p.arm = exec.Command(found[0], "-c", p.config())
	p.arm.Stdout, p.arm.Stderr = &p.log, &p.log
	p.arm.Env = append(os.Environ(), "TMPDIR="+dir)
	p.arm.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.arm.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		_ = p.arm.Wait() // it is ended by a signal
	}()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := p.ready(ctx); err != nil {
		p.Stop()
		return nil, fmt.Errorf("%w\n%s", err, tail(p.log.Bytes()))
	}
	return p, nil
}

func (p *Peer) config() string { return filepath.Join(p.dir, "peer.conf") }

// ready waits until the DHT service can be asked, and the peer has a key.
func (p *Peer) ready(ctx context.Context) error {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", p.Socket)
		if err == nil {
			conn.Close()
			if _, err = p.run(ctx, "gnunet-peerinfo", "-s", "-q"); err == nil {
				return nil
			}
		}
		if err := p.pause(ctx); err != nil {
			return fmt.Errorf("peer does not start: %w", err)
		}
	}
}

// pause waits a little, while the peer lives.
func (p *Peer) pause(ctx context.Context) error {
	timer := time.NewTimer(20 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-p.done:
		return errors.New("gnunet-service-arm has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stop ends the peer and waits for that. It may be called again.
func (p *Peer) Stop() {
	_ = p.arm.Process.Signal(syscall.SIGTERM) // an error means that it has ended
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
	}
	_ = syscall.Kill(-p.arm.Process.Pid, syscall.SIGKILL) // what it has left behind, if anything
	<-p.done
}

// Run runs a program of GNUnet for the peer and returns what it prints.
func (p *Peer) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := p.run(t.Context(), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (p *Peer) run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, append([]string{"-c", p.config()}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

// Restart ends a service of the peer, which loses what it had in memory, and
// waits until it runs again.
func (p *Peer) Restart(t testing.TB, service string) {
	t.Helper()
	p.Run(t, "gnunet-arm", "-q", "-k", service)
	p.Run(t, "gnunet-arm", "-q", "-i", service)
}

// Connect makes p and another peer neighbours in the DHT.
func (p *Peer) Connect(t testing.TB, other *Peer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p.Run(t, "gnunet-peerinfo", "-p", other.Run(t, "gnunet-peerinfo", "-g", "-n"))
	for {
		if strings.Contains(p.Run(t, "gnunet-core"), "connection established") &&
			strings.Contains(other.Run(t, "gnunet-core"), "connection established") {
			return
		}
		if err := p.pause(ctx); err != nil {
			t.Fatalf("peers do not connect: %v", err)
		}
	}
}

func tail(b []byte) []byte { return b[max(0, len(b)-4<<10):] }
