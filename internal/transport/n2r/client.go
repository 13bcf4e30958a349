package n2r

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"ersatz/eris"
	"ersatz/internal/block"
)

// singles bounds the requests under way at a server that knows no batches.
const singles = 16

// maxWait is how long a busy server may have the client wait before one more
// request, of which there are busyTries.
const (
	maxWait   = 3 * time.Second
	busyTries = 3
)

// Client asks one server. It is an eris.ManyFetcher: batches first, and block by
// block over kept connections once the server has said that it knows none. Its
// errors do not name the server, which who mixes sources does.
type Client struct {
	base    string
	http    *http.Client
	noBatch atomic.Bool
	limit   atomic.Int32 // references that the server takes in one batch
	slots   block.Slots  // for requests for single blocks
	frames  sync.Pool    // of *frameReader, for batches
	pace    pace         // of these
}

var _ eris.ManyFetcher = (*Client)(nil)

// New returns a client of the server at base, an http or https URL to which
// the paths of the protocol are appended. hc bounds how long the server may be
// silent; httpclient.New makes one.
func New(base string, hc *http.Client) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("block server: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("block server %q is not a plain http or https URL", base)
	}
	c := &Client{base: strings.TrimSuffix(base, "/"), http: hc, slots: block.NewSlots(singles)}
	c.limit.Store(MaxBatch)
	return c, nil
}

// String returns the server's URL.
func (c *Client) String() string { return c.base }

// Answers to a batch that have it asked for in another way.
var (
	errNoBatch  = errors.New("no batches here")
	errTooLarge = errors.New("batch is too large for the server")
	errBusy     = errors.New("server is busy")
)

// Fetch implements eris.Fetcher.
func (c *Client) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	return c.FetchMany(ctx, size, refs, eris.One(got))
}

// FetchMany implements eris.ManyFetcher. Of more than MaxBatch references, two
// requests are under way at a time, so that the server need not wait for the client to
// take an answer in.
func (c *Client) FetchMany(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	if len(refs) <= MaxBatch {
		return c.part(ctx, size, refs, got)
	}
	work, each := errgroup.WithContext(ctx)
	work.SetLimit(2)
	for start := 0; start < len(refs) && each.Err() == nil; start += MaxBatch {
		part := refs[start:min(start+MaxBatch, len(refs))]
		work.Go(func() error { return c.part(each, size, part, behind(start, got)) })
	}
	return cmp.Or(work.Wait(), ctx.Err())
}

// part fetches by one request after another.
func (c *Client) part(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	start, err := c.batches(ctx, size, refs, got)
	if err != nil || start == len(refs) {
		return err
	}
	return eris.FetchMany(ctx, oneByOne{c}, size, refs[start:], behind(start, got))
}

// behind is got for the references from one on.
func behind(start int, got eris.GotMany) eris.GotMany {
	return func(is []int, blocks [][]byte) (int, error) {
		for k := range is {
			is[k] += start
		}
		return got(is, blocks)
	}
}

// oneByOne fetches single blocks.
type oneByOne struct{ c *Client }

func (s oneByOne) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	return s.c.slots.Fetch(ctx, size, refs, s.c.get, got)
}

// batches fetches by batches, up to the first reference of which the server says
// that it knows none. It returns the number of that reference.
func (c *Client) batches(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got eris.GotMany) (start int, err error) {
	for tries := 0; start < len(refs) && !c.noBatch.Load(); {
		part := refs[start:min(start+int(c.limit.Load()), len(refs))]
		wait, err := c.batch(ctx, size, part, behind(start, got))
		switch {
		case err == nil:
			start += len(part)
			tries = 0
		case errors.Is(err, errNoBatch), errors.Is(err, errTooLarge) && len(part) == 1:
			c.noBatch.Store(true)
		case errors.Is(err, errTooLarge):
			c.limit.Store(int32(len(part) / 2))
		case errors.Is(err, errBusy) && tries < busyTries:
			tries++
			if err := pause(ctx, wait); err != nil {
				return start, err
			}
		default:
			return start, err
		}
	}
	return start, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// batch asks for at most MaxBatch blocks in one request. If the error matches
// errBusy, the request may be sent again after wait.
func (c *Client) batch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got eris.GotMany) (wait time.Duration, err error) {
	body := make([]byte, 0, len(refs)*refSize)
	for _, ref := range refs {
		body = append(body, ref[:]...)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+BatchPath, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", blockType)
	// Not sent: it tells net/http that the request can be repeated, if the
	// server closes a kept connection just when it is sent.
	req.Header["Idempotency-Key"] = nil
	resp, err := c.do(req)
	if err != nil {
		return 0, err
	}
	defer drain(resp.Body)
	switch code := resp.StatusCode; {
	case code == http.StatusNotFound, code == http.StatusMethodNotAllowed, code >= 300 && code < 400:
		return 0, errNoBatch
	case code == http.StatusRequestEntityTooLarge:
		return 0, errTooLarge
	case code == http.StatusServiceUnavailable:
		return retryAfter(resp.Header), fmt.Errorf("batch of %d blocks: %w: %s", len(refs), errBusy, resp.Status)
	case code != http.StatusOK:
		return 0, fmt.Errorf("batch of %d blocks: %s", len(refs), resp.Status)
	case resp.Header.Get("Content-Type") != batchType:
		return 0, errNoBatch // a server that answers anything with a page
	}
	f, ok := c.frames.Get().(*frameReader)
	if !ok {
		f = new(frameReader)
	}
	defer c.frames.Put(f)
	return 0, f.read(resp.Body, size, refs, &c.pace, got)
}

// do sends a request. Its error does not repeat the URL, in which a user can be.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if e := (*url.Error)(nil); errors.As(err, &e) {
		err = e.Err
	}
	return resp, err
}

// retryAfter returns how long a busy server wants to be left alone, as far as
// that is bearable. Without a number of seconds it is one.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil {
		n = 1
	}
	return min(time.Duration(n)*time.Second, maxWait)
}

// get reads a block into buf, which has room for one byte more than a block
// has. It returns nil if the server lacks it.
func (c *Client) get(ctx context.Context, ref eris.Ref, buf []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+Path(ref), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.do(req)
	if err != nil {
		return nil, err
	}
	defer drain(resp.Body)
	switch {
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusGone:
		return nil, nil
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("block %s: %s", ref, resp.Status)
	}
	n := 0
	for n < len(buf) {
		m, err := resp.Body.Read(buf[n:])
		n += m
		if errors.Is(err, io.EOF) {
			return buf[:n], nil
		}
		if err != nil {
			return nil, fmt.Errorf("block %s: %w", ref, err)
		}
	}
	resp.Body.Close() // no end is to be waited for
	return buf, nil   // too long, which got finds out
}

// drain reads what little may be left, so that the connection can be kept.
func drain(body io.ReadCloser) {
	io.CopyN(io.Discard, body, 4<<10)
	body.Close()
}
