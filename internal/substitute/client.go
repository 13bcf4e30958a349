package substitute

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

// newClient returns a client that keeps its connections, checks no
// certificates, since signatures protect what matters (as in Guix 1.5.0,
// guix/substitutes.scm), and gives up on a server that sends nothing for stall.
func newClient(stall time.Duration) *http.Client {
	dialer := &net.Dialer{Timeout: stall / 2, KeepAlive: 30 * time.Second}
	return &http.Client{Transport: &idleTransport{stall, &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       &tls.Config{InsecureSkipVerify: true},
		TLSHandshakeTimeout:   stall,
		ResponseHeaderTimeout: stall,
		MaxIdleConnsPerHost:   2 * parallel,
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true,
	}}}
}

// errStalled means that a server sends nothing.
var errStalled = errors.New("stalled")

// idleTransport ends answers whose body stands still.
type idleTransport struct {
	stall time.Duration
	next  *http.Transport
}

func (t *idleTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	timer := time.AfterFunc(t.stall, func() {
		cancel(fmt.Errorf("%w: nothing came for %v", errStalled, t.stall))
	})
	resp.Body = &idleBody{resp.Body, t.stall, timer, ctx, cancel}
	return resp, nil
}

// CloseIdleConnections is what http.Client looks for.
func (t *idleTransport) CloseIdleConnections() { t.next.CloseIdleConnections() }

type idleBody struct {
	io.ReadCloser
	stall  time.Duration
	timer  *time.Timer
	ctx    context.Context // of this answer alone
	cancel context.CancelCauseFunc
}

func (b *idleBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.stall)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if cause := context.Cause(b.ctx); err != nil && errors.Is(cause, errStalled) {
		err = cause
	}
	return n, err
}

func (b *idleBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
