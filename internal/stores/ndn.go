package stores

import (
	"context"
	"time"

	"ersatz/internal/block"
	"ersatz/internal/fetch"
	"ersatz/internal/transport/ndn"
)

func ndnSchemes() []scheme {
	return []scheme{{
		name: schemeNDN, form: "ndn:[?face=unix:///SOCKET&prefix=/NAME]",
		params: map[string]paramRule{"face": {}, "prefix": {}},
		check:  noPath,
		whole:  true, one: true,
		uses: useFrom | useTo | useServe,
		open: openNDN,
	}}
}

func openNDN(_ context.Context, s *Set, u URL, uses use) error {
	c, err := ndn.New(ndn.Options{Face: u.param("face"), Prefix: u.param("prefix")})
	if err != nil {
		return invalid("%v", err)
	}
	s.onClose(c.Close)
	if uses.has(useFrom) {
		// One call has its own segments in flight.
		s.source(u, block.Everything(c), fetch.Network{Start: 100 * time.Millisecond, Batch: 128, Parallel: 1})
	}
	if uses.has(useTo | useServe) {
		s.listeners = append(s.listeners, Listener{Name: u.name(), URL: u})
		s.onRun(u, func(ctx context.Context) error {
			return c.Serve(ctx, s.o.Library, ndn.ServerOptions{Limit: s.o.Limiter, Log: s.o.Log})
		})
	}
	return nil
}
