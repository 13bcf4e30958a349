package stores

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/fetch"
	"ersatz/internal/transport/ipfs"
)

func kuboSchemes() []scheme {
	s := scheme{
		name: schemeKubo, form: "ipfs+http://HOST:PORT",
		host: true, user: true, whole: true, public: true,
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
		s.sink(u, Sink{Sink: &kubo{c: c, pins: map[eris.Ref]string{}}, Lasting: true})
	}
	return nil
}

// kubo is a block.Sink that puts contents into a daemon, each under one pin.
type kubo struct {
	c *ipfs.Client

	mu   sync.Mutex
	pins map[eris.Ref]string // manifests by root
}

// Offer implements block.Sink.
func (k *kubo) Offer(ctx context.Context, s block.Shared, open func(context.Context) (block.Content, error)) (err error) {
	content, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	each := func(visit func(eris.Ref, []byte) error) error {
		for place := range content.Len() {
			ref, data, err := content.Block(ctx, place)
			if err == nil {
				err = visit(ref, data)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	var refs []eris.Ref
	err = each(func(ref eris.Ref, _ []byte) error {
		refs = append(refs, ref)
		return nil
	})
	if err != nil {
		return err
	}
	manifest, err := k.c.Put(ctx, s.ReadCap.Root, slices.Values(refs), each)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pins[s.ReadCap.Root] = manifest
	return nil
}

// Withdraw implements block.Sink. The daemon's own garbage collector removes
// blocks that nothing pins.
func (k *kubo) Withdraw(ctx context.Context, s block.Shared) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	manifest, ok := k.pins[s.ReadCap.Root]
	if !ok {
		return nil
	}
	delete(k.pins, s.ReadCap.Root)
	return k.c.Remove(ctx, manifest, slices.Values([]eris.Ref{}))
}
