package bitswap

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/dual"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"ersatz/eris"
	"ersatz/internal/block"
)

const (
	// Renew is how often what is offered is to be offered again: records of the
	// DHT live for 48 h, and those who keep them come and go.
	Renew = 22 * time.Hour

	// provideTimeout bounds how long one record may take to be put.
	provideTimeout = 2 * time.Minute

	// searchTimeout bounds one search for providers.
	searchTimeout = time.Minute

	// searches is how many searches run at once.
	searches = 16

	// rejoin is how often the DHT is joined again while nobody of it is known.
	rejoin = 30 * time.Second

	// joinDials is how many peers are tried at once, and joinWait how long what
	// needs the DHT waits for it after the start.
	joinDials = 8
	joinWait  = 10 * time.Second

	// saveEvery is how often peers are remembered.
	saveEvery = 10 * time.Minute
)

// ErrNotProvided means that nobody was told of a content: the Host takes no part
// in the DHT, or knows nobody there.
var ErrNotProvided = errors.New("bitswap: not announced in the DHT")

// newDHT joins the DHTs of the internet and of the local network, as Kubo does.
func newDHT(h host.Host, mode DHTMode, join []peer.AddrInfo) (*dual.DHT, error) {
	m := map[DHTMode]dht.ModeOpt{DHTClient: dht.ModeClient, DHTServer: dht.ModeServer, DHTAuto: dht.ModeAuto}[mode]
	return dual.New(h,
		dual.DHTOption(dht.Mode(m)),
		dual.WanDHTOption(dht.Datastore(newRecords()), dht.BootstrapPeers(join...)),
		dual.LanDHTOption(dht.Datastore(newRecords())),
	)
}

// joinDHT connects to peers of the DHT while none is known there.
func (h *Host) joinDHT(ctx context.Context) {
	tick := time.NewTicker(rejoin)
	defer tick.Stop()
	saved := time.Now()
	for {
		if time.Since(saved) >= saveEvery {
			saved = time.Now()
			if err := h.save(); err != nil {
				h.opts.Log.WarnContext(ctx, "peers are not remembered", slog.Any("error", err))
			}
		}
		var dials errgroup.Group
		dials.SetLimit(joinDials)
		for _, info := range h.joinBy {
			if h.dhtPeers() > 0 {
				break
			}
			dials.Go(func() error { return h.dial(ctx, info) })
		}
		if err := dials.Wait(); err != nil {
			// They are tried again if nobody is known then.
			h.opts.Log.DebugContext(ctx, "joining the DHT", slog.Any("error", err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// awaitDHT waits for the first peer of the DHT, for a while, if it is being joined.
func (h *Host) awaitDHT(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, joinWait)
	defer cancel()
	tick := time.NewTicker(joinWait / 100)
	defer tick.Stop()
	for len(h.joinBy) > 0 && h.dhtPeers() == 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// dhtPeers returns how many peers of the DHT are known.
func (h *Host) dhtPeers() int {
	if h.dht == nil {
		return 0
	}
	return h.dht.WAN.RoutingTable().Size() + h.dht.LAN.RoutingTable().Size()
}

// providers are those who say that they have a content, as they are found.
func (h *Host) providers(ctx context.Context, root eris.Ref) iter.Seq[peer.AddrInfo] {
	return func(yield func(peer.AddrInfo) bool) {
		ctx, cancel := context.WithTimeout(ctx, searchTimeout)
		defer cancel()
		select {
		case h.searches <- struct{}{}:
			defer func() { <-h.searches }()
		case <-ctx.Done():
			return
		}
		h.awaitDHT(ctx)
		for info := range h.dht.FindProvidersAsync(ctx, toCID(root), maxFound) {
			if info.ID != h.host.ID() && !yield(info) {
				return
			}
		}
	}
}

// Offer puts one record into the DHT: that this Host has the root of the content.
// Blocks are given as the Library has them, so open is not called. An error
// matches ErrNotProvided if nobody could be told; without the DHT there is
// nothing to tell. It implements block.Sink; see Renew.
func (h *Host) Offer(ctx context.Context, s block.Shared, _ func(context.Context) (block.Content, error)) error {
	if h.dht == nil {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, provideTimeout)
	defer cancel()
	h.awaitDHT(bounded)
	switch err := h.dht.Provide(bounded, toCID(s.ReadCap.Root), true); {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return fmt.Errorf("%w: %w", ErrNotProvided, err)
	}
}

// Withdraw does nothing: what is in the DHT expires, and what the Library does
// not have any more is not given.
func (h *Host) Withdraw(context.Context, block.Shared) error { return nil }
