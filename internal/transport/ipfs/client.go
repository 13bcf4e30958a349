// Package ipfs puts ERIS blocks into an IPFS daemon and gets them from it,
// over the HTTP RPC of Kubo ("/api/v0", Kubo 0.40).
//
// A block is the IPFS block of codec raw whose multihash is its reference, so
// its CID follows from the reference alone (see CID). Blocks go in by one CAR
// per item, under one pinned manifest, and come out one by one over kept
// connections. docs/ipfs.md describes all of it.
package ipfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"ersatz/internal/block"
)

// inFlight is how many blocks are asked for at once, by all calls of Fetch.
const inFlight = 32

// maxReply bounds what is read of an answer that is not a block, in bytes.
const maxReply = 1 << 20

// DefaultBlockTimeout is how long the daemon may look for one block.
const DefaultBlockTimeout = 8 * time.Second

// Client speaks to one Kubo daemon. It is safe for concurrent use.
type Client struct {
	// BlockTimeout is how long the daemon may look for one block in its
	// network; after that it counts as missing. It is set before first use.
	// Default DefaultBlockTimeout.
	BlockTimeout time.Duration

	api   string // "http://127.0.0.1:5001"
	user  *url.Userinfo
	hc    *http.Client
	slots block.Slots
}

// New returns a client of the daemon whose RPC is at api, such as
// "http://127.0.0.1:5001". hc may be nil; one that is given should keep at
// least 32 idle connections per host. Nothing is sent yet.
func New(api string, hc *http.Client) (*Client, error) {
	u, err := url.Parse(api)
	if err != nil {
		return nil, errors.New("ipfs: address of the daemon is not like http://127.0.0.1:5001") // the error repeats it
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("ipfs: address of the daemon: %q is not like http://127.0.0.1:5001", u.Redacted())
	}
	if hc == nil {
		hc = &http.Client{Transport: &http.Transport{
			MaxIdleConnsPerHost: inFlight,
			MaxConnsPerHost:     2 * inFlight, // long imports aside from blocks
			IdleConnTimeout:     90 * time.Second,
			DisableCompression:  true,
		}}
	}
	user := u.User // is not told
	u.User = nil
	base := strings.TrimSuffix(strings.TrimSuffix(u.String(), "/"), "/api/v0")
	c := &Client{BlockTimeout: DefaultBlockTimeout, api: base, user: user, hc: hc, slots: block.NewSlots(inFlight)}
	return c, nil
}

// String returns the address of the daemon.
func (c *Client) String() string { return c.api }

// Close ends the connections that are kept. A daemon that shuts down would wait
// for them.
func (c *Client) Close() error {
	c.hc.CloseIdleConnections()
	return nil
}

// Version returns the daemon's version, such as "0.40.1".
func (c *Client) Version(ctx context.Context) (string, error) {
	resp, err := c.post(ctx, "version", nil, "", nil)
	if err != nil {
		return "", err
	}
	defer drain(resp)
	var v struct{ Version string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxReply)).Decode(&v); err != nil {
		return "", fmt.Errorf("ipfs: %s: version: %w", c.api, err)
	}
	return v.Version, nil
}

// RPCError is an error that the daemon answered with.
type RPCError struct {
	API     string // address of the daemon
	Command string // such as "block/get"
	Status  int    // of HTTP
	Message string // the daemon's words
}

func (e *RPCError) Error() string {
	return fmt.Sprintf("ipfs: %s: %s: %s (status %d)", e.API, e.Command, e.Message, e.Status)
}

// post sends one command. The RPC takes POST only. An answer other than 200 is
// an *RPCError; the caller closes the body of a good one.
func (c *Client) post(ctx context.Context, command string, args url.Values, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.api+"/api/v0/"+command+"?"+args.Encode(), body)
	if err != nil {
		return nil, fmt.Errorf("ipfs: %w", err)
	}
	req.URL.User = c.user
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.hc.Do(req)
	if err != nil {
		// The URL in the error can be long.
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err
		}
		return nil, fmt.Errorf("ipfs: %s: %s: %w", c.api, command, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer drain(resp)
	return nil, &RPCError{API: c.api, Command: command, Status: resp.StatusCode, Message: message(resp.Body)}
}

// call sends a command of which only success matters. It returns what the
// daemon says, maxReply bytes at most.
func (c *Client) call(ctx context.Context, command string, args url.Values) ([]byte, error) {
	resp, err := c.post(ctx, command, args, "", nil)
	if err != nil {
		return nil, err
	}
	defer drain(resp)
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return nil, fmt.Errorf("ipfs: %s: %s: %w", c.api, command, err)
	}
	return b, c.streamError(command, resp)
}

// streamError returns the error that the daemon met after its answer had
// begun. The answer has been read to its end.
func (c *Client) streamError(command string, resp *http.Response) error {
	if msg := resp.Trailer.Get("X-Stream-Error"); msg != "" {
		return &RPCError{API: c.api, Command: command, Status: resp.StatusCode, Message: msg}
	}
	return nil
}

// message returns the daemon's words: the Message of a JSON object, else the
// first line.
func message(body io.Reader) string {
	b, err := io.ReadAll(io.LimitReader(body, 4<<10))
	if err != nil && len(b) == 0 {
		return "no message: " + err.Error()
	}
	var v struct{ Message string }
	if json.Unmarshal(b, &v) == nil && v.Message != "" {
		return v.Message
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line
}

// drain reads the little that may be left, so that the connection is kept.
func drain(resp *http.Response) {
	// What cannot be read costs the connection only.
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	resp.Body.Close()
}
