package coap

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"
)

// optionEcho is the Echo option (RFC 9175, "Echo Option Format"): what a server
// wants to have sent back, to see that a client is where it says.
const optionEcho message.OptionID = 252

const (
	// maxEcho is the longest value of the option in bytes.
	maxEcho = 40

	// echoSize is how long ours is, in bytes.
	echoSize = 8

	// echoPeriod is how long a value is given out. It is taken in the next
	// period, too.
	echoPeriod = time.Minute

	// proofTime is how long an address is believed that has sent one back.
	proofTime = 10 * time.Minute

	// maxProofs is how many such addresses are remembered. Those that are
	// forgotten are asked once more.
	maxProofs = 4096
)

// proofs knows at which addresses clients of UDP have been shown to be: anybody
// can send in the name of others, who would get far more than was sent (RFC 9175,
// "Applications of the Echo Option").
type proofs struct {
	key [32]byte // makes values that nobody can guess

	mu    sync.Mutex
	until map[netip.Addr]time.Time
}

func newProofs() *proofs {
	p := &proofs{until: map[netip.Addr]time.Time{}}
	rand.Read(p.key[:]) // never fails
	return p
}

// value returns what a client at an address is to send back.
func (p *proofs) value(addr netip.Addr, now time.Time) []byte {
	h := hmac.New(sha256.New, p.key[:])
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(now.Unix()/int64(echoPeriod/time.Second))))
	h.Write(addr.AsSlice())
	return h.Sum(nil)[:echoSize]
}

// given reports whether a request has shown that its client is at an address, or
// one before did.
func (p *proofs) given(addr netip.Addr, req *message.Message, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Before(p.until[addr]) {
		return true
	}
	echo := findEcho(req)
	if !hmac.Equal(echo, p.value(addr, now)) && !hmac.Equal(echo, p.value(addr, now.Add(-echoPeriod))) {
		return false
	}
	if len(p.until) >= maxProofs {
		p.sweep(now)
	}
	p.until[addr] = now.Add(proofTime)
	return true
}

// sweep forgets what is old, and if that is not half of all, any others.
func (p *proofs) sweep(now time.Time) {
	for addr, until := range p.until {
		if !now.Before(until) {
			delete(p.until, addr)
		}
	}
	for addr := range p.until {
		if len(p.until) <= maxProofs/2 {
			return
		}
		delete(p.until, addr)
	}
}

// challenge returns the answer that asks a client for an Echo, if it came by UDP
// and nothing shows yet that it is where it says.
func (s *Server) challenge(from any, req *message.Message) (m message.Message, wanted bool) {
	client, udp := from.(netip.AddrPort)
	addr, now := client.Addr().Unmap(), time.Now()
	if !udp || s.proofs.given(addr, req, now) {
		return message.Message{}, false
	}
	m = fail(req, codes.Unauthorized, "Echo is wanted")
	m.Options = message.Options{{ID: optionEcho, Value: s.proofs.value(addr, now)}}
	return m, true
}

// findEcho returns the value of a message's Echo option, nil if there is none
// that may be.
func findEcho(m *message.Message) []byte {
	for _, o := range m.Options {
		if o.ID == optionEcho && len(o.Value) > 0 && len(o.Value) <= maxEcho {
			return o.Value
		}
	}
	return nil
}

// ask sends a request and waits for its answer: once more, if the server wants to
// have something sent back first.
func ask(ctx context.Context, ex exchanger, req message.Message, buf []byte) (answer, error) {
	a, err := ex.do(ctx, req, buf)
	if err != nil || a.code != codes.Unauthorized || a.echo == nil {
		return a, err
	}
	// It comes last by its number.
	req.Options = append(req.Options[:len(req.Options):len(req.Options)], message.Option{ID: optionEcho, Value: a.echo})
	return ex.do(ctx, req, buf)
}
