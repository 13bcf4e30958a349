package coap

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
)

// ServeTCP answers what comes by the connections of l, which it closes, until
// ctx ends. It returns nil then, when all connections have ended.
func (s *Server) ServeTCP(ctx context.Context, l net.Listener) error {
	return s.accept(ctx, l, s.serveStream)
}

// ServeDTLS does the same for a listener of ListenDTLS.
func (s *Server) ServeDTLS(ctx context.Context, l net.Listener) error {
	return s.accept(ctx, l, func(ctx context.Context, conn net.Conn) {
		if h, ok := conn.(interface{ HandshakeContext(context.Context) error }); ok {
			hctx, cancel := context.WithTimeout(ctx, s.opts.Stall)
			err := h.HandshakeContext(hctx)
			cancel()
			if err != nil {
				return
			}
		}
		s.serveDatagrams(ctx, &dtlsPackets{conn, s.opts.Idle})
	})
}

// accept runs serve for each connection that may be, and closes it then. When
// ctx ends, the connections end first: a DTLS listener lets go of its address
// only when it has none left.
func (s *Server) accept(ctx context.Context, l net.Listener, serve func(context.Context, net.Conn)) error {
	ctx, cancel := context.WithCancel(ctx)
	live := liveConns{conns: map[net.Conn]bool{}}
	var ending sync.WaitGroup
	defer ending.Wait()
	defer cancel()
	ending.Go(func() {
		<-ctx.Done()
		live.end()
		l.Close()
	})
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		default:
			// What the system says, that too many files are open for one,
			// may pass.
			var passing *net.OpError
			if !errors.As(err, &passing) || errors.Is(err, net.ErrClosed) {
				return err
			}
			if pause(ctx, 50*time.Millisecond) != nil {
				return nil
			}
			continue
		}
		addr := addrPort(conn.RemoteAddr()).Addr()
		if !s.admit(addr) {
			conn.Close()
			continue
		}
		began := live.begin(conn, func() {
			defer s.leave(addr)
			serve(ctx, conn)
		})
		if !began {
			conn.Close()
			s.leave(addr)
		}
	}
}

// liveConns are the connections that are served.
type liveConns struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
	ended bool
	work  sync.WaitGroup
}

// begin runs serve, and closes the connection then. It returns false once all
// are to end.
func (l *liveConns) begin(conn net.Conn, serve func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.conns[conn] = true
	l.work.Go(func() {
		defer func() {
			conn.Close()
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.conns, conn)
		}()
		serve()
	})
	return true
}

// end closes all and waits for them.
func (l *liveConns) end() {
	l.mu.Lock()
	l.ended = true
	for conn := range l.conns {
		conn.Close()
	}
	l.mu.Unlock()
	l.work.Wait()
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// addrPort returns the address of a client; connections without one count as
// one client.
func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return unmap(a.AddrPort())
	case *net.UDPAddr:
		return unmap(a.AddrPort())
	}
	return netip.AddrPort{}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// serveStream answers one TCP connection until it ends: some requests at once,
// the next ones are not read before.
func (s *Server) serveStream(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	defer s.uploads.leave(conn)
	c := &streamPeer{conn: conn, stall: s.opts.Stall, max: defaultMax}
	if c.send(csm()) != nil {
		return
	}
	r := bufio.NewReaderSize(conn, 4<<10)
	slots := make(chan struct{}, s.opts.PerClient)
	for {
		conn.SetReadDeadline(time.Now().Add(s.opts.Idle))
		if _, err := r.Peek(1); err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn.SetReadDeadline(time.Now().Add(s.opts.Stall))
		frame, err := readFrame(r, nil)
		var m message.Message
		if err == nil {
			err = parseFrame(frame, &m)
		}
		if err != nil {
			if errors.Is(err, errMessage) {
				c.send(message.Message{Code: codes.Abort, Payload: []byte(err.Error())})
			}
			return
		}
		if m.Code < codes.GET || m.Code >= codes.Created { // no request
			if !c.signal(&m) {
				return
			}
			<-slots
			continue
		}
		room := roomFor(c.max, nil)
		work.Go(func() {
			defer func() { <-slots }()
			if c.send(s.answer(ctx, conn, &m, room)) != nil {
				conn.Close()
			}
		})
	}
}

// streamPeer is the other side of a TCP connection.
type streamPeer struct {
	conn  net.Conn
	stall time.Duration
	max   int // the largest message that it takes

	mu  sync.Mutex
	buf []byte
}

func (c *streamPeer) send(m message.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := appendFrame(c.buf, m)
	if err != nil {
		return err
	}
	c.buf = b[:0]
	c.conn.SetWriteDeadline(time.Now().Add(c.stall))
	_, err = c.conn.Write(b)
	return err
}

