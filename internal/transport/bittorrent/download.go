package bittorrent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	bt "github.com/anacrolix/torrent"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/torrent"
)

// maxServers bounds the servers that one torrent asks for metadata and pieces.
const maxServers = 8

// download is a torrent whose pieces are fetched as they are asked for. Sessions
// of the same content share it.
type download struct {
	c      *Client
	hash   hash
	cap    eris.ReadCap
	named  []string // HOST:PORT of peers
	t      atomic.Pointer[bt.Torrent]
	ctx    context.Context
	cancel context.CancelCauseFunc
	work   sync.WaitGroup
	users  int // sessions; guarded by Client.mu
	ending sync.Once

	resolving atomic.Bool // the names of peers

	known chan struct{} // closed when the metadata is there, or refused
	slots chan struct{} // has a token for each peer that is asked for it
	lost  chan struct{} // gets a token when a connection has ended

	prioritizing sync.Mutex // held while the library is told what is wanted

	// Held for reading while unverified bytes are written, so that none replace
	// what has been verified.
	writing sync.RWMutex

	mu      sync.Mutex
	refused error // why the metadata is of no use
	info    torrent.Info
	shape   eris.Shape
	file    *os.File
	pieces  []pieceState
	queue   []int         // pieces that are wanted, in the order of the calls
	more    chan struct{} // closed when a web seed may find more in the queue
	seeders int           // web seeds that work
	came    int64         // bytes of metadata, and from web seeds
	told    map[int]bt.PiecePriority
	met     time.Time // when a peer first told what it has; zero while there is none
}

type pieceState struct {
	has     bool
	taken   bool // a web seed fetches it
	waiting []*fetching
}

// Open implements block.Network. Metadata comes from peers (BEP 9), or from
// exact sources of the magnet link and w.Servers.
func (c *Client) Open(w block.Wanted) block.Session {
	if w.Magnet == "" || w.Where == nil {
		return nil
	}
	m, err := torrent.ParseMagnet(w.Magnet)
	if err != nil {
		c.log.Debug("magnet link is of no use", slog.String("root", w.ReadCap.Root.String()), slog.Any("error", err))
		return nil
	}
	if m.Hash == (hash{}) { // at which the library panics
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.downloads[m.Hash]
	for d != nil && d.users == 0 { // it ends just now
		c.mu.Unlock()
		d.end()
		c.mu.Lock()
		d = c.downloads[m.Hash]
	}
	if c.closed || c.seeds[m.Hash] != nil {
		return nil
	}
	if d == nil {
		d = c.join(w, m)
		c.downloads[m.Hash] = d
	} else if d.cap != w.ReadCap {
		return nil
	}
	d.users++
	return &session{d: d, where: w.Where}
}

// join begins to look for a torrent.
func (c *Client) join(w block.Wanted, m torrent.Magnet) *download {
	d := &download{c: c, hash: m.Hash, cap: w.ReadCap, known: make(chan struct{}), slots: make(chan struct{}, metadataPeers),
		lost: make(chan struct{}, 1), more: make(chan struct{}), told: map[int]bt.PiecePriority{}}
	d.ctx, d.cancel = context.WithCancelCause(c.ctx)
	d.named = slices.Concat(m.Peers, c.o.Peers)
	c.asking.Store(m.Hash, d)
	t := c.add(m.Hash, d)
	d.t.Store(t)
	c.announce(d.ctx, t, m, true)
	d.redial()
	if c.dht != nil {
		c.dht.add(m.Hash, t, true)
	}
	if c.locals != nil {
		c.locals.add(m.Hash, t, true)
	}
	sources, seeds := serverURLs(w, m)
	if len(sources) > 0 {
		d.work.Go(func() { d.askServers(sources) })
	}
	for _, url := range seeds {
		d.work.Go(func() { d.runWebSeed(url) })
	}
	return d
}

// redial has the library connect to the peers that are named, which it forgets
// once a connection has ended. They are not banned for wrong pieces: Fetch gives
// up then. Names are resolved here, since the library panics if it has to ban what
// is no address (v1.60.0, Client.banPeerIP).
func (d *download) redial() {
	var names []string
	for _, peer := range d.named {
		if addr, err := netip.ParseAddrPort(peer); err == nil {
			d.addPeer(addr)
		} else {
			names = append(names, peer)
		}
	}
	if len(names) == 0 || !d.resolving.CompareAndSwap(false, true) {
		return
	}
	d.c.spawn(func() {
		defer d.resolving.Store(false)
		for _, peer := range names {
			for _, addr := range resolve(d.ctx, peer) {
				d.addPeer(addr)
			}
		}
	})
}

// resolve returns the addresses of HOST:PORT, none if there are none.
func resolve(ctx context.Context, peer string) (addrs []netip.AddrPort) {
	host, port, _ := net.SplitHostPort(peer)
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil
	}
	ips, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for _, ip := range ips {
		addrs = append(addrs, netip.AddrPortFrom(ip, uint16(n)))
	}
	return addrs
}

func (d *download) addPeer(addr netip.AddrPort) {
	if ip := addr.Addr().Unmap(); ip.Zone() == "" && addr.Port() > 0 {
		d.t.Load().AddPeers([]bt.PeerInfo{{Addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, addr.Port())), Source: bt.PeerSourceDirect, Trusted: true}})
	}
}

// lose says that a connection has ended: Fetch makes another one.
func (d *download) lose() {
	select {
	case d.lost <- struct{}{}:
	default:
	}
}

