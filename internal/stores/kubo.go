package stores

import (
	"context"
	"strings"
	"time"

	"ersatz/internal/block"
	"ersatz/internal/fetch"
	"ersatz/internal/share"
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

func openKubo(_ context.Context, s *Set, u URL, uses use) error {
	c, err := ipfs.New(strings.TrimPrefix(u.base(), "ipfs+"), nil)
	if err != nil {
		return err
	}
	if uses.has(useFrom) {
		s.source(u, block.Everything(c), fetch.Network{Start: time.Second})
	}
	if uses.has(useTo | useServe) {
		s.sink(u, share.Sink{Net: share.Kubo(c), Keeps: true})
	}
	return nil
}
