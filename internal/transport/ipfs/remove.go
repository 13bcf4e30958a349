package ipfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"strings"

	"ersatz/eris"
)

// rmBatch is how many blocks one request removes: 2,048 CIDs make a URL of
// 134 KiB, well below the 1 MiB that Kubo's HTTP server takes. The daemon
// walks its pins once per request.
const rmBatch = 2048

// Remove takes back what Put did: the pin on the manifest, the manifest's
// nodes and the blocks refs, in the order that Put was given. Blocks that
// other pins hold stay, and so it is no error if some or all are gone: Remove
// can be repeated after a failure.
func (c *Client) Remove(ctx context.Context, manifestCID string, refs iter.Seq[eris.Ref]) error {
	if err := c.unpin(ctx, manifestCID); err != nil {
		return err
	}
	batch := make([]string, 0, rmBatch)
	add := func(cid string) error {
		batch = append(batch, cid)
		if len(batch) < rmBatch {
			return nil
		}
		err := c.removeBlocks(ctx, batch)
		batch = batch[:0]
		return err
	}
	_, err := manifest(refs, func(node cid, _ []byte) error { return add(node.String()) })
	if err != nil && !errors.Is(err, errNoBlocks) {
		return err
	}
	for ref := range refs {
		if err := add(CID(ref)); err != nil {
			return err
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return c.removeBlocks(ctx, batch)
}

// unpin removes the pin on a manifest, if there is one.
func (c *Client) unpin(ctx context.Context, manifestCID string) error {
	_, err := c.call(ctx, "pin/rm", url.Values{"arg": {manifestCID}, "recursive": {"true"}})
	if e := (*RPCError)(nil); errors.As(err, &e) && strings.Contains(e.Message, "not pinned") {
		return nil
	}
	return err
}

// removeBlocks removes blocks that no pin holds. The daemon names the others,
// one JSON object each.
func (c *Client) removeBlocks(ctx context.Context, cids []string) error {
	const command = "block/rm"
	args := url.Values{"arg": cids, "force": {"true"}, "quiet": {"true"}}
	resp, err := c.post(ctx, command, args, "", nil)
	if err != nil {
		return err
	}
	defer drain(resp)
	dec := json.NewDecoder(io.LimitReader(resp.Body, maxReply))
	var failed error
	for {
		var v struct{ Hash, Error string }
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) {
			return errors.Join(failed, c.streamError(command, resp))
		}
		if err != nil {
			return fmt.Errorf("ipfs: %s: %s: %w", c.api, command, err)
		}
		if v.Error != "" && !strings.Contains(v.Error, "pinned") && failed == nil {
			failed = &RPCError{API: c.api, Command: command, Status: resp.StatusCode, Message: v.Hash + ": " + v.Error}
		}
	}
}
