package ipfs_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
	"ersatz/internal/transport/transporttest"
)

// kubo returns how the suite has a real daemon serve: one for all tests, until
// somebody stops it. at is what it is asked at.
func kubo(t *testing.T, at func(*kubotest.Daemon) string) func(testing.TB, string, block.Getter, []eris.Ref) (string, func()) {
	d, whole := kubotest.Start(t), t
	return func(t testing.TB, _ string, blocks block.Getter, refs []eris.Ref) (string, func()) {
		if d == nil {
			d = kubotest.Start(whole)
		}
		_, err := newClient(t, d.API).Put(context.Background(), refs[len(refs)-1], slices.Values(refs), func(emit func(eris.Ref, []byte) error) error {
			for _, ref := range refs {
				b, err := blocks.Get(context.Background(), ref)
				if err := errors.Join(err, emit(ref, b)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		running := d
		return at(running), func() {
			running.Stop()
			if d == running {
				d = nil
			}
		}
	}
}

// httpProxy is what transporttest.Transport has as Proxy.
func httpProxy(_ testing.TB, at string, via func(network, address string) string) string {
	return "http://" + via("tcp", strings.TrimPrefix(at, "http://"))
}

// TestTransport runs the suite with a real daemon, as far as that goes.
func TestTransport(t *testing.T) {
	tr := transporttest.Transport{
		Foreign:          true,
		SilenceIsMissing: true,
		Serve:            kubo(t, func(d *kubotest.Daemon) string { return d.API }),
		Proxy:            httpProxy,
		Dial: func(t testing.TB, api string, idle time.Duration) eris.Fetcher {
			c, err := ipfs.New(api, nil)
			if err != nil {
				t.Fatal(err)
			}
			c.BlockTimeout = min(idle, time.Second)
			return c
		},
	}
	transporttest.Run(t, tr)
	t.Run("faults", func(t *testing.T) { transporttest.Faults(t, tr) })
}
