// Package kubotest runs real Kubo daemons for tests, on loopback alone: no
// bootstrap peers, no automatic configuration, no telemetry.
package kubotest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// EnvBinary names the ipfs program that the daemons run.
const EnvBinary = "ERSATZ_KUBO"

// Daemon is a running daemon with a repository of its own.
type Daemon struct {
	API  string // "http://127.0.0.1:41234"
	Repo string

	binary string
	cmd    *exec.Cmd
	done   chan struct{}
	log    bytes.Buffer // read after done only
}

// Start runs a daemon until the test ends. The test is skipped if EnvBinary
// does not name a program.
func Start(t testing.TB) *Daemon {
	t.Helper()
	binary := os.Getenv(EnvBinary)
	if binary == "" {
		t.Skipf("%s does not name an ipfs program (make check builds one)", EnvBinary)
	}
	d, err := Launch(t.Context(), binary, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d.stopWith(t)
	return d
}

// stopWith ends the daemon with the test.
func (d *Daemon) stopWith(t testing.TB) {
	t.Cleanup(func() {
		d.Stop()
		if t.Failed() {
			t.Logf("daemon of %s:\n%s", d.Repo, tail(d.log.Bytes()))
		}
	})
}

// Launch runs a daemon of the ipfs program binary until Stop. repo is an empty
// folder.
func Launch(ctx context.Context, binary, repo string) (*Daemon, error) {
	d, err := prepare(ctx, binary, repo)
	if err != nil {
		return nil, err
	}
	return d, d.start(ctx)
}

// prepare makes the repository of a daemon.
func prepare(ctx context.Context, binary, repo string) (*Daemon, error) {
	d := &Daemon{Repo: repo, binary: binary}
	if _, err := d.run(ctx, "init", "--empty-repo"); err != nil {
		return nil, err
	}
	return d, configure(filepath.Join(d.Repo, "config"))
}

// configure keeps the daemon on loopback.
func configure(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var conf map[string]any
	if err := json.Unmarshal(text, &conf); err != nil {
		return err
	}
	for key, v := range map[string]any{
		"Addresses": map[string]any{
			"API": "/ip4/127.0.0.1/tcp/0", "Gateway": "/ip4/127.0.0.1/tcp/0", "Swarm": []string{"/ip4/127.0.0.1/tcp/0"},
			"Announce": []string{}, "AppendAnnounce": []string{}, "NoAnnounce": []string{},
		},
		"AutoConf":  map[string]any{"Enabled": false},
		"AutoTLS":   map[string]any{"Enabled": false},
		"Bootstrap": []string{},
		"DNS":       map[string]any{"Resolvers": map[string]string{}},
		"Discovery": map[string]any{"MDNS": map[string]any{"Enabled": false}},
		"Ipns":      map[string]any{"DelegatedPublishers": []string{}},
		"Routing":   map[string]any{"Type": "none", "DelegatedRouters": []string{}},
		"Swarm": map[string]any{
			"AddrFilters": []string{}, "DisableNatPortMap": true,
			"RelayClient": map[string]any{"Enabled": false}, "RelayService": map[string]any{"Enabled": false},
		},
		"Plugins": map[string]any{"Plugins": map[string]any{"telemetry": map[string]any{"Disabled": true}}},
	} {
		conf[key] = v
	}
	text, err = json.Marshal(conf)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// Run runs the ipfs program on the daemon's repository and returns what it
// prints.
func (d *Daemon) Run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := d.run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (d *Daemon) run(ctx context.Context, args ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, d.binary, args...)
	cmd.Env = d.env()
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ipfs %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

func (d *Daemon) env() []string {
	return append(os.Environ(), "IPFS_PATH="+d.Repo, "IPFS_TELEMETRY=off")
}

func (d *Daemon) start(ctx context.Context) error {
	d.cmd = exec.Command(d.binary, "daemon", "--migrate=false")
	d.cmd.Env = d.env()
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	d.done = make(chan struct{})
	if err := d.cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(d.done)
		_ = d.cmd.Wait() // it is killed in the end
	}()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	api, err := d.waitAPI(ctx)
	if err != nil {
		d.Stop()
		return fmt.Errorf("ipfs daemon: %w\n%s", err, tail(d.log.Bytes()))
	}
	d.API = api
	return nil
}

// waitAPI waits for the file in which the daemon says where its RPC listens.
func (d *Daemon) waitAPI(ctx context.Context) (string, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(filepath.Join(d.Repo, "api"))
		var port int
		if err == nil {
			if _, err := fmt.Sscanf(string(text), "/ip4/127.0.0.1/tcp/%d", &port); err == nil {
				return fmt.Sprintf("http://127.0.0.1:%d", port), nil
			}
		}
		select {
		case <-tick.C:
		case <-d.done:
			return "", errors.New("ended at once")
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// Gateway returns the address of the daemon's trustless gateway, such as
// "http://127.0.0.1:41235".
func (d *Daemon) Gateway(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.Repo, "gateway"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// Stop ends the daemon and waits for that. It may be called again.
func (d *Daemon) Stop() {
	// An error means that it has ended by itself.
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(10 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.done
	}
}

// Connect connects d to another daemon's swarm.
func (d *Daemon) Connect(t testing.TB, to *Daemon) {
	t.Helper()
	var id struct{ Addresses []string }
	if err := json.Unmarshal([]byte(to.Run(t, "id")), &id); err != nil {
		t.Fatal(err)
	}
	if len(id.Addresses) == 0 {
		t.Fatal("daemon has no swarm address")
	}
	d.Run(t, "swarm", "connect", id.Addresses[0])
}

func tail(b []byte) []byte { return b[max(0, len(b)-4<<10):] }
