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

// TestTransport runs the suite with a real daemon, as far as that goes.
func TestTransport(t *testing.T) {
	tr := transporttest.Transport{
		Foreign:          true,
		SilenceIsMissing: true,
		Serve: func(t testing.TB, _ string, blocks block.Getter, refs []eris.Ref) (string, func()) {
			d := kubotest.Start(t)
			c := newClient(t, d.API)
			_, err := c.Put(context.Background(), refs[len(refs)-1], slices.Values(refs), func(emit func(eris.Ref, []byte) error) error {
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
			return d.API, d.Stop
		},
		Dial: func(t testing.TB, api string, idle time.Duration) eris.Fetcher {
			c, err := ipfs.New(api, nil)
			if err != nil {
				t.Fatal(err)
			}
			c.BlockTimeout = min(idle, 3*time.Second)
			return c
		},
		Proxy: func(_ testing.TB, api string, via func(network, address string) string) string {
			return "http://" + via("tcp", strings.TrimPrefix(api, "http://"))
		},
	}
	transporttest.Run(t, tr)
	t.Run("faults", func(t *testing.T) { transporttest.Faults(t, tr) })
}
