package ipfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
)

// maxDepth bounds the levels of a manifest: three hold more blocks than any
// item has.
const maxDepth = 4

// errManifest means that a block is no node of a manifest.
var errManifest = errors.New("ipfs: malformed manifest")

// RemoveAll takes back what Put did, as Remove does, when nobody knows the
// references any more: it reads them from the manifest that the daemon has.
// What is gone is passed over, so that RemoveAll can be repeated after a
// failure.
func (c *Client) RemoveAll(ctx context.Context, manifestCID string) error {
	top, err := parseCID(manifestCID)
	if err != nil {
		return err
	}
	if err := c.unpin(ctx, manifestCID); err != nil {
		return err
	}
	batch := make([]string, 0, rmBatch)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := c.removeBlocks(ctx, batch)
		batch = batch[:0]
		return err
	}
	// A node goes after what it names, since without it that is not found again.
	var remove func(node cid, depth int) error
	remove = func(node cid, depth int) error {
		if node[1] == codecDagCBOR {
			links, err := c.links(ctx, node, depth)
			if err != nil {
				return err
			}
			for _, link := range links {
				if err := remove(link, depth+1); err != nil {
					return err
				}
			}
		}
		if batch = append(batch, node.String()); len(batch) == rmBatch {
			return flush()
		}
		return nil
	}
	if err := remove(top, 0); err != nil {
		return err
	}
	return flush()
}

// links returns what a node of a manifest names, nothing if the daemon does not
// have it.
func (c *Client) links(ctx context.Context, node cid, depth int) ([]cid, error) {
	if depth == maxDepth {
		return nil, fmt.Errorf("%w: more than %d levels", errManifest, maxDepth)
	}
	resp, err := c.post(ctx, "block/get", url.Values{"arg": {node.String()}, "offline": {"true"}}, "", nil)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer drain(resp)
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxNode+1))
	if err == nil {
		err = c.streamError("block/get", resp)
	}
	if err != nil {
		return nil, fmt.Errorf("ipfs: %s: block/get %s: %w", c.api, node, err)
	}
	if nodeCID(b) != node {
		return nil, fmt.Errorf("%w: %s is another block", errManifest, node)
	}
	return parseNode(b)
}

// parseNode reads what seal prints, and nothing else.
func parseNode(b []byte) ([]cid, error) {
	for head := 1; head <= 3 && head <= len(b); head++ {
		n := (len(b) - head) / linkSize
		if n < 1 || n > maxLinks || !bytes.Equal(appendHead(nil, cborArray, uint64(n)), b[:head]) {
			continue
		}
		links := make([]cid, n)
		again := b[:head:head]
		for i := range links {
			links[i] = cid(b[head+(i+1)*linkSize-len(cid{}):])
			if codec := links[i][1]; newCID(codec, [32]byte(links[i][6:])) != links[i] || codec != codecRaw && codec != codecDagCBOR {
				return nil, fmt.Errorf("%w: link %d is no CID of ours", errManifest, i)
			}
			again = appendLink(again, links[i])
		}
		if !bytes.Equal(again, b) {
			return nil, fmt.Errorf("%w: it is not an array of links alone", errManifest)
		}
		return links, nil
	}
	return nil, fmt.Errorf("%w: %d bytes are no array of links", errManifest, len(b))
}

// parseCID reads what String prints of a manifest's CID, and nothing else.
func parseCID(s string) (c cid, err error) {
	if len(s) == 0 || s[0] != 'b' {
		return c, fmt.Errorf("%w: CID %.80q", errManifest, s)
	}
	b, err := base32Lower.DecodeString(s[1:])
	if err != nil || len(b) != len(c) {
		return c, fmt.Errorf("%w: CID %.80q", errManifest, s)
	}
	if c = newCID(codecDagCBOR, [32]byte(b[6:])); c.String() != s {
		return c, fmt.Errorf("%w: CID %.80q", errManifest, s)
	}
	return c, nil
}
