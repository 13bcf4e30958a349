package stores

import (
	"context"
	"net"
	"strings"

	"ersatz/internal/block"
	"ersatz/internal/fetch"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/web"
)

func httpSchemes() []scheme {
	s := scheme{
		name: schemeHTTP, form: "http://HOST[:PORT][/PATH][?get&put]",
		host: true, user: true, asks: true,
		uses: useFrom | useTo | useServe,
		open: openHTTP,
	}
	tls := s
	tls.name, tls.form = schemeHTTPS, "https"+strings.TrimPrefix(s.form, "http")
	tls.uses = useFrom | useTo
	return []scheme{s, tls}
}

func openHTTP(ctx context.Context, s *Set, u URL, uses use) error {
	if uses.has(useFrom | useTo) {
		hc := httpclient.New(httpclient.Options{UserAgent: s.o.UserAgent})
		s.onClose(func() error {
			hc.CloseIdleConnections()
			return nil
		})
		c, err := n2r.New(u.base(), hc)
		if err != nil {
			return err
		}
		if uses.has(useFrom) {
			s.source(u, block.Everything(c), fetch.Network{})
		}
		if uses.has(useTo) {
			s.putter(u, c)
		}
	}
	if uses.has(useServe) {
		return s.serveHTTP(ctx, u)
	}
	return nil
}

// base returns the URL without its query.
func (u URL) base() string {
	u.params, u.said = nil, false
	return u.Full()
}

func (s *Set) serveHTTP(ctx context.Context, u URL) error {
	if u.user != "" || strings.Trim(u.path, "/") != "" {
		return invalid("blocks are served at http://HOST:PORT, without user and path")
	}
	l, err := s.listen(ctx, u, "80")
	if err != nil {
		return err
	}
	var blocks n2r.Blocks = served{s.o.Library, s.o.Limiter}
	if all, ok := s.o.Library.(n2r.Blocks); ok && s.o.Limiter == nil {
		blocks = all
	}
	handler := n2r.Handler(blocks)
	s.onRun(u, func(ctx context.Context) error { return web.Serve(ctx, []net.Listener{l}, handler, s.o.Log) })
	return nil
}
