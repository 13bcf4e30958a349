// Package httpclient makes the HTTP client that substitute servers are asked
// with, for narinfos, nars and blocks alike: it keeps connections, gives up on
// a server that sends nothing, and trusts no server with more than an answer.
package httpclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

const (
	maxRedirects = 5
	maxHeader    = 64 << 10 // bytes of an answer's header
	bufferSize   = 64 << 10 // bytes read from a connection at once

	// dialTime bounds how long a connection may take to be made, as in Guix
	// (guix/scripts/substitute.scm, %fetch-timeout): the third packet that asks
	// for one, in case that two were lost, goes out after 3 seconds.
	dialTime = 5 * time.Second

	// least is how many bytes of a body count as something: a byte now and
	// then would hold a transfer up for ever.
	least = 1 << 10
)

// ErrIdle means that a server sent next to nothing for too long.
var ErrIdle = errors.New("nothing came from the server")

// Options are the settings of a client. The zero value works.
type Options struct {
	// Idle is how long a server may send less than 1 KiB of a body, or no
	// header, while it is waited for; a connection may take that long, but no
	// more than 5 s. There is no limit on the whole of an answer. Default 10 s.
	Idle time.Duration

	// PerHost is how many connections to one server are kept. Default 64.
	PerHost int

	// Socket is the file of a Unix socket that every request goes to, whatever
	// host its URL names, and without a proxy. Default: none.
	Socket string

	// UserAgent is sent with each request that names none, such as
	// "ersatz/0.1". Default "ersatz".
	UserAgent string
}

// New returns a client. Proxies are those of the environment, such as
// http_proxy. Certificates are not checked, as in Guix (guix/substitutes.scm,
// #:verify-certificate? #f): a signature protects what a server sends, and a
// machine without a CA bundle must work. HTTP/2 is not used: one connection
// would be shared by all blocks, and it is slower in Go.
//
// At most 5 redirects of GET and HEAD are followed. Others are answers as they
// are: a server must not make this machine POST to another place, such as the
// RPC of a daemon on loopback.
func New(o Options) *http.Client {
	if o.Idle <= 0 {
		o.Idle = 10 * time.Second
	}
	if o.PerHost <= 0 {
		o.PerHost = 64
	}
	if o.UserAgent == "" {
		o.UserAgent = "ersatz"
	}
	dialer := &net.Dialer{Timeout: min(o.Idle, dialTime), KeepAlive: 30 * time.Second}
	proxy, dial := http.ProxyFromEnvironment, dialer.DialContext
	if o.Socket != "" {
		proxy = nil
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", o.Socket)
		}
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Client{
		CheckRedirect: checkRedirect,
		Transport: &transport{o.Idle, o.UserAgent, &http.Transport{
			Proxy:                  proxy,
			DialContext:            dial,
			TLSClientConfig:        &tls.Config{InsecureSkipVerify: true},
			TLSHandshakeTimeout:    o.Idle,
			ResponseHeaderTimeout:  o.Idle,
			MaxResponseHeaderBytes: maxHeader,
			MaxIdleConns:           4 * o.PerHost,
			MaxIdleConnsPerHost:    o.PerHost,
			IdleConnTimeout:        90 * time.Second,
			DisableCompression:     true, // what is signed is what is sent
			ReadBufferSize:         bufferSize,
			Protocols:              &protocols,
		}},
	}
}

func checkRedirect(_ *http.Request, via []*http.Request) error {
	if m := via[0].Method; m != http.MethodGet && m != http.MethodHead {
		return http.ErrUseLastResponse
	}
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	return nil
}

// Stay returns a client like hc, with its connections, that follows no redirect:
// what leads elsewhere is an answer as it is.
func Stay(hc *http.Client) *http.Client {
	stays := *hc
	stays.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &stays
}

// transport ends answers whose body stands still.
type transport struct {
	idle  time.Duration
	agent string
	next  *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	req = req.WithContext(ctx)
	if req.Header.Get("User-Agent") == "" {
		req.Header = req.Header.Clone()
		req.Header.Set("User-Agent", t.agent)
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	resp.Body = newBody(ctx, cancel, resp, t.idle)
	return resp, nil
}

// CloseIdleConnections is what http.Client.CloseIdleConnections looks for.
func (t *transport) CloseIdleConnections() { t.next.CloseIdleConnections() }

// body is an answer's body whose reads end when they have waited for idle and
// got less than least bytes.
type body struct {
	io.ReadCloser
	idle   time.Duration
	left   time.Duration // to wait for least bytes
	got    int           // of those
	timer  *time.Timer
	cancel context.CancelCauseFunc
	cause  func() error
}

func newBody(ctx context.Context, cancel context.CancelCauseFunc, resp *http.Response, idle time.Duration) *body {
	b := &body{ReadCloser: resp.Body, idle: idle, left: idle, cancel: cancel, cause: func() error { return context.Cause(ctx) }}
	b.timer = time.AfterFunc(idle, func() { cancel(fmt.Errorf("%w for %v", ErrIdle, idle)) })
	b.timer.Stop() // runs during Read alone: the reader may take its time
	return b
}

func (b *body) Read(p []byte) (int, error) {
	start := time.Now()
	b.timer.Reset(b.left)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	b.left -= time.Since(start)
	if b.got += n; b.got >= least {
		b.left, b.got = b.idle, 0
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := b.cause(); errors.Is(cause, ErrIdle) {
			err = cause
		}
	}
	return n, err
}

func (b *body) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