// signal takes what is no request, and reports whether the connection goes on.
func (c *streamPeer) signal(m *message.Message) bool {
	switch m.Code {
	case codes.CSM:
		c.max = peerMax(m, c.max)
	case codes.Ping:
		return c.send(message.Message{Code: codes.Pong, Token: m.Token}) == nil
	case codes.Release, codes.Abort:
		return false
	}
	return true
}

// packets is a UDP socket, or a DTLS connection.
type packets interface {
	// read reads a datagram and says who sent it, in a form that is
	// comparable.
	read(buf []byte) (n int, from any, err error)

	// write sends one to who sent another. It is safe for concurrent use.
	write(b []byte, to any) error
}

type udpPackets struct{ conn *net.UDPConn }

func (u udpPackets) read(buf []byte) (int, any, error) {
	n, from, err := u.conn.ReadFromUDPAddrPort(buf)
	return n, from, err
}

func (u udpPackets) write(b []byte, to any) error {
	addr, _ := to.(netip.AddrPort)
	_, err := u.conn.WriteToUDPAddrPort(b, addr)
	return err
}

type dtlsPackets struct {
	conn net.Conn
	idle time.Duration
}

func (d *dtlsPackets) read(buf []byte) (int, any, error) {
	d.conn.SetReadDeadline(time.Now().Add(d.idle))
	n, err := d.conn.Read(buf)
	return n, d, err
}

func (d *dtlsPackets) write(b []byte, _ any) error {
	_, err := d.conn.Write(b)
	return err
}

// ServeUDP answers what comes to a socket, which it closes, until ctx ends. It
// returns nil then. Answers leave from the address that the system chooses: a
// machine with several listens at one of them.
//
// Anybody can send datagrams in the name of others, who get up to 1 KiB for
// each of 70 bytes then. Limit bounds that.
func (s *Server) ServeUDP(ctx context.Context, conn *net.UDPConn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	err := s.serveDatagrams(ctx, udpPackets{conn})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// serveDatagrams answers until reading fails, and returns that error. What is
// too much is dropped: clients send it again.
func (s *Server) serveDatagrams(ctx context.Context, p packets) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	now := underWay{each: s.opts.PerClient, all: s.opts.Requests, by: map[any]map[int32]bool{}}
	var number uint16 // of messages of our own
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := p.read(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil || !isUDP(p) {
				s.uploads.leave(p)
				return err
			}
			continue // an ICMP message about somebody
		}
		var m message.Message
		if parseDatagram(append([]byte(nil), buf[:n]...), &m) != nil {
			continue
		}
		if m.Code < codes.GET || m.Code >= codes.Created { // no request: perhaps a ping
			if m.Type == message.Confirmable {
				s.reply(p, from, message.Message{Code: codes.Empty, Type: message.Reset, MessageID: m.MessageID})
			}
			continue
		}
		if m.Type != message.Confirmable && m.Type != message.NonConfirmable || !now.begin(from, m.MessageID) {
			continue
		}
		number++
		own := int32(number)
		work.Go(func() {
			a := s.answer(ctx, from, &m, maxPart)
			a.Type, a.MessageID = message.Acknowledgement, m.MessageID
			if m.Type == message.NonConfirmable {
				a.Type, a.MessageID = message.NonConfirmable, own
			}
			now.end(from, m.MessageID) // before the client can know
			s.reply(p, from, a)
		})
	}
}

func isUDP(p packets) bool { _, ok := p.(udpPackets); return ok }

// reply sends a datagram. One that is lost is asked for again.
func (s *Server) reply(p packets, to any, m message.Message) {
	if b, err := appendDatagram(make([]byte, 0, len(m.Payload)+overhead), m); err == nil {
		p.write(b, to)
	}
}

// underWay knows which messages are being answered: one that comes again
// meanwhile is not answered twice. All requests can be repeated, so nothing has
// to be known of those before (RFC 7252, "Message Deduplication").
type underWay struct {
	each, all int // limits

	mu    sync.Mutex
	count int
	by    map[any]map[int32]bool
}

func (u *underWay) begin(from any, number int32) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := u.by[from]
	if now[number] || len(now) >= u.each || u.count >= u.all {
		return false
	}
	u.count++
	if now == nil {
		now = map[int32]bool{}
		u.by[from] = now
	}
	now[number] = true
	return true
}

func (u *underWay) end(from any, number int32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count--
	delete(u.by[from], number)
	if len(u.by[from]) == 0 {
		delete(u.by, from)
	}
}
