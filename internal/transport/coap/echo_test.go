package coap

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"ersatz/eris"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/memstore"
)

// prove shows a server that a client is where it says.
func prove(t *testing.T, c *raw) {
	t.Helper()
	req := want(eris.Ref{1})
	a := c.datagram(t, req)
	if a.Code != codes.Unauthorized {
		t.Fatalf("a stranger is answered %v", a.Code)
	}
	req.Options = append(req.Options, message.Option{ID: optionEcho, Value: findEcho(&a)})
	if a := c.datagram(t, req); a.Code != codes.NotFound {
		t.Fatalf("with its echo it is answered %v", a.Code)
	}
}

// TestStrangers wants those who could be others to get little more than they send,
// if anything, and the store not to be asked for them.
func TestStrangers(t *testing.T) {
	ref, b := blocktest.Make(eris.Size32KiB, 1)
	held := memstore.New()
	if err := held.Put(t.Context(), ref, b); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	at := serveUDP(t, newServer(t, ServerOptions{}, Resource{Path: WellKnown, Sink: held, Blocks: getter(func(ctx context.Context, r eris.Ref) ([]byte, error) {
		asked.Add(1)
		return held.Get(ctx, r)
	})}))
	c := connect(t, "udp", at)
	for name, req := range map[string]message.Message{
		"held":        want(ref),
		"not held":    want(eris.Ref{1}),
		"a part":      want(ref, part{num: 3, szx: szx1024}.option(message.Block2)),
		"wrong echo":  want(ref, message.Option{ID: optionEcho, Value: make([]byte, echoSize)}),
		"empty echo":  want(ref, message.Option{ID: optionEcho}),
		"long echo":   want(ref, message.Option{ID: optionEcho, Value: make([]byte, maxEcho)}),
		"no such":     {Code: codes.GET, Options: append(Store{Path: "/elsewhere"}.options(), want(ref).Options[3:]...)},
		"no question": {Code: codes.GET, Options: Store{Path: WellKnown}.options()},
	} {
		sent, err := appendDatagram(nil, req)
		if err != nil {
			t.Fatal(err)
		}
		a := c.datagram(t, req)
		got, err := appendDatagram(nil, a)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) > 2*len(sent) {
			t.Errorf("%s: %d bytes for %d", name, len(got), len(sent))
		}
		if name[:2] != "no" && (a.Code != codes.Unauthorized || len(findEcho(&a)) != echoSize) {
			t.Errorf("%s: %v", name, a.Code)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the store was asked %d times", n)
	}
	put := message.Message{Code: codes.PUT, Options: Store{Path: WellKnown}.options(), Payload: b[:1024]}
	if a := c.datagram(t, put); a.Code != codes.Created {
		t.Errorf("put: %v", a.Code)
	}
	prove(t, c)
	if a := c.datagram(t, want(ref)); a.Code != codes.Content || len(a.Payload) != maxPart {
		t.Errorf("afterwards: %v with %d bytes", a.Code, len(a.Payload))
	}
	// Another address is another client.
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	prove(t, newRaw(conn))
}

// TestProofs follows values and addresses through time.
func TestProofs(t *testing.T) {
	p := newProofs()
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	start := time.Unix(1_000_000_060, 0) // 20 s before the next period
	with := func(v []byte) *message.Message {
		return &message.Message{Options: message.Options{{ID: optionEcho, Value: v}}}
	}
	v := p.value(one, start)
	for _, c := range []struct {
		name  string
		after time.Duration
		addr  netip.Addr
		req   *message.Message
		want  bool
	}{
		{"of another", 0, two, with(v), false},
		{"of nobody", 0, two, &message.Message{}, false},
		{"of another server", 0, one, with(newProofs().value(one, start)), false},
		{"cut", 0, one, with(v[:7]), false},
		{"too late", 90 * time.Second, one, with(v), false},
		{"in time", 60 * time.Second, one, with(v), true},
		{"known", 60*time.Second + proofTime - 1, one, &message.Message{}, true},
		{"known no more", 60*time.Second + proofTime, one, &message.Message{}, false},
	} {
		if got := p.given(c.addr, c.req, start.Add(c.after)); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
	// Any number of addresses are remembered only so far, the old ones less.
	last := start.Add(time.Hour)
	for i := range 3 * maxProofs {
		now := start
		if i >= 2*maxProofs {
			now = last
		}
		addr := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(i))))
		if !p.given(addr, with(p.value(addr, now)), now) {
			t.Fatalf("%v is not taken", addr)
		}
		if len(p.until) > maxProofs {
			t.Fatalf("%d are remembered", len(p.until))
		}
	}
	if n := len(p.until); n < maxProofs/2 {
		t.Errorf("%d are remembered of those that came last", n)
	}
	for addr, until := range p.until {
		if !until.After(last) {
			t.Fatalf("%v is old", addr)
		}
	}
}

