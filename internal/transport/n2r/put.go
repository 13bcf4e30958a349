package n2r

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"ersatz/eris"
	"ersatz/internal/block"
)

var _ block.Putter = (*Client)(nil)

// Put implements block.Putter: PUT of what GET would give, as eris-nim has it.
// Any answer of success counts. A redirect is none: it is not followed.
func (c *Client) Put(ctx context.Context, ref eris.Ref, b []byte) error {
	if err := block.CheckSize(ref, b); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, c.base+Path(ref), bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", blockType)
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer drain(resp.Body)
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("block %s: the server refuses to take it: %s", ref, resp.Status)
	}
	return nil
}
