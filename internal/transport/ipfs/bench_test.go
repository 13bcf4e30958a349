package ipfs_test

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
	"ersatz/internal/transport/transporttest"
)

// BenchmarkTransport fetches blocks that a daemon on this machine holds: by our
// clients of its RPC and of its gateway, and by bare loops around net/http.
func BenchmarkTransport(b *testing.B) {
	s, refs := transporttest.Blocks(b, transporttest.Many)
	d := kubotest.Start(b)
	c := newClient(b, d.API)
	_, err := c.Put(context.Background(), refs[0], slices.Values(refs), func(emit func(eris.Ref, []byte) error) error {
		for _, ref := range refs {
			block, err := s.Get(context.Background(), ref)
			if err != nil {
				return err
			}
			if err := emit(ref, block); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ersatz/RPC", func(b *testing.B) { transporttest.Measure(b, c, refs) })
	b.Run("bare/RPC", func(b *testing.B) {
		transporttest.Measure(b, transporttest.BareHTTP(b, http.MethodPost, func(ref eris.Ref) string {
			return d.API + "/api/v0/block/get?arg=" + ipfs.CID(ref)
		}), refs)
	})
	gateway := d.Gateway(b)
	b.Run("ersatz/gateway", func(b *testing.B) {
		transporttest.Measure(b, newGateway(b, gateway, 10*time.Second), refs)
	})
	b.Run("bare/gateway", func(b *testing.B) {
		transporttest.Measure(b, transporttest.BareHTTP(b, http.MethodGet, func(ref eris.Ref) string {
			return gateway + "/ipfs/" + ipfs.CID(ref) + "?format=raw"
		}), refs)
	})
}