// leave ends a session's share of the download.
func (c *Client) leave(d *download) {
	c.mu.Lock()
	d.users--
	last := d.users == 0 && c.downloads[d.hash] == d
	c.mu.Unlock()
	if last {
		d.end()
	}
}

// end gives the torrent and its pieces up. It returns when that is done.
func (d *download) end() { d.ending.Do(d.finish) }

func (d *download) finish() {
	d.cancel(errEnded)
	d.c.asking.CompareAndDelete(d.hash, d)
	if d.c.dht != nil {
		d.c.dht.remove(d.hash)
	}
	if d.c.locals != nil {
		d.c.locals.remove(d.hash)
	}
	d.work.Wait()
	d.t.Load().Drop()
	d.mu.Lock()
	if d.file != nil {
		d.file.Close() // it has no name
	}
	d.mu.Unlock()
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	if d.c.downloads[d.hash] == d {
		delete(d.c.downloads, d.hash)
	}
}

// accept implements bytesOf.
func (d *download) accept(i torrent.Info) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file != nil || d.refused != nil {
		return d.refused
	}
	defer close(d.known)
	if d.shape, d.refused = i.Shape(d.cap); d.refused != nil {
		return d.refused
	}
	if d.file, d.refused = nameless(d.c.o.Dir, i.Length); d.refused != nil {
		d.refused = fmt.Errorf("bittorrent: file for pieces: %w", d.refused)
		return d.refused
	}
	d.info, d.pieces = i, make([]pieceState, len(i.Pieces)/len(hash{}))
	return nil
}

// refuse gives the torrent up: its metadata, although of the right hash, is not
// that of the content.
func (d *download) refuse(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file == nil && d.refused == nil {
		d.c.log.Warn("torrent has not the blocks of the content", slog.String("root", d.cap.Root.String()), slog.Any("error", err))
		d.refused = fmt.Errorf("%w: %w", ErrOther, err)
		close(d.known)
	}
}

func (d *download) noteBytes(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.came += int64(n)
}

// nameless makes a sparse file that is gone when it is closed.
func nameless(dir string, length int64) (*os.File, error) {
	f, err := os.CreateTemp(dir, "ersatz-torrent-")
	if err != nil {
		return nil, err
	}
	if err = os.Remove(f.Name()); err == nil {
		err = f.Truncate(length)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (d *download) joined() *bt.Torrent { return d.t.Load() }

func (d *download) allow(n int) error { return d.c.allow(d.ctx, n) }

func (d *download) read(b []byte, off int64) error {
	_, err := d.file.ReadAt(b, off)
	return err
}

// write drops what comes late of a piece that is right.
func (d *download) write(b []byte, off int64) error {
	d.writing.RLock()
	defer d.writing.RUnlock()
	if d.has(int(off / torrent.PieceLength)) {
		return nil
	}
	_, err := d.file.WriteAt(b, off)
	return err
}

func (d *download) has(piece int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pieces[piece].has
}

// verified wakes those who wait for a piece.
func (d *download) verified(piece int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := &d.pieces[piece]
	for _, f := range p.waiting {
		f.wake(piece)
	}
	*p = pieceState{has: true}
	d.queue = slices.DeleteFunc(d.queue, func(i int) bool { return i == piece })
}

// want puts pieces at the end of the queue, and has f woken for each that is
// there, now or later.
func (d *download) want(f *fetching, pieces []int) {
	d.mu.Lock()
	grown := false
	for _, i := range pieces {
		p := &d.pieces[i]
		if p.has {
			f.wake(i)
			continue
		}
		if len(p.waiting) == 0 {
			d.queue = append(d.queue, i)
			grown = true
		}
		p.waiting = append(p.waiting, f)
	}
	if grown {
		d.wakeWebSeeds()
	}
	d.mu.Unlock()
	d.prioritize()
}

// wakeWebSeeds says that there may be pieces to take. d.mu is held.
func (d *download) wakeWebSeeds() {
	close(d.more)
	d.more = make(chan struct{})
}

// forget ends the wait of f for pieces. Those that nobody else waits for are not
// fetched any more.
func (d *download) forget(f *fetching, pieces []int) {
	d.mu.Lock()
	for _, i := range pieces {
		p := &d.pieces[i]
		p.waiting = slices.DeleteFunc(p.waiting, func(o *fetching) bool { return o == f })
		if len(p.waiting) == 0 {
			d.queue = slices.DeleteFunc(d.queue, func(o int) bool { return o == i })
		}
	}
	d.mu.Unlock()
	d.prioritize()
}

// urgent is how many pieces of the queue are asked for before all others. Of the
// others, the library takes those that few peers have.
const urgent = 16

// prioritize tells the library what is wanted.
func (d *download) prioritize() {
	d.prioritizing.Lock()
	defer d.prioritizing.Unlock()
	t := d.t.Load()
	now := map[int]bt.PiecePriority{}
	d.mu.Lock()
	for n, i := range d.queue {
		if d.pieces[i].taken {
			continue
		}
		now[i] = bt.PiecePriorityNormal
		if n < urgent {
			now[i] = bt.PiecePriorityNow
		}
	}
	d.mu.Unlock()
	for i := range d.told {
		if _, ok := now[i]; !ok {
			t.Piece(i).SetPriority(bt.PiecePriorityNone)
		}
	}
	for i, prio := range now {
		if d.told[i] != prio {
			t.Piece(i).SetPriority(prio)
		}
	}
	d.told = now
}
