package bittorrent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/internal/transport/multicast"
)

// fakeLAN is a network of this machine, in memory.
type fakeLAN struct {
	mu    sync.Mutex
	all   []multicast.Interface
	busy  bool // no group can be joined
	conns []*fakeConn
	sent  []sent
}

// sent is a message that was sent to a group on an interface.
type sent struct {
	at    time.Time
	on    string
	group netip.AddrPort
	localMessage
}

type fakeConn struct {
	lan   *fakeLAN
	on    multicast.Interface
	group netip.AddrPort
	in    chan datagram
	done  chan struct{}
	close func()
}

type datagram struct {
	from netip.AddrPort
	b    []byte
}

func iface(index int, name string, prefixes ...string) multicast.Interface {
	i := multicast.Interface{Index: index, Name: name}
	for _, p := range prefixes {
		i.Prefixes = append(i.Prefixes, netip.MustParsePrefix(p))
	}
	return i
}

func (l *fakeLAN) set(all ...multicast.Interface) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = all
}

func (l *fakeLAN) interfaces() ([]multicast.Interface, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		return nil, errors.New("no rights")
	}
	return l.all, nil
}

func (l *fakeLAN) join(i multicast.Interface, group netip.AddrPort) (groupConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy {
		return nil, syscall.EADDRINUSE
	}
	c := &fakeConn{lan: l, on: i, group: group, in: make(chan datagram), done: make(chan struct{})}
	c.close = sync.OnceFunc(func() { close(c.done) })
	l.conns = append(l.conns, c)
	return c, nil
}

func (c *fakeConn) Read(b []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-c.in:
		return copy(b, d.b), d.from, nil
	case <-c.done:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (c *fakeConn) Write(b []byte) error {
	m, err := parseLocal(b)
	if err != nil {
		return err
	}
	c.lan.mu.Lock()
	defer c.lan.mu.Unlock()
	c.lan.sent = append(c.lan.sent, sent{time.Now(), c.on.Name, c.group, m})
	return nil
}

func (c *fakeConn) Close() error { c.close(); return nil }

// take returns what was sent since the last call.
func (l *fakeLAN) take() []sent {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sent
	l.sent = nil
	return s
}

// say has somebody send a message to all who listen.
func (l *fakeLAN) say(from string, b []byte) {
	l.mu.Lock()
	conns := slices.Clone(l.conns)
	l.mu.Unlock()
	for _, c := range conns {
		select {
		case c.in <- datagram{netip.MustParseAddrPort(from), b}:
		case <-c.done:
		}
	}
	synctest.Wait()
}

// fakeLocals runs local discovery on a network, for who listens at an address, ""
// if nobody can connect.
func fakeLocals(t *testing.T, lan *fakeLAN, listen string) (l *locals, log *bytes.Buffer) {
	t.Helper()
	log = &bytes.Buffer{}
	c := &Client{log: slog.New(slog.NewTextHandler(log, nil))}
	if listen != "" {
		c.listen = &listener{Listener: fakeListener(netip.MustParseAddrPort(listen))}
	}
	l = newLocals(c, lan)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return l, log
}

type fakeListener netip.AddrPort

func (fakeListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (fakeListener) Close() error              { return nil }
func (f fakeListener) Addr() net.Addr          { return net.TCPAddrFromAddrPort(netip.AddrPort(f)) }

func number(n int) hash { return hash{byte(n >> 8), byte(n), 1} }

// given notes the peers of a torrent.
type given struct {
	mu    sync.Mutex
	peers []string
}

func (g *given) give(at netip.AddrPort) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peers = append(g.peers, at.String())
}

func (g *given) take() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.peers
	g.peers = nil
	return p
}

func ignore(netip.AddrPort) {}

var lan0 = iface(1, "lan0", "192.168.7.5/24")

