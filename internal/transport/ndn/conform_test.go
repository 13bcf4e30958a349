package ndn_test

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/transport/ndn"
	"ersatz/internal/transport/ndn/ndntest"
	"ersatz/internal/transport/transporttest"
)

// TestTransport runs the suite by way of a real forwarder.
func TestTransport(t *testing.T) {
	tr := transporttest.Transport{
		SilenceIsMissing: true,
		WrongIsMissing:   true,
		Serve: func(t testing.TB, face string, blocks block.Getter, _ []eris.Ref) (string, func()) {
			f := ndntest.Start(t, face)
			stop := serve(t, blocks, ndn.Options{Face: f.Face}, ndn.ServerOptions{})
			return f.Face, func() { stop(); f.Stop() }
		},
		Dial: func(t testing.TB, face string, idle time.Duration) eris.Fetcher {
			return dial(t, ndn.Options{Face: face, Idle: idle})
		},
		Deaf: deaf,
		Proxy: func(_ testing.TB, face string, via func(network, address string) string) string {
			return "unix://" + via("unix", strings.TrimPrefix(face, "unix://"))
		},
	}
	transporttest.Run(t, tr)
	t.Run("faults", func(t *testing.T) { transporttest.Faults(t, tr) })
}

// dial returns a client until the test ends.
func dial(t testing.TB, o ndn.Options) *ndn.Client {
	t.Helper()
	c, err := ndn.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// serve serves blocks until the test ends, or until stop. It returns when the
// forwarder knows that.
func serve(t testing.TB, blocks block.Getter, o ndn.Options, so ndn.ServerOptions) (stop func()) {
	t.Helper()
	registered := make(chan struct{}, 100)
	so.Registered = func() { registered <- struct{}{} }
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		if err := ndn.Serve(ctx, blocks, o, so); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); work.Wait() }
	t.Cleanup(stop)
	select {
	case <-registered:
	case <-time.After(20 * time.Second):
		t.Fatal("the forwarder did not take the prefix")
	}
	return stop
}

// deaf returns the face of a forwarder that reads nothing.
func deaf(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "deaf.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return "unix://" + path
}
