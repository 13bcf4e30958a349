// Package bitswap is IPFS inside of this process: a libp2p host that gives ERIS
// blocks by Bitswap 1.2.0 and asks others for them, and finds by the DHT who has
// a content. Kubo is such a peer.
//
// A block is the IPFS block of codec raw whose multihash is its reference. Only
// the root of a content is announced and looked for; who has it is asked for all
// blocks. docs/ipfs.md says the rest ("Embedded").
//
// Giving is boxo's Bitswap server over a block.Library. Asking is ours, over
// boxo's messages and streams: boxo's own client asks all who are connected, does
// not say what a peer lacks, or that it lied, and sends only every 20 ms.
package bitswap

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/ipfs/boxo/bitswap/message"
	"github.com/ipfs/boxo/bitswap/server"
	"github.com/libp2p/go-libp2p-kad-dht/dual"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"

	"ersatz/eris"
	"ersatz/internal/block"
)

// punchWait is how long a peer that is reached by a relay has for a direct
// connection before it is asked by way of the relay.
const punchWait = 5 * time.Second

// Host is a peer of IPFS. It is safe for concurrent use.
type Host struct {
	opts   Options
	named  []peer.AddrInfo // that are asked for every content
	joinBy []peer.AddrInfo // by whom the DHT is joined

	host     host.Host
	dht      *dual.DHT // nil: off
	wire     *wire
	server   *server.Server
	searches chan struct{}                                                    // a slot for each that runs
	find     func(ctx context.Context, root eris.Ref) iter.Seq[peer.AddrInfo] // providers

	// begin runs a function whose context ends with the Host, which waits for
	// it; false if the Host has ended.
	begin func(func(context.Context)) bool
	stop  func() // ends these, and waits
	once  sync.Once
	err   error // of Close

	mu    sync.Mutex
	links map[peer.ID]*link
}

var (
	_ block.Network = (*Host)(nil)
	_ block.Sink    = (*Host)(nil)
)

// New starts a Host that gives what lib has; nil: nothing. What lib's Get returns
// must be verified. ctx is for the start alone. An error matches ErrOptions if o is
// at fault.
func New(ctx context.Context, lib block.Getter, o Options) (*Host, error) {
	a, err := o.parse()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	key, known, err := openState(o.State)
	if err != nil {
		return nil, fmt.Errorf("bitswap: %w", err)
	}
	quiet()
	h := &Host{
		opts: o, named: a.peers, joinBy: append(a.bootstrap, known...),
		searches: make(chan struct{}, searches), links: map[peer.ID]*link{},
	}
	h.find = h.providers
	h.begin, h.stop = workers()
	if h.host, err = newHost(key, a, newGater(a, known), o); err != nil {
		return nil, fmt.Errorf("bitswap: %w", err)
	}
	if o.DHT != DHTOff {
		if h.dht, err = newDHT(h.host, o.DHT, h.joinBy); err != nil {
			return nil, errors.Join(fmt.Errorf("bitswap: %w", err), h.host.Close())
		}
	}
	h.wire = newWire(h.host, o.Limiter)
	if lib == nil {
		lib = nothing{} // who asks is told that it is not here
	}
	h.server = newServer(context.WithoutCancel(ctx), h.wire, lib)
	h.host.Network().Notify(&network.NotifyBundle{ConnectedF: h.connected, DisconnectedF: h.disconnected})
	h.wire.receive(h.asks, h.receive)
	if h.dht != nil {
		h.begin(h.joinDHT)
	}
	return h, nil
}

// workers returns how to run functions, and how to end and wait for them.
func workers() (begin func(func(context.Context)) bool, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	var mu sync.Mutex
	begin = func(f func(context.Context)) bool {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() != nil {
			return false
		}
		work.Go(func() { f(ctx) })
		return true
	}
	return begin, func() {
		mu.Lock()
		cancel()
		mu.Unlock()
		work.Wait()
	}
}

// Close ends the Host, and its sessions. It may be called again.
func (h *Host) Close() error {
	h.once.Do(func() {
		saved := h.save()
		h.stop()
		h.server.Close()
		var left error
		if h.dht != nil {
			left = h.dht.Close()
		}
		h.err = errors.Join(saved, left, h.host.Close())
	})
	return h.err
}

// ID returns the peer ID, which others know the Host by.
func (h *Host) ID() string { return h.host.ID().String() }

