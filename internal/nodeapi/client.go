package nodeapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"ersatz/internal/transport/httpclient"
	"ersatz/narinfo"
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

// Have asks what the node's peers hold of nars, by their hashes. Further
// requests are made for more than MaxHave. The claims are by hash.
func (c *Client) Have(ctx context.Context, hashes [][32]byte) ([][]Claim, error) {
	all := make([][]Claim, 0, len(hashes))
	for some := range slices.Chunk(hashes, MaxHave) {
		r := HaveRequest{NarHashes: make([]string, len(some))}
		for i, h := range some {
			r.NarHashes[i] = narinfo.FormatHash(h)
		}
		var claims [][]Claim
		if err := c.json(ctx, http.MethodPost, HavePath, r, &claims); err != nil {
			return nil, err
		}
		if len(claims) != len(some) {
			return nil, fmt.Errorf("node's answer to POST %s: about %d nars, not %d", HavePath, len(claims), len(some))
		}
		all = append(all, claims...)
	}
	return all, nil
}

// Peers returns the nodes that the node knows.
func (c *Client) Peers(ctx context.Context) (peers []Peer, err error) {
	err = c.json(ctx, http.MethodGet, PeersPath, nil, &peers)
	return peers, err
}

// Status returns what the node is doing.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.json(ctx, http.MethodGet, StatusPath, nil, &s)
	return s, err
}

// json sends a request, with a body unless that is nil, and reads the answer.
func (c *Client) json(ctx context.Context, method, path string, body, to any) error {
	resp, err := c.do(ctx, method, path, body)
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
		return fmt.Errorf("node's answer to %s %s: %w", method, path, err)
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
