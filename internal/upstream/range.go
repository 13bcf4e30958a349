package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// ErrChanged means that a server did not give the bytes that were asked for
// of the file that was meant: it has another by now, or it knows no ranges.
var ErrChanged = errors.New("no such range of that file")

// Range is a part of a file (RFC 9110, "Range Requests").
type Range struct {
	// Offset is where it begins, in bytes.
	Offset int64
	// Length is how many bytes it has; 0 means all to the end.
	Length int64
	// Total is how many bytes the file has; 0 means that it is not known.
	Total int64
	// ETag is the Body.ETag of the file that is meant, which the server is asked
	// to compare. With "", another file of the same size is not told apart.
	ETag string
}

// header returns what asks for the range.
func (r Range) header() http.Header {
	text := fmt.Sprintf("bytes=%d-", r.Offset)
	if r.Length > 0 {
		text += strconv.FormatInt(r.Offset+r.Length-1, 10)
	}
	h := http.Header{"Range": {text}}
	if r.ETag != "" {
		h.Set("If-Range", r.ETag)
	}
	return h
}

// size returns how many bytes the range of a file of total bytes has. The error
// matches ErrChanged if it has no such range.
func (r Range) size(total int64) (int64, error) {
	if r.Total > 0 && total != r.Total {
		return 0, fmt.Errorf("%w: it has %d bytes, not %d", ErrChanged, total, r.Total)
	}
	if r.Offset < 0 || r.Length < 0 || r.Offset >= total || r.Length > total-r.Offset {
		return 0, fmt.Errorf("%w: %d bytes from %d of %d", ErrChanged, r.Length, r.Offset, total)
	}
	if r.Length > 0 {
		return r.Length, nil
	}
	return total - r.Offset, nil
}

// OpenRange opens a part of what ref names: a Body of exactly that size. The
// error matches ErrChanged if the server answers with anything else than the
// range of the file that was meant, else it is one of Open's.
func (c *Client) OpenRange(ctx context.Context, sv *Server, ref string, r Range) (*Body, error) {
	u, err := sv.Resolve(ref)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "file" {
		return openFileRange(u.Path, r)
	}
	resp, err := c.get(ctx, sv, u, r.header())
	if err != nil {
		return nil, err
	}
	size, err := r.check(resp)
	if err != nil {
		resp.Body.Close() // of a whole file, nothing is worth reading
		return nil, err
	}
	body := sv.atPace(resp.Body)
	if resp.ContentLength < 0 {
		body = first(body, size)
	}
	return &Body{ReadCloser: body, Size: size, ETag: strongETag(resp.Header)}, nil
}

// check compares an answer with the range and returns its size.
func (r Range) check(resp *http.Response) (int64, error) {
	switch resp.StatusCode {
	case http.StatusPartialContent:
	case http.StatusOK, http.StatusRequestedRangeNotSatisfiable:
		return 0, fmt.Errorf("%w: %s", ErrChanged, resp.Status)
	default:
		return 0, refusal(resp)
	}
	said := resp.Header.Get("Content-Range")
	start, total, length, err := parseContentRange(said)
	if err != nil {
		return 0, err
	}
	size, err := r.size(total)
	if err != nil {
		return 0, err
	}
	if start != r.Offset || length != size || resp.ContentLength >= 0 && resp.ContentLength != size {
		return 0, fmt.Errorf("%w: answer has %d bytes and Content-Range %.80q", ErrChanged, resp.ContentLength, said)
	}
	if tag := resp.Header.Get("ETag"); r.ETag != "" && tag != "" && tag != r.ETag {
		return 0, fmt.Errorf("%w: its ETag is %.80q, not %.80q", ErrChanged, tag, r.ETag)
	}
	return size, nil
}

// parseContentRange reads "bytes FIRST-LAST/TOTAL". One without a total cannot
// be told to be right.
func parseContentRange(s string) (start, total, length int64, err error) {
	bad := fmt.Errorf("%w: Content-Range %.80q", ErrChanged, s)
	text, ok := strings.CutPrefix(s, "bytes ")
	positions, size, ok2 := strings.Cut(text, "/")
	from, to, ok3 := strings.Cut(positions, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, bad
	}
	var n [3]int64
	for i, digits := range []string{from, to, size} {
		u, err := strconv.ParseUint(digits, 10, 62)
		if err != nil {
			return 0, 0, 0, bad
		}
		n[i] = int64(u)
	}
	if n[0] > n[1] || n[1] >= n[2] {
		return 0, 0, 0, bad
	}
	return n[0], n[2], n[1] - n[0] + 1, nil
}

func openFileRange(name string, r Range) (*Body, error) {
	f, total, err := openFile(name)
	if err != nil {
		return nil, err
	}
	size, err := r.size(total)
	if err == nil {
		_, err = f.Seek(r.Offset, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Body{ReadCloser: first(f, size), Size: size}, nil
}
