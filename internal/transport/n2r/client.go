package n2r

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"ersatz/eris"
)

// singles bounds the requests under way at a server that knows no batches.
const singles = 16

// Client asks one server. It is an eris.Fetcher: batches first, and block by
// block over kept connections once the server has said that it knows none.
type Client struct {
	base    string
	http    *http.Client
	noBatch atomic.Bool
	slots   chan struct{}
}

var _ eris.Fetcher = (*Client)(nil)

// New returns a client of the server at base, an http or https URL to which
// the paths of the protocol are appended.
func New(base string, hc *http.Client) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("block server: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("block server %q is not a plain http or https URL", base)
	}
	return &Client{base: strings.TrimSuffix(base, "/"), http: hc, slots: make(chan struct{}, singles)}, nil
}

// String returns the server's URL.
func (c *Client) String() string { return c.base }

// errNoBatch means that the server does not know the batch protocol.
var errNoBatch = errors.New("no batches here")

// Fetch implements eris.Fetcher.
func (c *Client) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	for start := 0; start < len(refs) && !c.noBatch.Load(); start += MaxBatch {
		part := refs[start:min(start+MaxBatch, len(refs))]
		err := c.batch(ctx, size, part, func(i int, block []byte) error { return got(start+i, block) })
		if errors.Is(err, errNoBatch) {
			c.noBatch.Store(true)
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.base, err)
		}
		if start+len(part) == len(refs) {
			return nil
		}
	}
	if len(refs) == 0 {
		return nil
	}
	if err := c.single(ctx, size, refs, got); err != nil {
		return fmt.Errorf("%s: %w", c.base, err)
	}
	return nil
}

// batch asks for at most MaxBatch blocks in one request.
func (c *Client) batch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	body := make([]byte, 0, len(refs)*refSize)
	for _, ref := range refs {
		body = append(body, ref[:]...)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+BatchPath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", blockType)
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer drain(resp.Body)
	switch {
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusMethodNotAllowed:
		return errNoBatch
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("batch of %d blocks: %s", len(refs), resp.Status)
	case resp.Header.Get("Content-Type") != batchType:
		return errNoBatch // a server that answers anything with a page
	}
	return readFrames(resp.Body, size, len(refs), got)
}

// readFrames reads a response: per reference, in order, a length and a block.
func readFrames(r io.Reader, size eris.BlockSize, n int, got func(int, []byte) error) error {
	block := make([]byte, size)
	var head [frameHead]byte
	for i := range n {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return fmt.Errorf("batch ends before block %d of %d: %w", i+1, n, unexpected(err))
		}
		switch length := binary.BigEndian.Uint32(head[:]); length {
		case 0:
			continue
		case uint32(size):
		default:
			return fmt.Errorf("batch: block %d of %d has %d bytes, not %d: %w", i+1, n, length, size, eris.ErrCorrupt)
		}
		if _, err := io.ReadFull(r, block); err != nil {
			return fmt.Errorf("batch ends within block %d of %d: %w", i+1, n, unexpected(err))
		}
		if err := got(i, block); err != nil {
			return err
		}
	}
	return nil
}

// single asks for blocks one by one, several requests at a time.
func (c *Client) single(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	for i, ref := range refs {
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		work.Add(1)
		go func() {
			defer work.Done()
			defer func() { <-c.slots }()
			if err := c.get(ctx, size, ref, func(block []byte) error { return got(i, block) }); err != nil {
				cancel(err)
			}
		}()
	}
	work.Wait()
	return context.Cause(ctx)
}

// get asks for one block; that the server lacks it is no error.
func (c *Client) get(ctx context.Context, size eris.BlockSize, ref eris.Ref, got func([]byte) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+Path(ref), nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer drain(resp.Body)
	switch {
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusGone:
		return nil
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("block %s: %s", ref, resp.Status)
	}
	block := make([]byte, int(size)+1)
	n, err := io.ReadFull(resp.Body, block)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return fmt.Errorf("block %s: %w", ref, err)
	}
	return got(block[:n]) // which refuses a wrong length
}

// drain reads what little may be left, so that the connection can be kept.
func drain(body io.ReadCloser) {
	io.CopyN(io.Discard, body, 4<<10)
	body.Close()
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