// Addrs returns the multiaddrs that others are told to connect to, with /p2p/ID.
func (h *Host) Addrs() []string {
	var list []string
	for _, a := range h.host.Addrs() {
		list = append(list, a.String()+"/p2p/"+h.ID())
	}
	return list
}

// Status is what a Host does.
type Status struct {
	Peers      int   // that are connected
	DHTPeers   int   // that are known in the DHT
	BlocksSent int64 // since the start
	BytesSent  int64 // of these blocks
}

// Status returns what the Host does.
func (h *Host) Status() Status {
	s := Status{Peers: len(h.host.Network().Peers()), DHTPeers: h.dhtPeers()}
	if stat, err := h.server.Stat(); err == nil {
		s.BlocksSent, s.BytesSent = int64(stat.BlocksSent), int64(stat.DataSent)
	}
	return s
}

// dial connects to a peer, if it can, directly.
func (h *Host) dial(ctx context.Context, info peer.AddrInfo) error {
	ctx, cancel := context.WithTimeout(viaRelay(ctx), h.opts.Idle)
	defer cancel()
	if s, ok := h.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(info.ID) // it may be there again
	}
	if err := h.host.Connect(ctx, info); err != nil {
		return fmt.Errorf("peer %s: %w", info.ID, err)
	}
	if len(h.opts.Listen) > 0 && !h.opts.NoHolePunch {
		h.awaitDirect(ctx, info.ID)
	}
	return nil
}

// awaitDirect waits a while for a direct connection to a peer that is connected
// by a relay: both sides try to make one.
func (h *Host) awaitDirect(ctx context.Context, id peer.ID) {
	n := h.host.Network()
	direct := make(chan struct{}, 1)
	note := &network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) {
		if c.RemotePeer() == id && !c.Stat().Limited {
			select {
			case direct <- struct{}{}:
			default:
			}
		}
	}}
	n.Notify(note)
	defer n.StopNotify(note)
	if n.Connectedness(id) != network.Limited {
		return
	}
	timer := time.NewTimer(punchWait)
	defer timer.Stop()
	select {
	case <-direct:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// connect returns a link to a peer, which is to be released.
func (h *Host) connect(ctx context.Context, info peer.AddrInfo) (*link, error) {
	if err := h.dial(ctx, info); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.links[info.ID]
	if l == nil {
		l = newLink(info.ID, h)
		h.links[info.ID] = l
	}
	if l.users++; l.users == 1 {
		h.host.ConnManager().Protect(info.ID, protectTag)
	}
	return l, nil
}

// protectTag keeps the connections to peers that are asked for blocks.
const protectTag = "ersatz"

// release gives a link back.
func (h *Host) release(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l.users--; l.users == 0 {
		h.host.ConnManager().Unprotect(l.id, protectTag)
		h.prune(l)
	}
}

// prune forgets a link that nobody uses, unless its peer is connected and may
// still send what it was asked for. The caller has h.mu.
func (h *Host) prune(l *link) {
	if l.users == 0 && h.host.Network().Connectedness(l.id) == network.NotConnected {
		delete(h.links, l.id)
	}
}

// connected is told that there is a connection.
func (h *Host) connected(_ network.Network, c network.Conn) {
	h.server.PeerConnected(c.RemotePeer())
}

// disconnected is told that a connection has ended.
func (h *Host) disconnected(n network.Network, c network.Conn) {
	id := c.RemotePeer()
	left := n.Connectedness(id) != network.NotConnected
	if !left {
		h.wire.forget(id)
		h.server.PeerDisconnected(id)
	}
	h.mu.Lock()
	l := h.links[id]
	if l != nil {
		h.prune(l)
	}
	h.mu.Unlock()
	if l != nil {
		l.broken(left)
	}
}

// asks reports whether a peer is asked for blocks.
func (h *Host) asks(id peer.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.links[id] != nil
}

// receive gives answers to those who wait for them, and wants to the server.
func (h *Host) receive(from peer.ID, m message.BitSwapMessage) {
	h.mu.Lock()
	l := h.links[from]
	h.mu.Unlock()
	if blocks, lacks := m.Blocks(), m.DontHaves(); l != nil && len(blocks)+len(lacks) > 0 {
		l.receive(blocks, lacks)
	}
	if len(m.Wantlist()) > 0 {
		h.server.ReceiveMessage(context.Background(), from, m)
	}
}
