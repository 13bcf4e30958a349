package httpclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// window bounds the requests of one connection that have no answer yet. All
	// of them fit into the buffers of a socket, so that sending never waits for
	// the server to be read from.
	window = 64

	maxTarget = 512      // bytes of a request's path
	maxInfo   = 5        // answers of status 1xx before the one that counts
	maxRest   = 64 << 10 // bytes that are passed over for the next answer
)

// Pipeline asks one server for many small files, several requests ahead of the
// answers (RFC 9112, "Pipelining"), as stock Guix asks for narinfos
// (guix/http-client.scm, http-multiple-get): a connection costs no round trip
// per file, and hardly more than a read for many of them.
type Pipeline struct {
	t    *transport
	base *url.URL
	head string // of a request, from its protocol on
}

// NewPipeline returns a Pipeline to the server at base, and whether there can be
// one: not through a proxy, nor with a password, nor for a client that New has
// not made. header is sent with each request.
func NewPipeline(hc *http.Client, base *url.URL, header http.Header) (*Pipeline, bool) {
	t, ok := hc.Transport.(*transport)
	if !ok || t.next.Proxy == nil || base.User != nil || base.Scheme != "http" && base.Scheme != "https" {
		return nil, false // without a choice of proxies, all goes to a Unix socket
	}
	odd := func(r rune) bool { return r <= ' ' || r > '~' || r == '%' } // an IPv6 zone, which no server is told
	if base.Host == "" || strings.ContainsFunc(base.Host, odd) {
		return nil, false
	}
	req := &http.Request{Method: http.MethodGet, URL: base, Header: header.Clone()}
	if proxy, err := t.next.Proxy(req); err != nil || proxy != nil {
		return nil, false
	}
	head := " HTTP/1.1\r\nHost: " + base.Host + "\r\nUser-Agent: " + t.agent + "\r\n"
	for name, values := range header {
		for _, v := range values {
			head += name + ": " + v + "\r\n"
		}
	}
	return &Pipeline{t, base, head + "\r\n"}, true
}

// Run asks, on one connection, for the files that next names until there are no
// more, each by the escaped path below the server's base. got gets the answers
// in the order in which next was called, whatever their status is, and reads as
// much of the body as it wants. A file for which got was not called, or whose
// body ended with an error, is one that may be asked for again.
//
// The error says why that is so for some, io.ErrUnexpectedEOF if the server just
// ended the connection; it matches ErrIdle if next to nothing of an answer came
// for Options.Idle. Run closes the connection in the end.
func (p *Pipeline) Run(ctx context.Context, next func() (i int, path string, ok bool), got func(i int, resp *http.Response)) error {
	conn, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	err = p.run(conn, next, got)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (p *Pipeline) run(conn net.Conn, next func() (int, string, bool), got func(int, *http.Response)) error {
	in := &patient{conn: conn, idle: p.t.idle}
	buf := bufio.NewReaderSize(in, bufferSize)
	var out []byte
	var sent []int // without an answer
	for more := true; ; {
		for out = out[:0]; more && len(sent) < window && (len(out) > 0 || len(sent) <= window/2); {
			i, path, ok := next()
			if more = ok; !ok {
				break
			}
			if len(path) > maxTarget {
				return fmt.Errorf("path of %d bytes", len(path))
			}
			sent = append(sent, i)
			out = append(append(append(append(append(out, "GET "...), p.base.EscapedPath()...), '/'), path...), p.head...)
		}
		if len(out) > 0 {
			conn.SetWriteDeadline(time.Now().Add(p.t.idle))
			if _, err := conn.Write(out); err != nil {
				return in.meaning(err)
			}
		}
		if len(sent) == 0 {
			return nil
		}
		resp, err := in.answer(buf)
		if err != nil {
			return in.meaning(err)
		}
		got(sent[0], resp)
		sent = sent[1:]
		switch n, err := io.CopyN(io.Discard, resp.Body, maxRest); {
		case err == nil:
			return fmt.Errorf("more than %d bytes of an answer are left", n)
		case !errors.Is(err, io.EOF):
			return in.meaning(err)
		case resp.Close && (more || len(sent) > 0):
			return io.ErrUnexpectedEOF
		}
	}
}

// dial opens a connection as the client does.
func (p *Pipeline) dial(ctx context.Context) (net.Conn, error) {
	port := p.base.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[p.base.Scheme]
	}
	conn, err := p.t.next.DialContext(ctx, "tcp", net.JoinHostPort(p.base.Hostname(), port))
	if err != nil || p.base.Scheme == "http" {
		return conn, err
	}
	config := p.t.next.TLSClientConfig.Clone()
	config.ServerName = p.base.Hostname()
	secure := tls.Client(conn, config)
	ctx, cancel := context.WithTimeout(ctx, p.t.next.TLSHandshakeTimeout)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return secure, nil
}

// patient reads from a connection, and gives up when it has waited for idle and
// got less than least bytes of an answer.
type patient struct {
	conn net.Conn
	idle time.Duration
	left time.Duration // to wait for least bytes
	got  int           // of those
	room int64         // bytes that may come
	err  error         // what a read ended with, which parsers hide
}

// answer reads the head of an answer.
func (c *patient) answer(buf *bufio.Reader) (*http.Response, error) {
	c.left, c.got, c.room = c.idle, 0, maxHeader
	for range maxInfo {
		resp, err := http.ReadResponse(buf, nil)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode >= 200 {
			c.room = math.MaxInt64
			return resp, nil
		}
	}
	return nil, errors.New("there is no end of answers of status 1xx")
}

var errLongHead = fmt.Errorf("head of more than %d bytes", maxHeader)

func (c *patient) Read(b []byte) (int, error) {
	if c.room <= 0 {
		c.err = errLongHead
		return 0, c.err
	}
	start := time.Now()
	c.conn.SetReadDeadline(start.Add(c.left))
	n, err := c.conn.Read(b)
	c.left -= time.Since(start)
	c.room -= int64(n)
	if c.got += n; c.got >= least {
		c.left, c.got = c.idle, 0
	}
	c.err = err
	return n, err
}

// meaning returns what an error of reading or writing means.
func (c *patient) meaning(err error) error {
	if c.err != nil {
		err = c.err
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w for %v", ErrIdle, c.idle)
	case errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE):
		return io.ErrUnexpectedEOF
	}
	return err
}
