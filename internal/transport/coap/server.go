package coap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"ersatz/eris"
	"ersatz/internal/block"
)

// Limiter bounds the bytes of blocks that a Server sends; *rate.Limiter is one,
// with a burst of at least a block.
type Limiter interface {
	// WaitN returns when n bytes may be sent, or ctx's error.
	WaitN(ctx context.Context, n int) error
}

// Resource is one store that a Server offers. A part that is nil is not
// allowed.
type Resource struct {
	// Path is the path of the store URL: WellKnown, or a secret one.
	Path string

	// Blocks is what can be got. What it returns is verified, and is not
	// changed while it is sent.
	Blocks block.Getter

	// Sink takes what is put. Its references are computed from the bytes.
	Sink block.Putter
}

// ServerOptions may change how a Server serves. The zero value works.
type ServerOptions struct {
	// Connections bounds the TCP and DTLS connections. Default 256.
	Connections int

	// PerClient bounds the connections of one address, and the requests that
	// are under way on a connection or, over UDP, for one address and port.
	// Each holds a block, at most. Default 8.
	PerClient int

	// Requests bounds what the stores are asked for at once, and the requests
	// that are under way on a UDP socket. Default 64.
	Requests int

	// Idle is how long a connection may do nothing. Default 5 min.
	Idle time.Duration

	// Stall is how long a client may take for one message, either way, and
	// for the handshake of DTLS, which may take 10 s at most. Default 30 s.
	Stall time.Duration

	// Limit bounds what is sent. Default: nothing.
	Limit Limiter

	// Log gets errors of the stores. Default: nothing does.
	Log *slog.Logger
}

func (o *ServerOptions) setDefaults() {
	for _, d := range []struct {
		value *int
		def   int
	}{{&o.Connections, 256}, {&o.PerClient, 8}, {&o.Requests, 64}} {
		if *d.value <= 0 {
			*d.value = d.def
		}
	}
	if o.Idle <= 0 {
		o.Idle = 5 * time.Minute
	}
	if o.Stall <= 0 {
		o.Stall = 30 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
}

// Server serves stores to any number of listeners: ServeTCP, ServeUDP and
// ServeDTLS. Its limits hold for all of them together.
type Server struct {
	stores  map[string]Resource // by path, with the name of the blocks
	opts    ServerOptions
	slots   chan struct{} // for what stores are asked for
	uploads uploads
	recent  recent
	proofs  *proofs
	conns   census // by TCP, and by DTLS after the handshake
}

// NewServer returns a server of stores, whose paths differ.
func NewServer(stores []Resource, o ServerOptions) (*Server, error) {
	o.setDefaults()
	s := &Server{
		stores: map[string]Resource{}, opts: o,
		slots: make(chan struct{}, o.Requests), proofs: newProofs(), conns: census{each: o.PerClient, all: o.Connections},
	}
	for _, r := range stores {
		if err := checkPath(r.Path); err != nil {
			return nil, fmt.Errorf("coap: store: %w", err)
		}
		path := r.Path + "/" + resource
		if _, twice := s.stores[path]; twice {
			return nil, errors.New("coap: two stores have the same path")
		}
		s.stores[path] = r
	}
	return s, nil
}

// understood are the critical options, those with odd numbers, that a request
// may have (RFC 7252, "Critical/Elective").
func understood(id message.OptionID) bool {
	switch id {
	case message.URIHost, message.URIPort, message.URIPath, message.URIQuery,
		message.Accept, message.Block1, message.Block2:
		return true
	}
	return id%2 == 0
}

// octets is the only content format that there is, and is not said in answers:
// application/octet-stream.
const octets = 42

// answer answers a request that came from a client, which is comparable: the
// same for all requests that may be parts of one body. Its payload has at most
// room bytes. The answer keeps no part of the request but its token.
func (s *Server) answer(ctx context.Context, from any, req *message.Message, room int) message.Message {
	var path strings.Builder
	for _, o := range req.Options {
		switch {
		case o.ID == message.ProxyURI || o.ID == message.ProxyScheme:
			return fail(req, codes.ProxyingNotSupported, "no proxy")
		case !understood(o.ID):
			return fail(req, codes.BadOption, fmt.Sprintf("option %d", o.ID))
		case o.ID == message.URIPath:
			path.WriteByte('/')
			path.Write(o.Value)
		}
	}
	if v, ok := findUint(req, message.Accept); ok && v != octets {
		return fail(req, codes.NotAcceptable, "blocks are octets")
	}
	r, ok := s.stores[path.String()]
	switch {
	case !ok:
		return fail(req, codes.NotFound, "no such store")
	case req.Code == codes.GET && r.Blocks != nil:
		return s.get(ctx, from, r, req, room)
	case req.Code == codes.PUT && r.Sink != nil:
		return s.put(ctx, from, path.String(), r, req)
	}
	return fail(req, codes.MethodNotAllowed, "")
}

// fail makes an answer with words for people (RFC 7252, "Diagnostic Payload").
func fail(req *message.Message, code codes.Code, text string) message.Message {
	return message.Message{Code: code, Token: req.Token, Payload: []byte(text)}
}

// wanted reads the query of a request: one reference. The words get and put
// are of the store URL, which some clients send with it.
func wanted(req *message.Message) (ref eris.Ref, ok bool) {
	for _, o := range req.Options {
		if o.ID != message.URIQuery || string(o.Value) == "get" || string(o.Value) == "put" || string(o.Value) == "get&put" {
			continue
		}
		if ok {
			return ref, false
		}
		if ref, ok = parseQuery(o.Value); !ok {
			return ref, false
		}
	}
	return ref, ok
}

func (s *Server) get(ctx context.Context, from any, r Resource, req *message.Message, room int) message.Message {
	ref, ok := wanted(req)
	if !ok {
		return fail(req, codes.BadRequest, "query is not one reference")
	}
	size, sized := findUint(req, message.Size1)
	if sized && !eris.BlockSize(size).Valid() {
		return fail(req, codes.BadRequest, "Size1 is no size of blocks")
	}
	value, parts := findUint(req, message.Block2)
	p, ok := parsePart(value)
	if !ok {
		return fail(req, codes.BadRequest, "Block2 is malformed")
	}
	p.szx = min(p.szx, szx1024)
	if !parts {
		p.szx = szx1024
	}
	if m, wanted := s.challenge(from, req); wanted {
		return m
	}
	b, err := s.block(ctx, r, ref, parts || room < block.MaxSize)
	switch {
	case errors.Is(err, eris.ErrNotFound), err == nil && sized && int(size) != len(b):
		return fail(req, codes.NotFound, "no such block")
	case err != nil:
		return s.broken(ctx, req, err)
	}
	m := message.Message{Code: codes.Content, Token: req.Token, Payload: b}
	m.Options = append(make(message.Options, 0, 4),
		message.Option{ID: message.ETag, Value: ref[:8]}, uintOption(message.MaxAge, maxAge))
	if parts || len(b) > room {
		if p.offset() >= len(b) {
			return fail(req, codes.BadRequest, "Block2 is beyond the end")
		}
		end := min(p.offset()+p.size(), len(b))
		p.more = end < len(b)
		m.Payload = b[p.offset():end]
		m.Options = append(m.Options, p.option(message.Block2), uintOption(message.Size2, uint32(len(b))))
	}
	if s.opts.Limit != nil {
		if err := s.opts.Limit.WaitN(ctx, len(m.Payload)); err != nil {
			return s.broken(ctx, req, err)
		}
	}
	return m
}

// ask runs what a store is asked for, in turn.
func (s *Server) ask(ctx context.Context, f func() error) error {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.slots }()
	return f()
}

