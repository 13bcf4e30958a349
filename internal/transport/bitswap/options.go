package bitswap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	dht "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// DHTMode is what a Host does in the DHT.
type DHTMode string

const (
	DHTOff    DHTMode = "off"    // takes no part
	DHTClient DHTMode = "client" // asks others
	DHTServer DHTMode = "server" // keeps records for others, too
	DHTAuto   DHTMode = "auto"   // a client that becomes a server once others can reach it
)

// Limiter bounds the bytes of blocks that others get; *rate.Limiter is one, with
// a burst of at least a block.
type Limiter interface {
	// WaitN returns when n bytes may be sent, or ctx's error.
	WaitN(ctx context.Context, n int) error
}

// Options are the optional parts of a Host. The zero value works: a Host that
// listens nowhere, and connects to nobody.
type Options struct {
	// Listen are multiaddrs to listen on, by TCP or QUIC, such as
	// /ip4/0.0.0.0/tcp/4001 and /ip4/0.0.0.0/udp/4001/quic-v1. Default: none;
	// others can then ask over the connections that the Host makes, and no others.
	Listen []string

	// Peers are asked for every content: multiaddrs that end in /p2p/ID.
	Peers []string

	// DHT is what the Host does in the DHT. Default DHTOff.
	DHT DHTMode

	// Bootstrap are peers by which the DHT is joined, written as Peers are.
	// Default: none but those that are remembered in State. Those of the public
	// network are PublicBootstrap.
	Bootstrap []string

	// State is a folder for the identity and for peers to join the DHT by. It is
	// made if it is not there. Default: none; the Host is another one each time.
	State string

	// Relays are relays (circuit v2) by which others reach a Host that they
	// cannot connect to, written as Peers are. To name one says that this is so.
	Relays []string

	// RelayService has the Host be a relay for others, who must be able to
	// connect to it. It carries at most 64 MiB and 10 min per connection.
	RelayService bool

	// NoHolePunch leaves out the attempt to connect directly where a connection
	// goes by a relay. It needs an address to listen on.
	NoHolePunch bool

	// PortMap asks the router, by UPnP and NAT-PMP, to let others in.
	PortMap bool

	// Idle is how long a peer that is asked for blocks may give nothing, how
	// long peers are waited for when there are none yet, and how long a
	// connection may take to come about. Default 8 s.
	Idle time.Duration

	// Limiter bounds what is sent. Default: nothing.
	Limiter Limiter

	// UserAgent is what peers are told. Default "ersatz".
	UserAgent string

	// Log is told what an operator may want to know. Default: nobody.
	Log *slog.Logger
}

// defaultIdle is less than what a fetch.Mix bears with.
const defaultIdle = 8 * time.Second

// ErrOptions means that Options say what cannot be.
var ErrOptions = errors.New("bitswap: wrong options")

// addresses are those that Options name.
type addresses struct {
	listen                   []multiaddr.Multiaddr
	peers, bootstrap, relays []peer.AddrInfo
}

// parse sets defaults and returns all addresses, or all that is wrong.
func (o *Options) parse() (a addresses, err error) {
	if o.Idle <= 0 {
		o.Idle = defaultIdle
	}
	if o.UserAgent == "" {
		o.UserAgent = "ersatz"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	switch o.DHT {
	case "":
		o.DHT = DHTOff
	case DHTOff, DHTClient, DHTServer, DHTAuto:
	default:
		errs = append(errs, fmt.Errorf("DHT mode %q is none of off, client, server, auto", o.DHT))
	}
	for _, s := range o.Listen {
		m, err := multiaddr.NewMultiaddr(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("address to listen on: %w", err))
			continue
		}
		a.listen = append(a.listen, m)
	}
	for _, l := range []struct {
		to   *[]peer.AddrInfo
		list []string
	}{{&a.peers, o.Peers}, {&a.bootstrap, o.Bootstrap}, {&a.relays, o.Relays}} {
		infos, err := parsePeers(l.list)
		*l.to = infos
		if err != nil {
			errs = append(errs, err)
		}
	}
	if o.RelayService && len(o.Relays) > 0 {
		errs = append(errs, errors.New("a relay for others is one that others can connect to, and needs no relays"))
	}
	return a, errors.Join(errs...)
}

// parsePeers returns one AddrInfo for each peer, with all of its addresses.
func parsePeers(list []string) ([]peer.AddrInfo, error) {
	var addrs []multiaddr.Multiaddr
	for _, s := range list {
		m, err := multiaddr.NewMultiaddr(s)
		if err == nil {
			_, err = peer.AddrInfoFromP2pAddr(m)
		}
		if err != nil {
			return nil, fmt.Errorf("address of a peer, %q: %w", s, err)
		}
		addrs = append(addrs, m)
	}
	return peer.AddrInfosFromP2pAddrs(addrs...)
}

// PublicBootstrap returns the addresses by which the public DHT of IPFS is
// joined.
func PublicBootstrap() []string {
	var list []string
	for _, m := range dht.DefaultBootstrapPeers {
		list = append(list, m.String())
	}
	return list
}
