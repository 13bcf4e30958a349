// Package bittorrent fetches the blocks of contents by BitTorrent (BEP 3), and
// gives contents to others. The torrent of a content is that of package
// internal/torrent: its blocks in the order of the tree, as one file. What is
// ours is in docs/bittorrent.md.
//
// The protocol is github.com/anacrolix/torrent. Of it are used: the messages
// between peers by TCP, the exchange of peers, trackers and the DHT. Sockets,
// storage, metadata, web seeds and the order of the pieces are this package's. The
// library's goroutines end soon after Close, not before it returns.
package bittorrent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anacrolix/dht/v2"
	bt "github.com/anacrolix/torrent"
	pp "github.com/anacrolix/torrent/peer_protocol"
	"golang.org/x/time/rate"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/transport/httpclient"
)

// Limiter bounds the bytes that are sent to peers; *rate.Limiter is one, with a
// burst of at least 16 KiB.
type Limiter interface {
	// WaitN returns when n bytes may be sent, or ctx's error.
	WaitN(ctx context.Context, n int) error
}

// Options may change what a Client does. The zero value works: it reaches peers
// that magnet links name, and those that their trackers tell, and nobody can
// connect to it.
type Options struct {
	// Listen is the HOST:PORT where peers connect, by TCP, and where the DHT is
	// spoken, by UDP. Default: nobody can connect; the DHT has a port by chance.
	Listen string

	// Trackers are asked about each torrent, beside those of its magnet link.
	Trackers []string

	// Peers, as HOST:PORT, are asked about each torrent that is fetched, beside
	// those of its magnet link.
	Peers []string

	// DHT is whether peers are looked for in the DHT, and told there of what is
	// here (BEP 5; IPv4). Bootstrap are HOST:PORT of nodes by which it is
	// joined. Default: those that all programs use.
	DHT       bool
	Bootstrap []string

	// LSD is whether peers are looked for in the networks that this machine is in,
	// and those told of what is here, if they can connect (BEP 14).
	LSD bool

	// Dir is the folder for the pieces of what is being fetched. The files have
	// no name, so that they are gone with the process. Default: os.TempDir().
	Dir string

	// MaxSeeds is how many contents are given to others at most. Default 1,000:
	// about what can be announced to the DHT before it forgets.
	MaxSeeds int

	// Idle is how long nothing may come before all that is asked for counts as
	// missing. Default 8 s.
	Idle time.Duration

	// HTTP asks for metadata and web seeds. Default: one of httpclient.
	HTTP *http.Client

	// UserAgent tells peers and trackers who this is. Default "ersatz".
	UserAgent string

	// Limit bounds what is sent to peers. Default: nothing does.
	Limit Limiter

	// Log gets what the library says, as debug messages. Default: nothing does.
	Log *slog.Logger
}

// Errors of a Client.
var (
	// ErrFull says that Options.MaxSeeds contents are offered.
	ErrFull = fmt.Errorf("bittorrent: %w", block.ErrFull)

	// ErrOther says that a magnet link is of a torrent that has other blocks than
	// the content. It matches eris.ErrCorrupt: only this content is to blame.
	ErrOther = fmt.Errorf("bittorrent: the torrent is not of this content: %w", eris.ErrCorrupt)
)

// Bounds of what a Client holds for others.
const (
	maxConns   = 512 // that others have opened
	maxPerAddr = 64  // of those, of one address: a connection is about one torrent
	perTorrent = 20  // connections of one torrent, in both directions
	maxDials   = 100 // connections that are tried in a second
)

// Client is a peer of BitTorrent. It is a block.Network and a block.Sink.
type Client struct {
	o      Options
	log    *slog.Logger
	ctx    context.Context // ends with the Client
	cancel context.CancelFunc
	bt     *bt.Client
	listen *listener  // nil if nobody can connect
	dht    *announcer // nil without a DHT
	locals *locals    // nil without local discovery
	pieces *pieceCache

	trackers chan struct{} // has a token for each that is asked

	spawning sync.Mutex // held while work is added to, or ended
	work     sync.WaitGroup

	// For the library's callbacks, which must not wait for mu.
	links  sync.Map // *bt.PeerConn to *link
	asking sync.Map // hash to *download
	known  sync.Map // hash to *metadata

	crowd      crowd
	handshakes atomic.Int64

	offering sync.Mutex // held by who adds, removes and ends seeds

	mu        sync.Mutex
	downloads map[hash]*download
	seeds     map[hash]*seed
	closed    bool
}

// hash is the info hash of a torrent.
type hash = [20]byte

var (
	_ block.Network = (*Client)(nil)
	_ block.Sink    = (*Client)(nil)
)

