package stores

import (
	"context"
	"net/url"
	"strings"
	"time"

	"ersatz/internal/block"
	"ersatz/internal/fetch"
	"ersatz/internal/share"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/ipfs"
)

func kuboSchemes() []scheme {
	s := scheme{
		name: schemeKubo, form: "ipfs+http://HOST:PORT",
		host: true, whole: true, public: true,
		uses: useFrom | useTo | useServe,
		open: openKubo,
	}
	tls := s
	tls.name, tls.form = schemeKuboTLS, "ipfs+https://HOST:PORT"
	return []scheme{s, tls}
}

func gatewaySchemes() []scheme {
	s := scheme{
		name: schemeGateway, form: "gateway+http://HOST[:PORT][/PATH][?manifest=CID]",
		host: true, params: map[string]paramRule{"manifest": {}},
		uses: useFrom,
		open: openGateway,
	}
	tls := s
	tls.name, tls.form = schemeGatewayTLS, "gateway+https"+strings.TrimPrefix(s.form, "gateway+http")
	return []scheme{s, tls}
}

// openGateway opens a trustless gateway of IPFS.
func openGateway(_ context.Context, s *Set, u URL, _ use) error {
	base := strings.TrimPrefix(u.base(), "gateway+")
	if m := u.param("manifest"); m != "" {
		base += "?manifest=" + url.QueryEscape(m)
	}
	hc := httpclient.New(httpclient.Options{UserAgent: s.o.UserAgent})
	s.onClose(func() error {
		hc.CloseIdleConnections()
		return nil
	})
	g, err := ipfs.NewGateway(base, hc)
	if err != nil {
		return invalid("%v", err)
	}
	s.source(u, g, fetch.Network{Start: time.Second})
	return nil
}

func openKubo(_ context.Context, s *Set, u URL, uses use) error {
	c, err := ipfs.New(strings.TrimPrefix(u.base(), "ipfs+"), nil)
	if err != nil {
		return invalid("%v", err)
	}
	s.onClose(c.Close)
	if uses.has(useFrom) {
		s.source(u, block.Everything(c), fetch.Network{Start: time.Second})
	}
	if uses.has(useTo | useServe) {
		s.sink(u, share.Sink{Net: share.Kubo(c), Keeps: true})
	}
	return nil
}