// asker is a connection to a server that wants an Echo before it answers, so
// often.
type asker struct {
	exchanger
	wants int
	got   []message.Message
}

func (a *asker) do(_ context.Context, req message.Message, _ []byte) (answer, error) {
	a.got = append(a.got, req)
	if a.wants--; a.wants >= 0 {
		return answer{code: codes.Unauthorized, echo: []byte{byte(a.wants)}}, nil
	}
	return answer{code: codes.Content}, nil
}

// TestAsk wants the client to send back what it is told to, once.
func TestAsk(t *testing.T) {
	for _, c := range []struct {
		wants, asked int
		code         codes.Code
	}{{0, 1, codes.Content}, {1, 2, codes.Content}, {2, 2, codes.Unauthorized}, {9, 2, codes.Unauthorized}} {
		a := &asker{wants: c.wants}
		req := want(eris.Ref{1})
		options := len(req.Options)
		ans, err := ask(t.Context(), a, req, nil)
		if err != nil || ans.code != c.code || len(a.got) != c.asked {
			t.Errorf("%d wanted: %v, %v, asked %d times", c.wants, ans.code, err, len(a.got))
		}
		if len(a.got[0].Options) != options || findEcho(&a.got[0]) != nil {
			t.Errorf("%d wanted: the first request has an echo", c.wants)
		}
		if c.asked == 2 && !bytes.Equal(findEcho(&a.got[1]), []byte{byte(c.wants - 1)}) {
			t.Errorf("%d wanted: %v was sent back", c.wants, findEcho(&a.got[1]))
		}
	}
	// By all the ways, with a server that is never content.
	for _, scheme := range []string{SchemeTCP, SchemeUDP} {
		t.Run(scheme, func(t *testing.T) { testNeverContent(t, scheme) })
	}
}

func testNeverContent(t *testing.T, scheme string) {
	var asked atomic.Int32
	var work sync.WaitGroup
	t.Cleanup(work.Wait)
	at := "" // of a server whose answers all want an Echo
	refuse := func(m message.Message) message.Message {
		asked.Add(1)
		return message.Message{Code: codes.Unauthorized, Type: message.Acknowledgement, MessageID: m.MessageID, Token: m.Token,
			Options: message.Options{{ID: optionEcho, Value: []byte("x")}}}
	}
	switch scheme {
	case SchemeUDP:
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		at = conn.LocalAddr().String()
		work.Go(func() {
			buf := make([]byte, maxDatagram)
			for {
				n, from, err := conn.ReadFrom(buf)
				var m message.Message
				if err != nil || parseDatagram(buf[:n], &m) != nil {
					return
				}
				b, err := appendDatagram(nil, refuse(m))
				if err != nil {
					t.Error(err)
				}
				conn.WriteTo(b, from)
			}
		})
	default:
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		at = l.Addr().String()
		work.Go(func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			c := newRaw(conn)
			for m := csm(); ; m = refuse(m) {
				b, err := appendFrame(nil, m)
				if err != nil {
					t.Error(err)
				}
				conn.Write(b)
				if m, err = c.next(); err == nil && m.Code == codes.CSM {
					m, err = c.next()
				}
				if err != nil {
					return
				}
			}
		})
	}
	c := newClient(t, scheme+"://"+at+"?get&put", Options{Idle: 5 * time.Second})
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	var status *StatusError
	if _, err := get(t.Context(), c, eris.Size1KiB, ref); !errors.As(err, &status) || status.Code != codes.Unauthorized {
		t.Errorf("get: %v", err)
	}
	if err := c.Put(t.Context(), ref, b); !errors.As(err, &status) || status.Code != codes.Unauthorized {
		t.Errorf("put: %v", err)
	}
	if n := asked.Load(); n != 4 {
		t.Errorf("%d requests", n)
	}
}