// New opens the sockets. It asks nobody yet.
func New(o Options) (*Client, error) {
	if o.MaxSeeds < 0 || o.Idle < 0 {
		return nil, errors.New("bittorrent: MaxSeeds or Idle is below 0")
	}
	if o.MaxSeeds == 0 {
		o.MaxSeeds = 1000
	}
	if o.Idle == 0 {
		o.Idle = 8 * time.Second
	}
	if o.UserAgent == "" {
		o.UserAgent = "ersatz"
	}
	if o.HTTP == nil {
		o.HTTP = httpclient.New(httpclient.Options{Idle: o.Idle, UserAgent: o.UserAgent})
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, addr := range slices.Concat(o.Peers, o.Bootstrap) {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("bittorrent: peer %q: %w", addr, err)
		}
	}
	c := &Client{o: o, log: o.Log, downloads: map[hash]*download{}, seeds: map[hash]*seed{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.pieces, c.trackers = newPieceCache(), make(chan struct{}, trackersAtOnce)
	if err := c.start(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) start() error {
	var err error
	if c.listen, err = listenTCP(c.ctx, c.o.Listen); err != nil {
		return fmt.Errorf("bittorrent: %w", err)
	}
	if c.bt, err = bt.NewClient(c.config()); err != nil {
		return fmt.Errorf("bittorrent: %w", err)
	}
	c.bt.AddDialer(&dialer{net.Dialer{KeepAlive: -1}}) // peers have messages for that
	if c.listen != nil {
		c.bt.AddListener(c.listen)
	}
	if c.o.DHT {
		if c.dht, err = newAnnouncer(c); err != nil {
			return fmt.Errorf("bittorrent: DHT: %w", err)
		}
		c.work.Go(c.dht.run)
	}
	if c.o.LSD {
		c.locals = newLocals(c, system{})
		c.work.Go(func() { c.locals.run(c.ctx) })
	}
	return nil
}

// config turns off what the library does unasked: it would open sockets of its
// own, ask routers for ports, join the DHT by way of public hosts, keep files and
// databases in the working folder, and speak WebRTC.
func (c *Client) config() *bt.ClientConfig {
	cfg := bt.NewDefaultClientConfig()
	cfg.DisableTCP, cfg.DisableUTP, cfg.NoDHT = true, true, true // sockets: see start
	cfg.PeriodicallyAnnounceTorrentsToDht = false
	cfg.DhtStartingNodes = func(string) dht.StartingNodesGetter {
		return func() ([]dht.Addr, error) { return c.bootstrap(), nil }
	}
	cfg.ConfigureAnacrolixDhtServer = func(s *dht.ServerConfig) {
		s.PeerStore, s.SendLimiter = &peerStore{}, rate.NewLimiter(maxPackets, maxPackets)
	}
	cfg.NoDefaultPortForwarding = true
	cfg.DisableWebtorrent, cfg.DisableWebseeds = true, true
	cfg.DefaultStorage = noStorage{}
	cfg.Extensions = bt.PeerExtensionBits(pp.NewPeerExtensionBytes(pp.ExtensionBitLtep, pp.ExtensionBitFast))
	if c.o.DHT {
		cfg.Extensions = bt.PeerExtensionBits(pp.NewPeerExtensionBytes(pp.ExtensionBitDht, pp.ExtensionBitLtep, pp.ExtensionBitFast))
	}
	cfg.Callbacks = c.callbacks()
	cfg.Seed = true
	cfg.EstablishedConnsPerTorrent = perTorrent
	cfg.HalfOpenConnsPerTorrent = perTorrent / 2
	// For all torrents. Many are in vain: peers tell of addresses from which
	// others had connected who cannot be reached.
	cfg.DialRateLimiter = rate.NewLimiter(maxDials, maxDials)
	cfg.ExtendedHandshakeClientVersion = c.o.UserAgent
	cfg.MaxAllocPeerRequestDataPerConn = 2 * maxRequest
	cfg.Bep20 = "-ER0001-"
	cfg.Slogger = slog.New(quiet{c.log.Handler()})
	return cfg
}

// spawn runs f unless the Client ends, which waits for it.
func (c *Client) spawn(f func()) bool {
	c.spawning.Lock()
	defer c.spawning.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.work.Go(f)
	return true
}

// Addr returns the address where peers connect, nil if they cannot.
func (c *Client) Addr() net.Addr {
	if c.listen == nil {
		return nil
	}
	return c.listen.Addr()
}

// Close ends all sessions and takes back what was offered.
func (c *Client) Close() error {
	c.offering.Lock()
	defer c.offering.Unlock()
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	downloads := c.downloads
	c.downloads, c.seeds = nil, nil
	c.mu.Unlock()
	c.spawning.Lock()
	c.cancel()
	c.spawning.Unlock()
	for _, d := range downloads {
		d.end()
	}
	if c.bt != nil {
		c.bt.Close()
	}
	if c.listen != nil {
		c.listen.Close() // after bt.Close: the library would ask a closed listener again and again
	}
	if c.dht != nil {
		c.dht.server.Close()
	}
	c.work.Wait()
	return c.pieces.close()
}