// TestLocalIntervals has as many torrents as will announced for an hour.
func TestLocalIntervals(t *testing.T) {
	for _, n := range []int{1, 5, 24, 100, 1000} {
		synctest.Test(t, func(t *testing.T) {
			lan := &fakeLAN{all: []multicast.Interface{lan0}}
			l, _ := fakeLocals(t, lan, "[::]:6881")
			for i := range n {
				l.addTorrent(number(i), false, ignore)
			}
			begin := time.Now()
			time.Sleep(time.Hour)
			all := lan.take()
			if most := 60 + localSaved; len(all) > most || n == 1 && (len(all) < 12 || len(all) > 13) {
				t.Errorf("%d torrents: %d announcements in an hour", n, len(all))
			}
			first, last, led := map[hash]time.Time{}, map[hash]time.Time{}, map[hash]int{}
			var pause time.Duration
			for _, s := range all {
				led[s.hashes[0]]++
				if s.port != 6881 || s.cookie != l.cookie || s.group != localGroups[0] {
					t.Fatalf("announces %+v", s)
				}
				for _, h := range s.hashes {
					if first[h].IsZero() {
						first[h] = s.at
					} else {
						pause = max(pause, s.at.Sub(last[h]))
					}
					last[h] = s.at
				}
			}
			if len(first) != n {
				t.Errorf("%d torrents: %d were announced", n, len(first))
			}
			if most := max(localEvery, time.Duration(n/maxLocalHashes+1)*localPause) + 2*localPause; pause > most {
				t.Errorf("%d torrents: %v between two announcements of one", n, pause)
			}
			if len(led) != min(n, len(all)) {
				t.Errorf("%d torrents: %d were the first of an announcement", n, len(led))
			}
			if at := all[0].at.Sub(begin); at > time.Second {
				t.Errorf("%d torrents: first told after %v", n, at)
			}
			for i := range all {
				if i+localSaved < len(all) && all[i+localSaved].at.Sub(all[i].at) < localPause-time.Second {
					t.Errorf("%d torrents: %d announcements in a minute", n, localSaved+1)
				}
			}
		})
	}
}

// TestLocalUrgent has what begins to be fetched announced before all others, as
// long as that is not too much.
func TestLocalUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := &fakeLAN{all: []multicast.Interface{lan0}}
		l, _ := fakeLocals(t, lan, "[::]:6881")
		for i := range 1000 {
			l.addTorrent(number(i), false, ignore)
		}
		time.Sleep(10*time.Minute + 30*time.Second + 500*time.Millisecond)
		lan.take()
		for i := range localKept {
			l.addTorrent(number(2000+i), true, ignore)
			time.Sleep(time.Second)
			if s := lan.take(); len(s) != 1 || s[0].hashes[0] != number(2000+i) {
				t.Fatalf("announced %+v", s)
			}
		}
		l.addTorrent(number(3000), true, ignore)
		time.Sleep(time.Second)
		if s := lan.take(); len(s) != 0 {
			t.Errorf("announced %+v", s)
		}
		l.addTorrent(number(3001), true, ignore)
		l.remove(number(3001))
		time.Sleep(localPause)
		if s := lan.take(); len(s) != 1 || s[0].hashes[0] != number(3000) || slices.Contains(s[0].hashes, number(3001)) {
			t.Errorf("announced %+v", s)
		}
	})
}

