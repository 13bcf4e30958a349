package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

const mediaType = "text/plain; charset=utf-8"

// ErrNoPeer means that a server does not know the question: it is no node, or
// does not share with this machine.
var ErrNoPeer = errors.New("server answers no questions of peers")

// Handler answers HavePath. have says what the node holds of a nar for the
// one who asks, nil for nothing; it is safe for concurrent use.
func Handler(have func(ctx context.Context, narHash [32]byte) *Held) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "POST the hashes of nars", http.StatusMethodNotAllowed)
			return
		}
		// A hash in hexadecimal has 71 characters.
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxHashes*72))
		var tooLong *http.MaxBytesError
		if errors.As(err, &tooLong) {
			http.Error(w, fmt.Sprintf("more than %d hashes", MaxHashes), http.StatusRequestEntityTooLarge)
			return
		}
		if err != nil {
			return // the client is gone
		}
		hashes, err := parseHashes(string(text))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", mediaType)
		out := bufio.NewWriter(w)
		room := maxBitmaps
		for _, h := range hashes {
			held := have(r.Context(), h)
			line := held.line(room)
			if held != nil && held.Part {
				room -= max(0, len(line)-maxLine)
			}
			out.WriteString(line) // the writer keeps its first error
			out.WriteByte('\n')
		}
		out.Flush() // fails if the client is gone
	})
}

// Client asks one node. It is safe for concurrent use.
type Client struct {
	base string
	hc   *http.Client
}

// New returns a client of the node at base, an http or https URL. hc bounds how
// long the node may be silent.
func New(base string, hc *http.Client) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is no http URL of a peer", base)
	}
	return &Client{strings.TrimRight(base, "/"), hc}, nil
}

// String returns the node's URL.
func (c *Client) String() string { return c.base }

// Have asks what the node holds of each nar; nil stands for nothing. Further
// requests are made for more than MaxHashes. The error matches ErrNoPeer if the
// server does not know the question, ErrMalformed if its answer is none.
// Nothing in an answer is verified.
func (c *Client) Have(ctx context.Context, hashes [][32]byte) ([]*Held, error) {
	all := make([]*Held, 0, len(hashes))
	for len(hashes) > 0 {
		n := min(len(hashes), MaxHashes)
		held, err := c.ask(ctx, hashes[:n])
		if err != nil {
			return nil, err
		}
		all, hashes = append(all, held...), hashes[n:]
	}
	return all, nil
}

func (c *Client) ask(ctx context.Context, hashes [][32]byte) ([]*Held, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+HavePath, strings.NewReader(printHashes(hashes)))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := c.hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusForbidden:
		return nil, fmt.Errorf("%s: %w", resp.Status, ErrNoPeer)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("POST %s: %s", HavePath, resp.Status)
	}
	body := io.LimitReader(resp.Body, maxBitmaps+int64(len(hashes)+1)*maxLine)
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxBitmaps+maxLine)
	held := make([]*Held, 0, len(hashes))
	for lines.Scan() {
		if len(held) == len(hashes) {
			return nil, fmt.Errorf("%w: more lines than questions", ErrMalformed)
		}
		h, err := parseHeld(lines.Text())
		if err != nil {
			return nil, err
		}
		held = append(held, h)
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	case err != nil:
		return nil, err
	case len(held) < len(hashes):
		return nil, fmt.Errorf("%w: %d lines for %d hashes", ErrMalformed, len(held), len(hashes))
	}
	return held, nil
}
