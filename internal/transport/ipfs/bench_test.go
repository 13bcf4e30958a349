package ipfs_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"ersatz/eris"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
	"ersatz/internal/transport/transporttest"
)

// BenchmarkTransport fetches blocks that a daemon on this machine holds: by our
// client, and by a bare loop around net/http.
func BenchmarkTransport(b *testing.B) {
	const flight = 32
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
		hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: flight}}
		b.Cleanup(hc.CloseIdleConnections)
		transporttest.Measure(b, transporttest.Func(func(_ context.Context, refs []eris.Ref, got func(int, []byte) error) error {
			var work errgroup.Group
			work.SetLimit(flight)
			for i, ref := range refs {
				work.Go(func() error {
					resp, err := hc.Post(d.API+"/api/v0/block/get?arg="+ipfs.CID(ref), "", nil)
					if err != nil {
						return err
					}
					defer resp.Body.Close()
					block, err := io.ReadAll(resp.Body)
					if err != nil || resp.StatusCode != http.StatusOK {
						return fmt.Errorf("%s, %w", resp.Status, err)
					}
					return got(i, block)
				})
			}
			return work.Wait()
		}), refs)
	})
}