// TestLocalHears gives torrents the peers that are near, and no others.
func TestLocalHears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := &fakeLAN{all: []multicast.Interface{iface(1, "lan0", "192.168.7.5/24", "fd00::5/64", "fe80::5/64")}}
		l, _ := fakeLocals(t, lan, "")
		var a, b given
		l.addTorrent(number(1), true, a.give)
		l.addTorrent(number(2), false, b.give)
		synctest.Wait()
		say := func(from string, m localMessage) { lan.say(from, m.bytes(localGroups[0])) }
		say("192.168.7.9:5000", localMessage{7000, []hash{number(1), number(3), number(1)}, ""})
		say("[fd00::9]:5000", localMessage{7001, []hash{number(2), number(1)}, "x"})
		for _, from := range []string{"192.168.8.9:1", "10.0.0.1:1", "[2001:db8::1]:1", "127.0.0.1:1", "[fe80::9%lan0]:1", "[fe80::9]:1", "[::ffff:8.8.8.8]:1"} {
			say(from, localMessage{7000, []hash{number(1)}, ""})
		}
		say("192.168.7.9:5000", localMessage{7002, []hash{number(1)}, l.cookie})
		lan.say("192.168.7.9:5000", []byte("BT-SEARCH * HTTP/1.1\r\n\r\n"))
		lan.say("192.168.7.9:5000", append(localMessage{7003, []hash{number(1)}, ""}.bytes(localGroups[0]), make([]byte, 2*maxLocal)...))
		if got := a.take(); !slices.Equal(got, []string{"192.168.7.9:7000", "[fd00::9]:7001"}) {
			t.Errorf("one learns %q", got)
		}
		if got := b.take(); !slices.Equal(got, []string{"[fd00::9]:7001"}) {
			t.Errorf("the other learns %q", got)
		}
		if len(l.torrents) != 2 {
			t.Errorf("%d torrents are kept", len(l.torrents))
		}
		time.Sleep(localAgain)
		say("192.168.7.9:5000", localMessage{7000, []hash{number(1)}, ""})
		if got := a.take(); !slices.Equal(got, []string{"192.168.7.9:7000"}) {
			t.Errorf("again: learns %q", got)
		}
		l.remove(number(2))
		time.Sleep(2 * localRetry)
		if got := a.take(); !slices.Equal(got, []string{"192.168.7.9:7000", "[fd00::9]:7001", "192.168.7.9:7000"}) || b.take() != nil || len(l.retries) > 0 {
			t.Errorf("tries %q again", got)
		}
		time.Sleep(time.Hour)
		if s := lan.take(); len(s) != 0 {
			t.Errorf("nobody can connect, and it announces %+v", s)
		}
	})
}

// TestLocalGreets has who seeds a torrent announce it soon to somebody new.
func TestLocalGreets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := &fakeLAN{all: []multicast.Interface{lan0}}
		l, _ := fakeLocals(t, lan, "[::]:6881")
		for i := range 1000 {
			l.addTorrent(number(i), false, ignore)
		}
		time.Sleep(10*time.Minute + 30*time.Second + 500*time.Millisecond)
		lan.take()
		for range 2 {
			lan.say("192.168.7.9:1", localMessage{7000, []hash{number(7)}, ""}.bytes(localGroups[0]))
			time.Sleep(time.Second)
		}
		if s := lan.take(); len(s) != 1 || s[0].hashes[0] != number(7) {
			t.Errorf("announced %+v", s)
		}
	})
}

// TestLocalBounds has strangers name more peers than a torrent takes.
func TestLocalBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := &fakeLAN{all: []multicast.Interface{lan0}}
		l, _ := fakeLocals(t, lan, "")
		var g given
		l.addTorrent(number(1), true, g.give)
		synctest.Wait()
		say := func(host, port int) {
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 7, byte(host)}), 1)
			lan.say(from.String(), localMessage{uint16(port), []hash{number(1)}, ""}.bytes(localGroups[0]))
		}
		for port := range 10 {
			say(9, 1+port)
		}
		if got := len(g.take()); got != maxLocalPorts {
			t.Errorf("%d ports of one address", got)
		}
		for host := range 250 {
			say(host, 80)
			time.Sleep(time.Second)
		}
		peers := g.take()
		slices.Sort(peers)
		if got := len(slices.Compact(peers)); got != maxLocalPeers { // the first ones are tried again
			t.Errorf("%d peers", got)
		}
		time.Sleep(localForget)
		say(200, 80)
		if got := g.take(); len(got) != 1 || len(l.torrents[number(1)].peers) != 1 {
			t.Errorf("after a while: learns %q, and knows %d", got, len(l.torrents[number(1)].peers))
		}
		for i := range 10 {
			l.addTorrent(number(10+i), false, g.give)
		}
		for host := range 64 {
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 7, byte(host)}), 1)
			m := localMessage{port: 80}
			for i := range 10 {
				m.hashes = append(m.hashes, number(10+i))
			}
			lan.say(from.String(), m.bytes(localGroups[0]))
		}
		if got := len(g.take()); got > maxLocalPeers {
			t.Errorf("%d are tried at once", got)
		}
	})
}

