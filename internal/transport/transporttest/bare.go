package transporttest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"

	"golang.org/x/sync/errgroup"

	"ersatz/eris"
)

// bareFlight is how many requests a bare loop has under way.
const bareFlight = 32

// BareHTTP is a bare loop around net/http: a request for each block, over kept
// connections.
func BareHTTP(b *testing.B, method string, url func(eris.Ref) string) Func {
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: bareFlight}}
	b.Cleanup(hc.CloseIdleConnections)
	return func(ctx context.Context, refs []eris.Ref, got func(int, []byte) error) error {
		var work errgroup.Group
		work.SetLimit(bareFlight)
		for i, ref := range refs {
			work.Go(func() error {
				req, err := http.NewRequestWithContext(ctx, method, url(ref), nil)
				if err != nil {
					return err
				}
				resp, err := hc.Do(req)
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
	}
}
