package realnix_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// TestDaemon publishes as a user who cannot read the store's database: between
// two connections Nix leaves no -shm file, without which SQLite needs the right
// to write. Then nix-daemon is asked.
func TestDaemon(t *testing.T) {
	w := start(t)
	if _, err := os.Stat(w.Path("/nix/var/nix/db/db.sqlite-shm")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("somebody has the database open: %v", err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	daemon := w.Command(ctx, "nix-daemon")
	var log strings.Builder
	daemon.Stdout, daemon.Stderr = &log, &log
	w.check(daemon.Start())
	t.Cleanup(func() {
		cancel()
		daemon.Wait() // it is killed
		if t.Failed() {
			t.Log(log.String())
		}
	})
	const socket = "/nix/var/nix/daemon-socket/socket"
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(w.Path(socket)); err == nil {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("nix-daemon does not listen")
		}
	}
	s := w.publish(w.keyFlag(), "--user=nobody", "--cache="+w.Path("/cache"), "--compression=zstd:3")
	w.baked(s, w.dep)
	w.baked(s, w.item)
	if !strings.Contains(s.Log(), "database=daemon") {
		t.Errorf("not asked: %s", s.Log())
	}
	m, err := w.copyTo(s, w.public)
	if err != nil {
		t.Fatal(err)
	}
	w.wantCopied(m)
}