// TestLocalNeighbours asks who was heard of one torrent about those that are
// fetched later.
func TestLocalNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := &fakeLAN{all: []multicast.Interface{lan0}}
		l, _ := fakeLocals(t, lan, "")
		l.addTorrent(number(1), true, ignore)
		synctest.Wait()
		lan.say("192.168.7.8:1", localMessage{7000, []hash{number(9)}, ""}.bytes(localGroups[0])) // has nothing of ours
		for host := range 2 * maxNeighbours {
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 7, byte(100 + host)}), 1)
			lan.say(from.String(), localMessage{7000, []hash{number(1)}, ""}.bytes(localGroups[0]))
		}
		l.remove(number(1))
		time.Sleep(10 * time.Second)
		var fetched, seeded given
		l.addTorrent(number(2), true, fetched.give)
		l.addTorrent(number(3), false, seeded.give)
		got := fetched.take()
		if len(got) != maxNeighbours || !slices.Contains(got, "192.168.7.100:7000") || slices.Contains(got, "192.168.7.8:7000") {
			t.Errorf("asks %q", got)
		}
		if got := seeded.take(); got != nil {
			t.Errorf("about what is seeded it asks %q", got)
		}
		time.Sleep(localForget)
		l.addTorrent(number(4), true, fetched.give)
		if got := fetched.take(); got != nil {
			t.Errorf("after a while it asks %q", got)
		}
	})
}

// TestLocalMoves takes the machine from one network to another.
func TestLocalMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan := &fakeLAN{}
		l, log := fakeLocals(t, lan, "[::]:6881")
		l.addTorrent(number(1), false, ignore)
		after := func(what string, want ...string) {
			t.Helper()
			time.Sleep(2*rescan + time.Second)
			got := []string{}
			for _, s := range lan.take() {
				got = append(got, s.on+" "+s.group.Addr().String())
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Errorf("%s: announces on %q, want %q", what, got, want)
			}
		}
		after("interfaces are not known", []string{}...)
		lan.set(iface(1, "lan0", "fe80::1/64"))
		after("an address of one link alone", []string{}...)
		lan.set(iface(1, "lan0", "192.168.7.5/24", "fd00::5/64"), iface(2, "lan1", "10.0.0.5/8"))
		after("two networks", "lan0 239.192.152.143", "lan0 ff15::efc0:988f", "lan1 239.192.152.143")
		lan.set(lan0)
		after("one is gone, the other's addresses are others", "lan0 239.192.152.143")
		after("nothing changes", []string{}...)
		lan.conns[len(lan.conns)-1].Close()
		after("a socket broke", "lan0 239.192.152.143")
		lan.busy = true
		lan.set(iface(3, "lan2", "10.0.0.5/8"))
		time.Sleep(time.Minute)
		after("nobody can be heard", []string{}...)
		if n := strings.Count(log.String(), "no local discovery on an interface"); n != 1 {
			t.Errorf("warned %d times:\n%s", n, log)
		}
	})
}

// TestLocalReaches announces only where peers can connect.
func TestLocalReaches(t *testing.T) {
	for listen, want := range map[string]int{"[::]:1": 3, "0.0.0.0:1": 2, "192.168.7.5:1": 1, "[fd00::5]:1": 1, "127.0.0.1:1": 0, "[::1]:1": 0, "10.0.0.6:1": 0} {
		synctest.Test(t, func(t *testing.T) {
			lan := &fakeLAN{all: []multicast.Interface{iface(1, "lan0", "192.168.7.5/24", "fd00::5/64"), iface(2, "lan1", "10.0.0.5/8")}}
			l, _ := fakeLocals(t, lan, listen)
			l.addTorrent(number(1), false, ignore)
			time.Sleep(time.Minute)
			if got := lan.take(); len(got) != want {
				t.Errorf("%s: announces %d times", listen, len(got))
			}
		})
	}
}
