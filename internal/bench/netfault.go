package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"

	"ersatz/internal/transport/n2r"
)

// fault is what a peer does wrong with the blocks and nars that it gives. All
// else, the answers to "have" among it, is as it should be.
type fault string

const (
	// lies changes a bit in every tenth block.
	lies fault = "lies in every tenth block"
	// stalls gives the first blocks and then nothing, and leaves the
	// connection open.
	stalls fault = "stalls"
	// resets breaks every connection off in the middle of an answer.
	resets fault = "resets connections"
)

const (
	lieEvery = 10
	// stallAfter and resetAfter are in bytes of answers: of all there were, and
	// of each.
	stallAfter = 1 << 20
	resetAfter = 150_000

	// frameHead is the length before each block of a batch.
	frameHead = 4
)

// faultyProxy stands in front of a node and spoils what it says of blocks.
type faultyProxy struct {
	fault  fault
	server *http.Server
	served chan error
	blocks atomic.Int64 // that have begun, if it lies
	passed atomic.Int64 // bytes, if it stalls
	spoilt atomic.Int64 // how often it was done
}

// connKey is of the connection of a request.
type connKey struct{}

// newFaultyProxy serves on l what is at the address target. dial connects.
func newFaultyProxy(l net.Listener, target string, dial func(ctx context.Context, network, addr string) (net.Conn, error), f fault) *faultyProxy {
	p := &faultyProxy{fault: f, served: make(chan error, 1)}
	back := &http.Transport{DialContext: dial}
	reverse := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: target})
	reverse.Transport, reverse.FlushInterval = back, -1
	reverse.ErrorLog = log.New(io.Discard, "", 0)
	reverse.ModifyResponse = p.spoil
	p.server = &http.Server{
		Handler:     reverse,
		ErrorLog:    reverse.ErrorLog,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	go func() {
		err := p.server.Serve(l)
		back.CloseIdleConnections()
		p.served <- err
	}()
	return p
}

// close ends the proxy and its connections.
func (p *faultyProxy) close() error {
	err := p.server.Close()
	if served := <-p.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// spoil puts the fault into an answer that has blocks, or a nar.
func (p *faultyProxy) spoil(res *http.Response) error {
	framed := false
	switch path := res.Request.URL.Path; {
	case res.StatusCode != http.StatusOK && res.StatusCode != http.StatusPartialContent:
		return nil
	case path == n2r.BatchPath:
		framed = true
	case path != n2r.BlockPath && !strings.Contains(path, "/nar/"):
		return nil
	}
	body := res.Body
	var r io.Reader
	switch p.fault {
	case lies:
		r = &liar{from: body, proxy: p, framed: framed, size: 32 << 10}
	case stalls:
		r = &staller{from: body, proxy: p, end: res.Request.Context().Done()}
	case resets:
		conn, _ := res.Request.Context().Value(connKey{}).(*net.TCPConn)
		r = &resetter{from: &io.LimitedReader{R: body, N: resetAfter}, proxy: p, conn: conn}
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{r, body}
	return nil
}

// liar changes a bit in every tenth block of an answer: of a batch's frames
// (docs/batch.md), or of blocks of one size.
type liar struct {
	from   io.Reader
	proxy  *faultyProxy
	framed bool
	size   int    // of blocks that are not framed
	head   []byte // of a frame, as far as it has come
	left   int    // of the block
	fresh  bool   // nothing of the block has come
}

func (l *liar) Read(p []byte) (int, error) {
	n, err := l.from.Read(p)
	for b := p[:n]; len(b) > 0; {
		if l.left == 0 {
			b = l.next(b)
			continue
		}
		if l.fresh && l.proxy.blocks.Add(1)%lieEvery == 0 {
			b[0] ^= 1
			l.proxy.spoilt.Add(1)
		}
		l.fresh = false
		c := min(l.left, len(b))
		b, l.left = b[c:], l.left-c
	}
	return n, err
}

// next finds out how long the next block is, and returns what follows the
// length. It stays 0 if there is no block, or if the length has not all come.
func (l *liar) next(b []byte) []byte {
	l.fresh = true
	if !l.framed {
		l.left = l.size
		return b
	}
	c := min(frameHead-len(l.head), len(b))
	if l.head = append(l.head, b[:c]...); len(l.head) == frameHead {
		l.left, l.head = int(binary.BigEndian.Uint32(l.head)), l.head[:0]
	}
	return b[c:]
}

// staller gives nothing more when the proxy has given enough, until the client
// goes away.
type staller struct {
	from  io.Reader
	proxy *faultyProxy
	end   <-chan struct{}
}

func (s *staller) Read(p []byte) (int, error) {
	if s.proxy.passed.Load() >= stallAfter {
		s.proxy.spoilt.Add(1)
		<-s.end
		return 0, context.Canceled
	}
	n, err := s.from.Read(p)
	s.proxy.passed.Add(int64(n))
	return n, err
}

// resetter resets the connection when enough of an answer has passed.
type resetter struct {
	from  *io.LimitedReader
	proxy *faultyProxy
	conn  *net.TCPConn
}

func (r *resetter) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if r.from.N > 0 || n > 0 {
		return n, err
	}
	r.proxy.spoilt.Add(1)
	// Closed with nothing to linger for, it is reset.
	return 0, errors.Join(net.ErrClosed, r.conn.SetLinger(0))
}
