package transporttest

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fault is what a proxy does to what the peer sends.
type fault struct {
	after int           // bytes of a connection that pass first; datagrams have none
	cut   bool          // then the connection ends
	reset bool          // by a reset
	stall bool          // then nothing passes any more
	flip  int           // one byte in so many is another one; 0: none
	delay time.Duration // each piece waits so long
	piece int           // largest piece in bytes; 0: what has come

	// Of datagrams, in either direction.
	lose, twice, late float64 // how many of one are lost, doubled, or come after the next
}

// proxy stands between a source and its peer.
type proxy struct {
	network, to string
	now         atomic.Pointer[fault]
	conns       atomic.Int64 // so far
	hits        atomic.Int64 // how often something was done to what passed

	ctx  context.Context // ends the proxy; it is no request
	work sync.WaitGroup
	mu   sync.Mutex
	open map[net.Conn]bool
}

// start listens, and returns at which address. The proxy ends with the test.
func (p *proxy) start(t testing.TB, network, to string) string {
	t.Helper()
	p.network, p.to, p.open = network, to, map[net.Conn]bool{}
	p.now.Store(&fault{})
	ctx, cancel := context.WithCancel(context.Background())
	p.ctx = ctx
	var at string
	var end func()
	if network == "udp" {
		conn, err := net.ListenPacket(network, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		at, end = conn.LocalAddr().String(), func() { conn.Close() }
		p.work.Go(func() { p.datagrams(conn) })
	} else {
		where := "127.0.0.1:0"
		if network == "unix" {
			where = filepath.Join(t.TempDir(), "proxy.sock")
		}
		l, err := net.Listen(network, where)
		if err != nil {
			t.Fatal(err)
		}
		at, end = l.Addr().String(), func() { l.Close() }
		p.work.Go(func() { p.accept(l) })
	}
	t.Cleanup(func() {
		cancel()
		end()
		p.drop()
		p.work.Wait()
	})
	return at
}

// set makes f what happens from now on, to connections that are made from now
// on; those that are open end.
func (p *proxy) set(f fault) {
	p.now.Store(&f)
	p.drop()
}

// drop ends all connections.
func (p *proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.Close()
	}
}

// hold notes a connection until the returned function closes it.
func (p *proxy) hold(c net.Conn) func() {
	p.mu.Lock()
	p.open[c] = true
	p.mu.Unlock()
	return func() {
		p.mu.Lock()
		delete(p.open, c)
		p.mu.Unlock()
		c.Close()
	}
}

func (p *proxy) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p.work.Go(func() { p.stream(c) })
	}
}

// stream carries one connection.
func (p *proxy) stream(c net.Conn) {
	defer p.hold(c)()
	f := *p.now.Load()
	peer, err := net.Dial(p.network, p.to)
	if err != nil {
		return
	}
	defer p.hold(peer)()
	var up sync.WaitGroup
	up.Go(func() {
		relay(peer, c, func(b []byte) ([]byte, bool) { return b, true })
		peer.Close()
	})
	left := f.after
	dice := rand.New(rand.NewPCG(1, uint64(p.conns.Add(1))))
	relay(c, peer, func(b []byte) ([]byte, bool) {
		if f.delay > 0 {
			wait(p.ctx, f.delay)
		}
		if f.delay > 0 || f.piece > 0 {
			p.hits.Add(1)
		}
		pass := b
		if f.cut || f.reset || f.stall {
			pass = b[:min(len(b), left)]
		}
		left -= len(pass)
		p.damage(f, dice, pass)
		if !f.cut && !f.reset && !f.stall || left > 0 {
			return pass, true
		}
		p.hits.Add(1)
		return pass, f.stall && p.silence(c, pass)
	}, f.piece)
	if t, ok := c.(*net.TCPConn); ok && f.reset {
		t.SetLinger(0) // so that Close resets
	}
	c.Close()
	up.Wait()
}

// silence gives what may pass still, and nothing after that until the
// connection ends.
func (p *proxy) silence(c net.Conn, last []byte) bool {
	c.Write(last)
	<-p.ctx.Done()
	return false
}

// damage changes some bytes.
func (p *proxy) damage(f fault, dice *rand.Rand, b []byte) {
	if f.flip == 0 {
		return
	}
	for i := range b {
		if dice.IntN(f.flip) == 0 {
			b[i] ^= byte(1 + dice.IntN(255))
			p.hits.Add(1)
		}
	}
}

// relay copies until one side ends, or what says that this is the end.
func relay(to, from net.Conn, through func([]byte) ([]byte, bool), piece ...int) {
	buf := make([]byte, 32<<10)
	if len(piece) > 0 && piece[0] > 0 {
		buf = buf[:piece[0]]
	}
	for {
		n, err := from.Read(buf)
		if n > 0 {
			b, more := through(buf[:n])
			if _, werr := to.Write(b); werr != nil || !more {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// datagrams carries datagrams between clients and the peer.
func (p *proxy) datagrams(conn net.PacketConn) {
	peers := map[string]net.Conn{}
	defer func() {
		for _, c := range peers {
			c.Close()
		}
	}()
	buf := make([]byte, 64<<10)
	send := p.unreliable()
	for {
		n, from, err := conn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		peer := peers[from.String()]
		if peer == nil {
			if peer, err = net.Dial("udp", p.to); err != nil {
				continue
			}
			peers[from.String()] = peer
			p.work.Go(func() {
				back := p.unreliable()
				in := make([]byte, 64<<10)
				for {
					n, err := peer.Read(in)
					if errors.Is(err, net.ErrClosed) {
						return
					}
					if err == nil {
						back(in[:n], func(b []byte) { conn.WriteTo(b, from) })
					} else if p.ctx.Err() != nil {
						return
					}
				}
			})
		}
		send(buf[:n], func(b []byte) { peer.Write(b) })
	}
}

// unreliable returns what sends datagrams as the fault of the moment has it.
func (p *proxy) unreliable() func(b []byte, write func([]byte)) {
	dice := rand.New(rand.NewPCG(2, 3))
	var held []byte
	return func(b []byte, write func([]byte)) {
		f := p.now.Load()
		if f.stall || dice.Float64() < f.lose {
			p.hits.Add(1)
			return
		}
		p.damage(*f, dice, b)
		if held == nil && dice.Float64() < f.late {
			p.hits.Add(1)
			held = append([]byte(nil), b...)
			return
		}
		write(b)
		if dice.Float64() < f.twice {
			p.hits.Add(1)
			write(b)
		}
		if held != nil {
			write(held)
			held = nil
		}
	}
}
