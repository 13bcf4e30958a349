package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"ersatz/narinfo"
)

// Body is a file of a server, being read. Close must be called.
type Body struct {
	io.ReadCloser
	// Size is how many bytes come, -1 if that is not known.
	Size int64
	// ETag is the strong validator that the server gave, as it stands in the
	// header; "" if it gave none.
	ETag string

	// untilClose says that HTTP does not tell the end from a lost connection.
	untilClose bool
}

// statusError is an answer of HTTP that is neither the file nor "not there".
type statusError struct{ status string }

func (e *statusError) Error() string { return e.status }

// Open opens what ref, relative to the server or absolute, names. The error
// matches fs.ErrNotExist if it is not there, and may be one of which Waited or
// BrokeOff is true.
func (c *Client) Open(ctx context.Context, sv *Server, ref string) (*Body, error) {
	b, _, err := c.open(ctx, sv, ref)
	return b, err
}

// open is Open, which see. The header, nil if there is none, is that of a
// refusal too.
func (c *Client) open(ctx context.Context, sv *Server, ref string) (*Body, http.Header, error) {
	u, err := sv.Resolve(ref)
	if err != nil {
		return nil, nil, err
	}
	if u.Scheme == "file" {
		f, size, err := openFile(u.Path)
		if err != nil {
			return nil, nil, err
		}
		return &Body{ReadCloser: f, Size: size}, nil, nil
	}
	resp, err := c.get(ctx, sv, u, nil)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer drain(resp.Body)
		return nil, resp.Header, refusal(resp)
	}
	return &Body{
		ReadCloser: sv.atPace(resp.Body), Size: resp.ContentLength, ETag: strongETag(resp.Header),
		untilClose: resp.ContentLength < 0 && len(resp.TransferEncoding) == 0,
	}, resp.Header, nil
}

// get asks a server for one of its URLs.
func (c *Client) get(ctx context.Context, sv *Server, u *url.URL, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	c.mark(sv, req.Header)
	return c.httpOf(sv).Do(req)
}

// mark adds to the header of a request what tells the server not to ask others.
func (c *Client) mark(sv *Server, header http.Header) {
	if sv.peer || c.o.OnlyKept {
		header.Set(OnlyKept, "1")
	}
}

// refusal makes an error of an answer that is not the file.
func refusal(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusGone, http.StatusAccepted:
		return fmt.Errorf("%s: %w", resp.Status, fs.ErrNotExist)
	}
	return &statusError{resp.Status}
}

// strongETag returns the ETag by which ranges of one file can be told to be of
// one file (RFC 9110, "Entity Tag", "Comparison").
func strongETag(h http.Header) string {
	if tag := h.Get("ETag"); strings.HasPrefix(tag, `"`) {
		return tag
	}
	return ""
}

// OpenNar opens a nar of a build. A stock `guix publish` sends a live,
// uncompressed nar without a length and then leaves the connection open: there
// the signed size says where the nar ends. Where HTTP does not say the size,
// the narinfo may. Errors are those of Open.
func (c *Client) OpenNar(ctx context.Context, o Offer, of *Build) (*Body, error) {
	b, err := c.Open(ctx, o.Server, o.Nar.URL)
	if err != nil || b.Size >= 0 {
		return b, err
	}
	switch {
	case o.Nar.Compression == "none" && of.Signed.HasNarSize:
		b.Size = int64(of.Signed.NarSize)
		if b.untilClose {
			b.ReadCloser = first(b.ReadCloser, b.Size)
		}
	case o.Nar.FileSize > 0 && o.Nar.FileSize <= uint64(of.CompressedLimit()):
		b.Size = int64(o.Nar.FileSize)
	}
	return b, nil
}

// first returns the first n bytes of body.
func first(body io.ReadCloser, n int64) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(body, n), body}
}

// openFile opens a regular file: a FIFO would wait for ever.
func openFile(name string) (*os.File, int64, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, 0, err
	}
	if !fi.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is no regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// readAll reads a body of at most narinfo.MaxSize bytes, which is said to have
// size of them, -1 if nothing is.
func readAll(body io.Reader, size int64) ([]byte, error) {
	var text bytes.Buffer
	text.Grow(int(min(max(size, 0), narinfo.MaxSize)) + bytes.MinRead) // room to meet the end
	if _, err := text.ReadFrom(io.LimitReader(body, narinfo.MaxSize+1)); err != nil {
		return nil, err
	}
	if text.Len() > narinfo.MaxSize {
		return nil, fmt.Errorf("narinfo of more than %d bytes", narinfo.MaxSize)
	}
	return text.Bytes(), nil
}

// drainTime is how long a connection is worth waiting for.
const drainTime = time.Second

// drain reads what little may be left, so that the connection can be kept, if
// that does not take long.
func drain(body io.ReadCloser) {
	late := time.AfterFunc(drainTime, func() { body.Close() })
	defer late.Stop()
	io.CopyN(io.Discard, body, 64<<10)
	body.Close()
}
