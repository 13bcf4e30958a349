package bittorrent

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anacrolix/dht/v2/krpc"
	"github.com/anacrolix/torrent/bencode"
	pp "github.com/anacrolix/torrent/peer_protocol"

	"ersatz/eris"
	"ersatz/internal/torrent"
)

const (
	ping      = "d1:ad2:id20:abcdefghij0123456789e1:q4:ping1:t2:aa1:y1:qe"
	peers     = "d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz123456e1:q9:get_peers1:t2:aa1:y1:qe"
	announce  = "d1:ad2:id20:abcdefghij01234567899:info_hash20:mnopqrstuvwxyz1234564:porti6881e5:token8:aoeusnthe1:q13:announce_peer1:t2:aa1:y1:qe"
	answer    = "d1:rd2:id20:0123456789abcdefghij5:nodes26:0123456789abcdefghijxxxxyy5:token8:aoeusnth6:valuesl6:axje.uee1:t2:aa1:y1:re"
	dhtError  = "d1:eli201e23:A Generic Error Ocurrede1:t2:aa1:y1:ee"
	shortAddr = "d2:ip1:x1:rd2:id20:0123456789abcdefghije1:t2:aa1:y1:re"
)

// TestAcceptable: the messages of BEP 5, and what would end the program or fill
// its memory.
func TestAcceptable(t *testing.T) {
	for packet, want := range map[string]bool{
		ping: true, peers: true, announce: true, answer: true, dhtError: true,
		"": false, "d": false, "x": false, "de": true, shortAddr: false, ping + "x": false, ping[:40]: false,
		"d1:q13:announce_peer1:t2:aa1:y1:qe": false,
		"d1:q3:get1:t2:aa1:y1:qe":            false,
		"d1:ad2:id20:abcdefghij01234567893:seqi1e5:token8:aoeusnth1:v3:abce1:q3:put1:t2:aa1:y1:qe": false,
		"d1:a" + strings.Repeat("l", 60_000): false,
	} {
		if got := acceptable([]byte(packet)); got != want {
			t.Errorf("%.100q: %v", packet, got)
		}
	}
}

// FuzzAcceptable: a query that is accepted has arguments, and nothing is behind
// it.
func FuzzAcceptable(f *testing.F) {
	for _, s := range []string{ping, peers, announce, answer, dhtError, shortAddr, "d1:q3:get1:t2:aa1:y1:qe"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		if !acceptable(packet) {
			return
		}
		var m krpc.Msg
		if err := bencode.Unmarshal(packet, &m); err != nil || m.Y == "q" && m.A == nil {
			t.Fatalf("%q: %v", packet, err)
		}
	})
}

// FuzzParseMessage: the parts are what the payload is made of.
func FuzzParseMessage(f *testing.F) {
	for _, s := range []string{"d8:msg_typei0e5:piecei0ee", "d8:msg_typei1e5:piecei0e10:total_sizei34256eexxxxxxxx",
		"d8:msg_typei2e5:piecei-1ee", "d8:msg_type1:x5:piecei0ee", "llll", "d8:msg_typei1e5:piecei99999999999999999999ee"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, data, err := parseMessage(payload)
		if err == nil && !bytes.HasSuffix(payload, data) {
			t.Fatalf("%q: %+v and %q", payload, m, data)
		}
	})
}

// FuzzInfoOf: what is found is in the text, and nothing but an info dictionary of
// ours is found in what we make.
func FuzzInfoOf(f *testing.F) {
	info := torrent.Info{Name: torrent.Name(eris.Ref{1}), Length: 1024, Pieces: make([]byte, 20)}
	for _, s := range []string{string(info.Metainfo([]string{"http://a"}, []string{"http://w"})), string(info.Metainfo(nil, nil)),
		"d4:infod6:lengthi1e6:pieces99999999:x", "d4:infod6:lengthi1e6:pieces2:", "d4:infod6:length"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, ok := infoOf(text)
		if ok && (!bytes.Contains(text, got) || !bytes.HasPrefix(got, []byte("d6:length"))) {
			t.Fatalf("%q of %q", got, text)
		}
		again, ok := infoOf(append(append([]byte("d4:info"), info.Bytes()...), text...))
		if !ok || sha1.Sum(again) != info.Hash() {
			t.Fatalf("%q", again)
		}
	})
}

