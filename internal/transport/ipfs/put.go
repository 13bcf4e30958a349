package ipfs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime/multipart"
	"net/http"
	"net/url"

	"ersatz/eris"
)

// provideTimeout bounds one announcement: the daemon walks its network.
const provideTimeout = "60s"

// ErrNotProvided means that the daemon has the block but could not announce
// it: it has no peers, or routing is off.
var ErrNotProvided = errors.New("ipfs: not announced")

// Put stores an item's blocks and pins them, then announces the block root.
// refs are the references of all blocks, root among them, in an order that
// depends on the item only; it is iterated twice. blocks hands each block to
// emit, in any order, and returns the first error of emit; emit keeps no data.
//
// One request streams all of it as a CAR, whose root is the manifest, in
// memory that does not depend on the item's size. Put returns the manifest's
// CID, which Remove wants. If it fails, nothing is pinned, and it can be
// called again; to put an item that is there already changes nothing. An
// announcement that the daemon could not make is no error, see Provide.
func (c *Client) Put(ctx context.Context, root eris.Ref, refs iter.Seq[eris.Ref],
	blocks func(emit func(ref eris.Ref, data []byte) error) error) (string, error) {
	top, err := manifest(refs, nil)
	if err != nil {
		return "", err
	}
	if err := c.importCAR(ctx, top, refs, blocks); err != nil {
		return "", err
	}
	if err := c.Provide(ctx, root); err != nil && !errors.Is(err, ErrNotProvided) {
		return "", err
	}
	return top.String(), nil
}

// Provide announces that the daemon has the block root, so that whoever looks
// for it finds the daemon. Records of the public network expire after two
// days. ErrNotProvided is returned if the daemon could not do it.
func (c *Client) Provide(ctx context.Context, root eris.Ref) error {
	args := url.Values{"arg": {CID(root)}, "recursive": {"false"}, "timeout": {provideTimeout}}
	_, err := c.call(ctx, "routing/provide", args)
	if e := (*RPCError)(nil); errors.As(err, &e) {
		return fmt.Errorf("%w: %w", ErrNotProvided, err)
	}
	return err
}

// importCAR sends the CAR by dag/import and checks that its root was pinned.
func (c *Client) importCAR(ctx context.Context, top cid, refs iter.Seq[eris.Ref],
	blocks func(emit func(ref eris.Ref, data []byte) error) error) error {
	pr, pw := io.Pipe()
	form := multipart.NewWriter(pw)
	sent := make(chan error, 1)
	go func() {
		err := writeForm(form, pw, top, refs, blocks)
		pw.CloseWithError(err)
		sent <- err
	}()
	args := url.Values{"pin-roots": {"true"}, "allow-big-block": {"false"}, "fast-provide-root": {"false"}}
	resp, err := c.post(ctx, "dag/import", args, form.FormDataContentType(), pr)
	if err == nil {
		err = c.checkImport(resp, top)
	}
	pr.Close() // ends a writer that the daemon no longer reads
	// What the writer met is the cause of what the daemon said, unless the
	// writer only saw the request end.
	if werr := <-sent; werr != nil && !errors.Is(werr, io.ErrClosedPipe) {
		return werr
	}
	return err
}

// writeForm writes the CAR as the only file of a multipart form.
func writeForm(form *multipart.Writer, w io.Writer, top cid, refs iter.Seq[eris.Ref],
	blocks func(emit func(ref eris.Ref, data []byte) error) error) error {
	part, err := form.CreateFormFile("file", "item.car")
	if err != nil {
		return fmt.Errorf("ipfs: %w", err)
	}
	buf := bufio.NewWriterSize(part, 256<<10)
	if err := writeCAR(buf, top, refs, blocks); err != nil {
		return err
	}
	if err := buf.Flush(); err != nil {
		return fmt.Errorf("ipfs: sending the CAR: %w", err)
	}
	if err := form.Close(); err != nil {
		return fmt.Errorf("ipfs: sending the CAR: %w", err)
	}
	return nil
}

// writeCAR writes the manifest's nodes, then the blocks.
func writeCAR(w io.Writer, top cid, refs iter.Seq[eris.Ref],
	blocks func(emit func(ref eris.Ref, data []byte) error) error) error {
	car := carWriter{w: w}
	if err := car.header(top); err != nil {
		return fmt.Errorf("ipfs: sending the CAR: %w", err)
	}
	again, err := manifest(refs, car.block)
	if err != nil {
		return fmt.Errorf("ipfs: sending the CAR: %w", err)
	}
	if again != top {
		return errors.New("ipfs: references differ from one iteration to the next")
	}
	return blocks(func(ref eris.Ref, data []byte) error {
		if err := car.block(rawCID(ref), data); err != nil {
			return fmt.Errorf("ipfs: sending the CAR: %w", err)
		}
		return nil
	})
}

// checkImport reads the answer of dag/import, a JSON object per root, and
// wants to see top pinned.
func (c *Client) checkImport(resp *http.Response, top cid) error {
	const command = "dag/import"
	defer drain(resp)
	dec := json.NewDecoder(io.LimitReader(resp.Body, maxReply))
	pinned := false
	for {
		var v struct {
			Root *struct {
				Cid struct {
					CID string `json:"/"`
				}
				PinErrorMsg string
			}
		}
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(fmt.Errorf("ipfs: %s: %s: %w", c.api, command, err), c.streamError(command, resp))
		}
		if v.Root == nil || v.Root.Cid.CID != top.String() {
			continue
		}
		if msg := v.Root.PinErrorMsg; msg != "" {
			return &RPCError{API: c.api, Command: command, Status: resp.StatusCode, Message: msg}
		}
		pinned = true
	}
	if err := c.streamError(command, resp); err != nil {
		return err
	}
	if !pinned {
		return fmt.Errorf("ipfs: %s: %s: the daemon did not pin %s", c.api, command, top)
	}
	return nil
}