// block returns a block; one that goes in parts, from memory if it is there
// since others were asked for, or the same one, whose answer was lost.
func (s *Server) block(ctx context.Context, r Resource, ref eris.Ref, inParts bool) (b []byte, err error) {
	if inParts {
		if b := s.recent.get(r.Path, ref); b != nil {
			return b, nil
		}
	}
	err = s.ask(ctx, func() error {
		b, err = r.Blocks.Get(ctx, ref)
		return err
	})
	if err == nil && inParts {
		s.recent.put(r.Path, ref, b)
	}
	return b, err
}

func (s *Server) put(ctx context.Context, from any, path string, r Resource, req *message.Message) message.Message {
	body := req.Payload
	value, parts := findUint(req, message.Block1)
	var done *upload
	if parts {
		p, ok := parsePart(value)
		if !ok || !p.fits(len(body)) {
			return fail(req, codes.BadRequest, "Block1 is malformed")
		}
		u, code := s.uploads.add(from, path, p, body)
		if code != codes.Empty {
			m := fail(req, code, "")
			m.Options = message.Options{uintOption(message.Block1, value)}
			return m
		}
		body, done = u.body, u
	}
	m := fail(req, codes.Created, "")
	if !eris.BlockSize(len(body)).Valid() {
		m = fail(req, codes.BadRequest, "no block has that size")
	} else if err := s.ask(ctx, func() error { return r.Sink.Put(ctx, eris.BlockRef(body), body) }); err != nil {
		m = s.broken(ctx, req, err)
	}
	if done != nil {
		s.uploads.end(from, done, m.Code)
		m.Options = message.Options{uintOption(message.Block1, value)}
	}
	return m
}

// broken is the answer to what could be answered at another time.
func (s *Server) broken(ctx context.Context, req *message.Message, err error) message.Message {
	if ctx.Err() != nil {
		return fail(req, codes.ServiceUnavailable, "")
	}
	s.opts.Log.LogAttrs(ctx, slog.LevelWarn, "block for CoAP", slog.String("error", err.Error()))
	return fail(req, codes.InternalServerError, "")
}
