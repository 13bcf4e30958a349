package bittorrent

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/anacrolix/dht/v2"
	bt "github.com/anacrolix/torrent"
)

const (
	// lookups is how many torrents are looked up in the DHT at once.
	lookups = 8

	// lookupTime bounds a look-up.
	lookupTime = 30 * time.Second

	// maxPackets is how many the DHT is sent in a second: a look-up takes some 60.
	maxPackets = 100

	// Pauses between the look-ups of a torrent: of one that is being fetched, at
	// first and after some, and of one that is seeded. Nodes of the DHT forget
	// what they were told after about half an hour.
	firstPause = 2 * time.Second
	fetchPause = time.Minute
	seedPause  = 15 * time.Minute
)

// announcer asks the DHT for peers of all torrents, and tells it of those that
// can be had here if peers can connect. The library would look up each torrent
// every 5 minutes, all of them at once.
type announcer struct {
	c      *Client
	server *dht.Server
	port   int // that is told; 0 for none
	wake   chan struct{}

	mu  sync.Mutex
	due map[hash]*lookup
}

type lookup struct {
	hash    hash
	t       *bt.Torrent
	pause   time.Duration // until the next one; it doubles
	most    time.Duration
	next    time.Time
	running bool
}

// newAnnouncer opens the UDP port of the same number as that of TCP.
func newAnnouncer(c *Client) (*announcer, error) {
	a := &announcer{c: c, wake: make(chan struct{}, 1), due: map[hash]*lookup{}}
	host, port := "", "0"
	if c.listen != nil {
		addr := c.listen.Addr().(*net.TCPAddr)
		a.port = addr.Port
		var err error
		if host, port, err = net.SplitHostPort(addr.String()); err != nil {
			return nil, err
		}
		if addr.IP.IsUnspecified() {
			host = "" // of IPv4
		}
	}
	conn, err := new(net.ListenConfig).ListenPacket(c.ctx, "udp4", net.JoinHostPort(host, port))
	if err != nil {
		return nil, err
	}
	if a.server, err = c.bt.NewAnacrolixDhtServer(dhtConn{conn}); err != nil {
		conn.Close()
		return nil, err
	}
	c.bt.AddDhtServer(bt.AnacrolixDhtServerWrapper{Server: a.server})
	return a, nil
}

// bootstrap resolves the names of the nodes that are known beforehand.
func (c *Client) bootstrap() (addrs []dht.Addr) {
	names := c.o.Bootstrap
	if len(names) == 0 {
		names = dht.DefaultGlobalBootstrapHostPorts
	}
	for _, name := range names {
		addr, err := net.ResolveUDPAddr("udp4", name)
		if err != nil {
			c.log.Debug("node of the DHT is not known", slog.String("address", name), slog.Any("error", err))
			continue
		}
		addrs = append(addrs, dht.NewAddr(addr))
	}
	return addrs
}

// add looks a torrent up soon, and every while.
func (a *announcer) add(h hash, t *bt.Torrent, fetched bool) {
	l := &lookup{hash: h, t: t, pause: seedPause, most: seedPause, next: time.Now()}
	if fetched {
		l.pause, l.most, l.next = firstPause, fetchPause, time.Time{} // before all others
	}
	a.mu.Lock()
	a.due[h] = l
	a.mu.Unlock()
	a.kick()
}

func (a *announcer) remove(h hash) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.due, h)
}

func (a *announcer) kick() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run looks torrents up until the Client ends.
func (a *announcer) run() {
	var work sync.WaitGroup
	defer work.Wait()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	slots := make(chan struct{}, lookups)
	for {
		for _, l := range a.pick(cap(slots) - len(slots)) {
			slots <- struct{}{}
			work.Go(func() {
				a.look(l)
				<-slots
				a.kick()
			})
		}
		select {
		case <-tick.C:
		case <-a.wake:
		case <-a.c.ctx.Done():
			return
		}
	}
}

// pick takes up to n torrents that are due, the longest first.
func (a *announcer) pick(n int) []*lookup {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	var due []*lookup
	for _, l := range a.due {
		if !l.running && !l.next.After(now) {
			due = append(due, l)
		}
	}
	slices.SortFunc(due, func(x, y *lookup) int { return cmp.Compare(x.next.UnixNano(), y.next.UnixNano()) })
	due = due[:min(n, len(due))]
	for _, l := range due {
		l.running = true
	}
	return due
}

// look asks the DHT for peers of one torrent, and tells it of us.
func (a *announcer) look(l *lookup) {
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		l.running, l.next = false, time.Now().Add(l.pause)
		l.pause = min(2*l.pause, l.most)
	}()
	ctx, cancel := context.WithTimeout(a.c.ctx, lookupTime)
	defer cancel()
	var opts []dht.AnnounceOpt
	if a.port != 0 {
		opts = append(opts, dht.AnnouncePeer(dht.AnnouncePeerOpts{Port: a.port}))
	}
	ann, err := a.server.AnnounceTraversal(l.hash, opts...)
	if err != nil {
		a.c.log.DebugContext(ctx, "DHT cannot be asked", slog.Any("error", err))
		return
	}
	defer ann.Close()
	for {
		select {
		case values, ok := <-ann.Peers:
			if !ok {
				return
			}
			for _, p := range values.Peers {
				found(l.t, p.IP, p.Port, bt.PeerSourceDhtGetPeers)
			}
		case <-l.t.Closed():
			return
		case <-ctx.Done():
			return
		}
	}
}
