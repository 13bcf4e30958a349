package ipfs

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/transport/httpclient"
)

// Types of what gateways answer with ("Trustless Gateway", "Accept (request
// header)").
const (
	typeRaw = "application/vnd.ipld.raw"
	typeCAR = "application/vnd.ipld.car"
)

// A gateway that has too much to do is asked so many times, with pauses that it
// may choose, up to a limit.
const (
	busyTries = 3
	maxPause  = 3 * time.Second
)

// Gateway is a trustless HTTP gateway ("Trustless Gateway Specification"). It
// is a block.Network, and an eris.Fetcher that asks for single blocks. Its
// errors name it. It is safe for concurrent use.
type Gateway struct {
	// BlockTimeout is how long the gateway may look for one block; after that
	// it counts as missing. It is set before first use. Default
	// DefaultBlockTimeout.
	BlockTimeout time.Duration

	base     string // "https://trustless-gateway.example/ipfs/"
	user     *url.Userinfo
	manifest *cid // of the content that it is asked for, if that is known
	hc       *http.Client
	slots    block.Slots
}

var (
	_ block.Network = (*Gateway)(nil)
	_ eris.Fetcher  = (*Gateway)(nil)
)

// NewGateway returns the gateway at an http or https URL, to which /ipfs/CID is
// appended. With ?manifest=CID it is asked for the blocks of the content with
// that manifest by a CAR, as far as that goes: see docs/ipfs.md, "Gateways". hc
// bounds how long the gateway may be silent; nil is one that httpclient makes.
func NewGateway(gateway string, hc *http.Client) (*Gateway, error) {
	u, err := url.Parse(gateway)
	if err != nil {
		return nil, errors.New("ipfs: gateway: URL is not well-formed") // the error repeats it
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Fragment != "" {
		return nil, fmt.Errorf("ipfs: gateway %q is not a plain http or https URL", u.Redacted())
	}
	g := &Gateway{BlockTimeout: DefaultBlockTimeout, hc: hc, slots: block.NewSlots(inFlight)}
	for name, values := range query {
		if name != "manifest" || len(values) != 1 {
			return nil, fmt.Errorf("ipfs: gateway %q: only one manifest=CID may be asked", u.Redacted())
		}
		c, err := parseCID(values[0])
		if err != nil {
			return nil, err
		}
		g.manifest = &c
	}
	if g.hc == nil {
		g.hc = httpclient.New(httpclient.Options{PerHost: inFlight})
	}
	g.user = u.User // is not told
	u.RawQuery, u.User = "", nil
	g.base = strings.TrimSuffix(u.String(), "/") + "/ipfs/"
	return g, nil
}

// String returns the URL of the gateway.
func (g *Gateway) String() string { return strings.TrimSuffix(g.base, "/ipfs/") }

// Open implements block.Network. Nothing is sent yet.
func (g *Gateway) Open(w block.Wanted) block.Session {
	if g.manifest == nil {
		return block.Everything(g).Open(w)
	}
	return newCARSession(g, *g.manifest, w.ReadCap)
}

// Fetch asks for each block by itself, 32 at a time. A block that the gateway
// does not find within BlockTimeout counts as missing. It implements
// eris.Fetcher.
func (g *Gateway) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(i int, block []byte) error) error {
	return fetch(ctx, g.slots, g.BlockTimeout, size, refs, g.get, func(i int, block []byte) error {
		if err := got(i, block); err != nil {
			return fmt.Errorf("ipfs: %s: %w", g, err)
		}
		return nil
	})
}

// errBusy says that a gateway wants to be left alone for a while.
var errBusy = errors.New("gateway has too much to do")

// get reads a block into buf, which has room for one byte more than a block
// has. It returns nil for a block that the gateway does not find.
func (g *Gateway) get(ctx context.Context, ref eris.Ref, buf []byte) ([]byte, error) {
	timed, cancel := context.WithTimeoutCause(ctx, g.BlockTimeout, errLate)
	defer cancel()
	resp, err := g.ask(timed, rawCID(ref), "raw", typeRaw)
	if err == nil && resp != nil {
		defer drain(resp)
		var n int
		if n, err = readBody(resp.Body, buf); err == nil {
			if n == len(buf) {
				resp.Body.Close() // no end is to be waited for
			}
			return buf[:n], nil // got finds out whether that is too long
		}
	}
	switch {
	case err == nil, ctx.Err() == nil && errors.Is(context.Cause(timed), errLate):
		return nil, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf("ipfs: %s: block %s: %w", g, rawCID(ref), err)
}

// ask asks for a CID in a format, whose type the answer must have; nil if the
// gateway says that it has none.
func (g *Gateway) ask(ctx context.Context, c cid, format, accept string) (*http.Response, error) {
	want, _, err := mime.ParseMediaType(accept)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.base+c.String()+"?format="+format, nil)
		if err != nil {
			return nil, err
		}
		req.URL.User = g.user
		// Both: the text recommends it for the sake of caches.
		req.Header.Set("Accept", accept)
		resp, err := g.hc.Do(req)
		if err != nil {
			if e := (*url.Error)(nil); errors.As(err, &e) {
				err = e.Err
			}
			return nil, err
		}
		switch resp.StatusCode {
		case http.StatusOK:
			kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
			if err == nil && kind == want {
				return resp, nil
			}
			resp.Body.Close()
			return nil, fmt.Errorf("answers with %.80q: no trustless gateway", resp.Header.Get("Content-Type"))
		case http.StatusNotFound, http.StatusGone, http.StatusPreconditionFailed, http.StatusUnavailableForLegalReasons, http.StatusGatewayTimeout:
			drain(resp)
			return nil, nil
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			drain(resp)
			if try == busyTries {
				return nil, fmt.Errorf("%w: %s", errBusy, resp.Status)
			}
			if err := pause(ctx, retryAfter(resp.Header)); err != nil {
				return nil, err
			}
		default:
			defer drain(resp)
			return nil, fmt.Errorf("%s: %.200s", resp.Status, message(resp.Body))
		}
	}
}

// retryAfter returns how long a busy gateway wants to be left alone, as far as
// that is bearable; 1 s if it does not say.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil {
		n = 1
	}
	return min(time.Duration(n)*time.Second, maxPause)
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