// TestPeerStore bounds what strangers announce, and forgets it.
func TestPeerStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peerStore{}
		addr := func(i int) krpc.NodeAddr { return krpc.NodeAddr{IP: net.IPv4(10, 0, byte(i>>8), byte(i)), Port: 1} }
		for i := range 3 * maxAnnounced {
			p.AddPeer(hash{1}, addr(i))
			p.AddPeer(hash{1}, addr(i)) // again
		}
		if got := p.GetPeers(hash{1}); len(got) != maxAnnounced || !got[len(got)-1].IP.Equal(addr(3*maxAnnounced-1).IP) {
			t.Errorf("%d peers", len(got))
		}
		for i := range 2 * maxHashes {
			time.Sleep(time.Millisecond)
			p.AddPeer(hash{2, byte(i >> 8), byte(i)}, addr(i))
		}
		if len(p.swarms) != maxHashes || p.GetPeers(hash{1}) != nil {
			t.Errorf("%d torrents", len(p.swarms))
		}
		last := 2*maxHashes - 1
		if len(p.GetPeers(hash{2, byte(last >> 8), byte(last)})) != 1 {
			t.Error("the last is forgotten")
		}
		time.Sleep(forgetAfter)
		if got := p.GetPeers(hash{2, byte(last >> 8), byte(last)}); got != nil {
			t.Errorf("not forgotten: %v", got)
		}
	})
}

// TestListener bounds the connections of one address and of all.
func TestListener(t *testing.T) {
	l := &listener{from: map[netip.Addr]int{}}
	took := 0
	for i := range 2 * maxConns {
		if l.take(netip.AddrFrom4([4]byte{10, 0, 0, byte(i % 4)})) {
			took++
		}
	}
	if took != 4*maxPerAddr {
		t.Errorf("%d of four addresses", took)
	}
	for i := range 2 * maxConns {
		if l.take(netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)})) {
			took++
		}
	}
	if took != maxConns {
		t.Errorf("%d in all", took)
	}
	l.release(netip.AddrFrom4([4]byte{11, 0, 0, 0}))
	if !l.take(netip.AddrFrom4([4]byte{12, 0, 0, 0})) || len(l.from) != 4+maxConns-4*maxPerAddr {
		t.Error("nothing was released")
	}
}

// TestBounded ends what a tracker says.
func TestBounded(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		defer a.Close()
		for buf := make([]byte, 4096); ; {
			if _, err := a.Write(buf); err != nil {
				return
			}
		}
	}()
	c := &bounded{Conn: b, left: 10_000}
	n, buf := 0, make([]byte, 3000)
	for {
		m, err := c.Read(buf)
		if n += m; err != nil {
			break
		}
	}
	if n != 10_000 {
		t.Errorf("%d bytes", n)
	}
}

// TestValid: what is no place in a piece.
func TestValid(t *testing.T) {
	const length = 3*torrent.PieceLength + 1024
	for _, tt := range []struct {
		index, begin uint32
		n            int64
		want         bool
	}{
		{0, 0, 16 << 10, true}, {2, torrent.PieceLength - 1, 1, true}, {3, 0, 1024, true}, {3, 1023, 1, true},
		{0, 0, 0, false}, {0, torrent.PieceLength, 1, false}, {2, torrent.PieceLength - 1, 2, false}, {3, 1, 1024, false},
		{4, 0, 1, false}, {1<<32 - 1, 1<<32 - 1, 1<<32 - 1, false},
	} {
		m := &pp.Message{Index: pp.Integer(tt.index), Begin: pp.Integer(tt.begin)}
		if got := within(m, tt.n, length); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
	if within(&pp.Message{}, 1, -1) {
		t.Error("in a file that is not known")
	}
}

// TestPeerConn: who does not read is not read any more, and hung up on.
func TestPeerConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		c := &peerConn{Conn: a, release: func() {}}
		var work sync.WaitGroup
		defer work.Wait()
		var wrote error
		work.Go(func() {
			_, wrote = c.Write(make([]byte, 1))
			c.Close()
		})
		work.Go(func() {
			for buf := make([]byte, 16<<10); ; {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		})
		var sent atomic.Int64
		work.Go(func() {
			for {
				n, err := b.Write(make([]byte, 16<<10))
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		time.Sleep(writeTime / 2)
		synctest.Wait()
		if n := sent.Load(); n > readAhead+32<<10 || n < readAhead {
			t.Errorf("%d bytes are read", n)
		}
		time.Sleep(writeTime)
		synctest.Wait()
		if !errors.Is(wrote, os.ErrDeadlineExceeded) {
			t.Errorf("the write ends with %v", wrote)
		}
	})
}

// TestQuiet: what the library says is a debug message, and not there without.
func TestQuiet(t *testing.T) {
	for level, want := range map[slog.Level]int{slog.LevelDebug: 1, slog.LevelInfo: 0} {
		var b bytes.Buffer
		q := quiet{slog.NewTextHandler(&b, &slog.HandlerOptions{Level: level})}
		for _, of := range []slog.Level{slog.LevelDebug, slog.LevelWarn} {
			r := slog.Record{Level: of, Message: "peer"}
			if err := q.Handle(t.Context(), r); err != nil { // as the library does, unasked
				t.Fatal(err)
			}
		}
		if n := strings.Count(b.String(), "level=DEBUG"); n != want || strings.Count(b.String(), "\n") != want {
			t.Errorf("at %v: %q", level, b.String())
		}
	}
}
