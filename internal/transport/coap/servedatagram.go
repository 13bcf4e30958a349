package coap

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
)

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
// Anybody can send datagrams in the name of others, who would get up to 1 KiB for
// each of 70 bytes then. So a client is first asked to send something back (RFC
// 9175), which a client that does not know how cannot.
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
	defer s.uploads.leave(p) // after the last request; clients by UDP never leave
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
			if _, udp := p.(udpPackets); !udp || errors.Is(err, net.ErrClosed) || pause(ctx, 10*time.Millisecond) != nil {
				return err
			}
			continue // what the system says about one datagram
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
