package bitswap

import (
	"log/slog"
	"os"
	"time"

	golog "github.com/ipfs/go-log/v2"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/gologshim"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
)

const (
	// Connections beyond fewConns are closed once there are manyConns.
	fewConns, manyConns = 96, 160

	// maxConns is how many there may be at all, maxStrangers how many of these
	// others may make: some are left for those that the Host connects to. maxMemory and maxFiles are
	// what libp2p may take for them and their streams.
	maxConns     = 256
	maxStrangers = 192
	maxMemory    = 256 << 20
	maxFiles     = 512

	// peerStreams is how many streams a peer may open. Kubo opens one for each
	// message. allStreams is how many all may: strangers, and four others.
	peerStreams = 512
	allStreams  = maxStrangers*strangerStreams + 4*peerStreams

	// What a relay carries per connection, in bytes each way. libp2p's own
	// 128 KiB are four blocks.
	relayBytes = 64 << 20
	relayTime  = 10 * time.Minute
)

// limits are those of libp2p, with room for peers that open many streams.
func limits() rcmgr.ConcreteLimitConfig {
	l := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&l)
	l.SystemBaseLimit.StreamsInbound += allStreams
	l.SystemBaseLimit.Streams += 2 * allStreams
	l.PeerBaseLimit.StreamsInbound += 2 * peerStreams
	l.PeerBaseLimit.Streams += 2 * peerStreams
	l.SystemBaseLimit.ConnsInbound, l.SystemBaseLimit.ConnsOutbound, l.SystemBaseLimit.Conns = maxStrangers, maxConns, maxConns
	more := &l.SystemLimitIncrease // for the memory that there is
	more.ConnsInbound, more.ConnsOutbound, more.Conns = 0, 0, 0
	all := l.ProtocolBaseLimit
	all.StreamsInbound, all.Streams = allStreams, 2*allStreams
	l.AddProtocolLimit(bitswap12, all, rcmgr.BaseLimitIncrease{})
	each := l.ProtocolPeerBaseLimit
	each.StreamsInbound, each.Streams = peerStreams, 2*peerStreams
	l.AddProtocolPeerLimit(bitswap12, each, rcmgr.BaseLimitIncrease{})
	return l.Scale(maxMemory, maxFiles)
}

// newHost starts libp2p with TCP and QUIC, Noise and TLS, yamux, and bounds.
func newHost(key crypto.PrivKey, a addresses, g gater, o Options) (host.Host, error) {
	resources, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits()), rcmgr.WithMetricsDisabled())
	if err != nil {
		return nil, err
	}
	conns, err := connmgr.NewConnManager(fewConns, manyConns)
	if err != nil {
		return nil, err
	}
	opts := []libp2p.Option{
		libp2p.Identity(key),
		libp2p.UserAgent(o.UserAgent),
		libp2p.DisableMetrics(),
		libp2p.ResourceManager(resources),
		libp2p.ConnectionManager(conns),
		libp2p.ConnectionGater(g),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(libp2pquic.NewTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Security(libp2ptls.ID, libp2ptls.New),
		libp2p.EnableRelay(),
	}
	if len(a.listen) > 0 {
		opts = append(opts, libp2p.ListenAddrs(a.listen...))
		if !o.NoHolePunch {
			opts = append(opts, libp2p.EnableHolePunching())
		}
	} else {
		opts = append(opts, libp2p.NoListenAddrs, libp2p.EnableRelay()) // which it would leave out
	}
	if len(a.relays) > 0 {
		opts = append(opts, libp2p.EnableAutoRelayWithStaticRelays(a.relays), libp2p.ForceReachabilityPrivate())
	}
	if o.RelayService {
		r := relay.DefaultResources()
		r.Limit = &relay.RelayLimit{Duration: relayTime, Data: relayBytes}
		opts = append(opts, libp2p.EnableRelayService(relay.WithResources(r)), libp2p.ForceReachabilityPublic())
	}
	if o.PortMap {
		opts = append(opts, libp2p.NATPortMap())
	}
	return libp2p.New(opts...)
}

// quiet has the libraries, which write to standard error, say nothing, unless the
// environment asks them to. What they log by belongs to the whole process.
func quiet() {
	if os.Getenv("GOLOG_LOG_LEVEL") != "" {
		return
	}
	gologshim.SetDefaultHandler(slog.DiscardHandler)
	golog.SetAllLoggers(golog.LevelFatal)
	// It cannot fail with such a name. quic-go has no other way to be told.
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
}
