// Package ndntest runs real NDN forwarders for tests: ndnd's YaNFD, as a process
// of its own that listens on a Unix socket.
package ndntest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Forwarder is a running forwarder.
type Forwarder struct {
	Face string // "unix:///…" or "tcp://…", as ndn.Options.Face has it

	cmd  *exec.Cmd
	done chan struct{}
	log  bytes.Buffer // read after done only
}

// binary builds the program, once, into Go's build cache.
var binary = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "tool", "-n", "yanfd")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go tool -n yanfd: %w\n%s", err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
})

// config is that of a forwarder which says nothing but what is wrong. Its
// parameters: whether it listens for TCP, the port, the socket, and how many
// packets it keeps.
const config = `
core: {log_level: WARN}
faces:
  udp: {enabled_unicast: false, enabled_multicast: false}
  tcp: {enabled: %t, port_unicast: %d}
  websocket: {enabled: false}
  unix: {enabled: true, socket_path: %q}
fw: {threads: 1}
tables:
  content_store: {capacity: %d, admit: true, serve: true}
`

// Start runs a forwarder until the test ends, at a face that an earlier one had,
// or at a new one if that is empty. It keeps 20,000 packets.
func Start(t testing.TB, face string) *Forwarder { return start(t, face, 0, 20_000) }

// StartWithout runs a forwarder that keeps one packet.
func StartWithout(t testing.TB) *Forwarder { return start(t, "", 0, 1) }

// StartTCP runs a forwarder whose face is of TCP, of this machine.
func StartTCP(t testing.TB) *Forwarder {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	f := start(t, "", port, 20_000)
	f.Face = fmt.Sprintf("tcp://127.0.0.1:%d", port)
	f.wait(t, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	return f
}

func start(t testing.TB, face string, port, packets int) *Forwarder {
	t.Helper()
	program, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if face == "" {
		face = "unix://" + filepath.Join(dir, "nfd.sock")
	}
	f := &Forwarder{Face: face, done: make(chan struct{})}
	socket := strings.TrimPrefix(face, "unix://")
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "yanfd.yml")
	if err := os.WriteFile(conf, fmt.Appendf(nil, config, port != 0, port, socket, packets), 0o600); err != nil {
		t.Fatal(err)
	}
	f.cmd = exec.Command(program, conf)
	f.cmd.Stdout, f.cmd.Stderr = &f.log, &f.log
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(f.done)
		_ = f.cmd.Wait() // it is killed in the end
	}()
	t.Cleanup(func() {
		f.Stop()
		if t.Failed() {
			t.Logf("forwarder:\n%s", f.log.Bytes()[max(0, f.log.Len()-4<<10):])
		}
	})
	f.wait(t, "unix", socket)
	return f
}

// wait waits until the forwarder takes connections.
func (f *Forwarder) wait(t testing.TB, network, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		if conn, err := new(net.Dialer).DialContext(ctx, network, address); err == nil {
			conn.Close()
			return
		}
		select {
		case <-f.done:
			t.Fatalf("forwarder ended at once:\n%s", f.log.Bytes())
		case <-ctx.Done():
			t.Fatal("forwarder does not listen")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Stop ends the forwarder and waits for that. It may be called again.
func (f *Forwarder) Stop() {
	_ = f.cmd.Process.Signal(syscall.SIGKILL) // it may have ended
	<-f.done
}
