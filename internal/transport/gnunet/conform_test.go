package gnunet_test

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/transport/gnunet"
	"ersatz/internal/transport/gnunet/gnunettest"
	"ersatz/internal/transport/transporttest"
)

// TestTransport runs the suite with a real peer as far as that goes, and all of
// it with a service that errs.
func TestTransport(t *testing.T) {
	tr := transporttest.Transport{
		SilenceIsMissing: true,
		WrongIsMissing:   true,
		Dial: func(t testing.TB, address string, idle time.Duration) eris.Fetcher {
			// Who asks for a block that is not there waits for so long.
			return open(t, gnunet.Options{Socket: address, Idle: min(idle, 2*time.Second)})
		},
		Deaf: func(t testing.TB) string {
			l, err := net.Listen("unix", filepath.Join(t.TempDir(), "deaf"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return l.Addr().String()
		},
		Proxy: func(_ testing.TB, at string, via func(network, address string) string) string {
			return via("unix", at)
		},
		Serve: func(t testing.TB, address string, blocks block.Getter, refs []eris.Ref) (string, func()) {
			return serve(t, address, &service{blocks: blocks}, refs)
		},
	}
	peer := tr
	peer.Foreign = true
	peer.Serve = func(t testing.TB, _ string, blocks block.Getter, refs []eris.Ref) (string, func()) {
		p := gnunettest.Start(t)
		c := open(t, gnunet.Options{Socket: p.Socket, Rate: 1 << 30})
		for _, ref := range refs {
			b, err := blocks.Get(t.Context(), ref)
			if err == nil {
				err = c.Put(t.Context(), ref, b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return p.Socket, p.Stop
	}
	for name, tr := range map[string]transporttest.Transport{"script": tr, "gnunet": peer} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			transporttest.Run(t, tr)
			t.Run("faults", func(t *testing.T) { transporttest.Faults(t, tr) })
		})
	}
}
