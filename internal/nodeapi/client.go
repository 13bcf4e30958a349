package nodeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"ersatz/internal/transport/httpclient"
)

// ErrNone means that the node is there, and has the item from nobody.
var ErrNone = errors.New("node has it from nobody")

const (
	maxText   = 64 << 10 // bytes of a refusal
	maxAnswer = 16 << 20 // bytes of JSON

	// host stands in URLs, where it has no meaning.
	host = "http://node"
)

// Client asks a node. It is safe for concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

// New returns a client of the node whose Unix socket is the file socket. idle
// is how long the node may send nothing, while its sources are slow; 0 means
// 30 s. Close frees its connections.
func New(socket string, idle time.Duration) *Client {
	if idle <= 0 {
		idle = 30 * time.Second
	}
	return &Client{socket, httpclient.New(httpclient.Options{Idle: idle, Socket: socket, PerHost: 8})}
}

// String returns the socket as people know it.
func (c *Client) String() string { return "unix:" + c.socket }

// Close closes the connections that are kept.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Nar is a nar as it is, being read. Nothing of it is verified here. A
// connection that is cut gives io.ErrUnexpectedEOF.
type Nar struct {
	io.ReadCloser
	Size   int64  // bytes
	Source string // where it comes from, for people; may be ""
}

// Nar asks for a nar. The error matches ErrNone if nobody has it; if the node
// is not there, it is that of the connection.
func (c *Client) Nar(ctx context.Context, r NarRequest) (*Nar, error) {
	resp, err := c.do(ctx, http.MethodPost, NarPath, r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || resp.ContentLength < 0 {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	return &Nar{resp.Body, resp.ContentLength, resp.Header.Get(SourceHeader)}, nil
}

// Ahead says what may be asked for soon.
func (c *Client) Ahead(ctx context.Context, r AheadRequest) error {
	resp, err := c.do(ctx, http.MethodPost, AheadPath, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return refusal(resp)
	}
	return nil
}

// Peers returns the nodes that the node knows.
func (c *Client) Peers(ctx context.Context) (peers []Peer, err error) {
	err = c.get(ctx, PeersPath, &peers)
	return peers, err
}

// Status returns what the node is doing.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.get(ctx, StatusPath, &s)
	return s, err
}

func (c *Client) get(ctx context.Context, path string, to any) error {
	resp, err := c.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return refusal(resp)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil {
		err = json.Unmarshal(text, to)
	}
	if err != nil {
		return fmt.Errorf("node's answer to GET %s: %w", path, err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, host+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return c.http.Do(req)
}

// refusal makes an error of an answer that is not what was asked for.
func refusal(resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxText))
	if err != nil {
		return err
	}
	why := strings.TrimSpace(string(text))
	if resp.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w: %s", ErrNone, why)
	}
	return fmt.Errorf("node: %s: %s", resp.Status, why)
}
