package discover

import (
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
)

// lan is a network of machines in memory.
type lan struct {
	mu    sync.Mutex
	conns map[*lanConn]bool
	sent  []message // in order
}

// host is a machine on the lan, with one interface. It is a network.
type host struct {
	*lan
	mu   sync.Mutex
	busy bool         // somebody has the port to himself
	addr netip.Prefix // none: the interface is down
}

type lanConn struct {
	host *host
	from netip.AddrPort
	in   chan packet
	done chan struct{}
}

type packet struct {
	from netip.AddrPort
	b    []byte
}

func newLAN() *lan { return &lan{conns: map[*lanConn]bool{}} }

func (l *lan) host(addr string) *host {
	return &host{lan: l, addr: netip.MustParsePrefix(addr + "/24")}
}

func (h *host) set(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addr = netip.Prefix{}
	if addr != "" {
		h.addr = netip.MustParsePrefix(addr + "/24")
	}
}

func (h *host) links(names []string) ([]link, []netip.Addr, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.addr.IsValid() || len(names) > 0 && !slices.Contains(names, "lan0") {
		return nil, nil, nil
	}
	return []link{{Index: 1, Name: "lan0", Prefixes: []netip.Prefix{h.addr}}}, []netip.Addr{h.addr.Addr()}, nil
}

func (h *host) open(l link, ip6 bool) (conn, error) {
	h.mu.Lock()
	busy := h.busy
	h.mu.Unlock()
	if busy {
		return nil, syscall.EADDRINUSE
	}
	c := &lanConn{h, netip.AddrPortFrom(l.Prefixes[0].Addr(), mdnsPort), make(chan packet, 100), make(chan struct{})}
	h.lan.mu.Lock()
	defer h.lan.mu.Unlock()
	h.conns[c] = true
	return c, nil
}

func (c *lanConn) Read(b []byte) (int, netip.AddrPort, error) {
	select {
	case p := <-c.in:
		return copy(b, p.b), p.from, nil
	case <-c.done:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (c *lanConn) Write(b []byte) error { return c.host.shout(c.from, b) }

// shout sends to all that listen, its sender too, as multicast does.
func (l *lan) shout(from netip.AddrPort, b []byte) error {
	m, err := parse(b)
	if err != nil || len(b) > maxSend {
		return errors.Join(err, errors.New("sent too much"))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent = append(l.sent, m)
	for c := range l.conns {
		select {
		case c.in <- packet{from, slices.Clone(b)}:
		default: // lost
		}
	}
	return nil
}

func (c *lanConn) Close() error {
	c.host.lan.mu.Lock()
	defer c.host.lan.mu.Unlock()
	if c.host.conns[c] {
		delete(c.host.conns, c)
		close(c.done)
	}
	return nil
}

// count returns how many of the messages sent so far, from the n-th on, are
// like this, and how many there are.
func (l *lan) count(n int, like func(message) bool) (found, total int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.sent[n:] {
		if like(m) {
			found++
		}
	}
	return found, len(l.sent)
}

// world runs announcements and browsers on a lan until the test ends.
type world struct {
	*lan
	t  *testing.T
	wg sync.WaitGroup
}

func (w *world) announce(n network, s Service) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	w.wg.Go(func() {
		defer close(done)
		if err := announce(ctx, n, s, Options{}); err != nil {
			w.t.Error(err)
		}
	})
	return func() { cancel(); <-done }
}

func (w *world) browse(n network, o Options) (b *Browser, stop func()) {
	b = New(o)
	b.net = n
	ctx, cancel := context.WithCancel(w.t.Context())
	w.wg.Go(func() {
		if err := b.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	return b, cancel
}

// inWorld runs a test in time of its own.
func inWorld(t *testing.T, f func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{lan: newLAN(), t: t}
		t.Cleanup(w.wg.Wait) // the context ends before
		f(w)
	})
}

// sees checks whom a browser lists.
func (w *world) sees(b *Browser, want ...string) {
	w.t.Helper()
	synctest.Wait()
	got := []string{}
	for _, p := range b.Peers() {
		got = append(got, p.Name+"="+p.URL)
	}
	if !slices.Equal(got, want) && len(got)+len(want) > 0 {
		w.t.Errorf("sees %q, want %q", got, want)
	}
}

// changed reports whether a browser says that its list has changed.
func changed(b *Browser) bool {
	select {
	case <-b.Changes():
		return true
	default:
		return false
	}
}

func testService(k Kind, name string) Service {
	return Service{Kind: k, Instance: name, Listen: netip.MustParseAddrPort("[::]:8080")}
}

func TestFound(t *testing.T) {
	inWorld(t, func(w *world) {
		b, _ := w.browse(w.host("10.0.0.1"), Options{})
		stop := w.announce(w.host("10.0.0.2"), testService(Publish, "guix-publish-b"))
		w.announce(w.host("10.0.0.3"), testService(Node, "ersatz-c"))
		w.announce(w.host("10.0.0.1"), testService(Publish, "guix-publish-a")) // the browser's machine
		time.Sleep(2 * time.Second)
		w.sees(b, "ersatz-c=http://10.0.0.3:8080", "guix-publish-b=http://10.0.0.2:8080")
		if !changed(b) || changed(b) {
			t.Error("says nothing of the change, or says it twice")
		}
		// A late browser learns at once.
		late, _ := w.browse(w.host("10.0.0.4"), Options{Self: "ersatz-c"})
		time.Sleep(time.Second)
		w.sees(late, "guix-publish-a=http://10.0.0.1:8080", "guix-publish-b=http://10.0.0.2:8080")
		stop()
		time.Sleep(10 * time.Millisecond)
		w.sees(b, "ersatz-c=http://10.0.0.3:8080")
		if !changed(b) {
			t.Error("says nothing of the goodbye")
		}
	})
}

// TestQuiet wants peers to stay known for hours with few messages.
func TestQuiet(t *testing.T) {
	inWorld(t, func(w *world) {
		b, _ := w.browse(w.host("10.0.0.1"), Options{})
		w.announce(w.host("10.0.0.2"), testService(Publish, "p"))
		time.Sleep(time.Minute)
		since := b.Peers()
		_, n := w.count(0, func(message) bool { return true })
		changed(b)
		time.Sleep(5 * time.Hour)
		w.sees(b, "p=http://10.0.0.2:8080")
		if now := b.Peers(); !now[0].Since.Equal(since[0].Since) || time.Since(now[0].Seen) > 2*time.Minute {
			t.Errorf("since %v, then %v, seen %v", since[0].Since, now[0].Since, now[0].Seen)
		}
		if changed(b) {
			t.Error("says that the list has changed")
		}
		// At 80 % of 120 s a question and an answer, and now and then who else
		// is there.
		if _, all := w.count(0, func(message) bool { return true }); all-n > 500 {
			t.Errorf("%d messages in 5 hours", all-n)
		}
	})
}

// TestGone wants a machine that says no goodbye to be forgotten.
func TestGone(t *testing.T) {
	inWorld(t, func(w *world) {
		b, _ := w.browse(w.host("10.0.0.1"), Options{})
		silent := w.host("10.0.0.2")
		w.announce(silent, testService(Publish, "p"))
		time.Sleep(2 * time.Second)
		w.sees(b, "p=http://10.0.0.2:8080")
		silent.set("") // the cable is out
		time.Sleep(2 * time.Minute)
		w.sees(b)
		silent.set("10.0.0.9")
		time.Sleep(rescan + time.Second)
		w.sees(b, "p=http://10.0.0.9:8080")
	})
}

// TestLateLink wants a browser that starts without a network to see others
// soon after there is one.
func TestLateLink(t *testing.T) {
	inWorld(t, func(w *world) {
		away := w.host("10.0.0.1")
		away.set("")
		b, _ := w.browse(away, Options{})
		none, _ := w.browse(w.host("10.0.0.3"), Options{Interfaces: []string{"eth9"}})
		w.announce(w.host("10.0.0.2"), testService(Publish, "p"))
		time.Sleep(time.Hour)
		w.sees(b)
		away.set("10.0.0.1")
		time.Sleep(rescan + time.Second)
		w.sees(b, "p=http://10.0.0.2:8080")
		w.sees(none)
	})
}

// TestPortTaken wants a port that somebody has to himself to be said once, and
// to be used as soon as it is free.
func TestPortTaken(t *testing.T) {
	inWorld(t, func(w *world) {
		var log strings.Builder
		h := w.host("10.0.0.1")
		h.busy = true
		b, stop := w.browse(h, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		w.announce(w.host("10.0.0.2"), testService(Publish, "p"))
		time.Sleep(time.Hour)
		w.sees(b)
		h.mu.Lock()
		h.busy = false
		h.mu.Unlock()
		time.Sleep(rescan + time.Second)
		w.sees(b, "p=http://10.0.0.2:8080")
		stop()
		synctest.Wait()
		if n := strings.Count(log.String(), "address already in use"); n != 1 {
			t.Errorf("said %d times:\n%s", n, log.String())
		}
	})
}

// TestSameName wants each of three machines to have a name of its own, also
// if two begin at the same time.
func TestSameName(t *testing.T) {
	inWorld(t, func(w *world) {
		b, _ := w.browse(w.host("10.0.0.1"), Options{})
		w.announce(w.host("10.0.0.2"), testService(Publish, "p"))
		time.Sleep(5 * time.Second)
		w.announce(w.host("10.0.0.3"), testService(Publish, "p"))
		w.announce(w.host("10.0.0.4"), testService(Publish, "p"))
		time.Sleep(10 * time.Second)
		var names, addrs []string
		for _, p := range b.Peers() {
			names, addrs = append(names, p.Name), append(addrs, p.URL)
		}
		slices.Sort(addrs)
		if got := strings.Join(names, ","); got != "p,p (2),p (3)" {
			t.Errorf("names %s", got)
		}
		if got := strings.Join(addrs, " "); got != "http://10.0.0.2:8080 http://10.0.0.3:8080 http://10.0.0.4:8080" {
			t.Errorf("at %s", got)
		}
	})
}

// TestNameTaken wants a name that somebody else claims later to be given up.
func TestNameTaken(t *testing.T) {
	inWorld(t, func(w *world) {
		b, _ := w.browse(w.host("10.0.0.1"), Options{})
		w.announce(w.host("10.0.0.2"), testService(Publish, "p"))
		time.Sleep(5 * time.Second)
		other := message{response: true, answers: says(Publish, "p", 99, nil, "10.0.0.3")}
		if err := w.shout(netip.MustParseAddrPort("10.0.0.3:5353"), other.append(nil)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		w.sees(b, "p=http://10.0.0.3:99", "p (2)=http://10.0.0.2:8080")
	})
}

// TestStorm wants many questions to be answered once a second, no more, and
// what is not of the network or not of mDNS never.
func TestStorm(t *testing.T) {
	inWorld(t, func(w *world) {
		w.announce(w.host("10.0.0.2"), testService(Publish, "p"))
		time.Sleep(10 * time.Second)
		answer := func(m message) bool { return m.response && len(m.answers) > 0 }
		ask := func(from string, q message) int {
			_, before := w.count(0, answer)
			for range 1000 {
				if err := w.shout(netip.MustParseAddrPort(from), q.append(nil)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(2 * time.Second)
			n, _ := w.count(before, answer)
			return n
		}
		q := message{questions: []question{{serviceName(Publish), typePTR}}}
		if n := ask("10.0.0.9:5353", q); n < 5 || n > 12 {
			t.Errorf("%d answers within 10 s", n)
		}
		for _, kind := range []question{{typesName, typePTR}, {makeName("P", "_guix_publish", "_tcp", "LOCAL"), typeANY}} {
			if n := ask("10.0.0.9:5353", message{questions: []question{kind}}); n == 0 {
				t.Errorf("no answer to %v", kind)
			}
		}
		if n := ask("10.0.0.9:40000", q); n > 0 {
			t.Errorf("%d answers to one who cannot hear them", n)
		}
		if n := ask("8.8.8.8:5353", q); n > 0 {
			t.Errorf("%d answers to a stranger", n)
		}
		if n := ask("10.0.0.9:5353", message{questions: []question{{serviceName(Node), typePTR}}}); n > 0 {
			t.Errorf("%d answers about something else", n)
		}
		q.answers = []record{{name: serviceName(Publish), kind: typePTR, ttl: 3000, target: makeName("p", "_guix_publish", "_tcp", "local")}}
		if n := ask("10.0.0.9:5353", q); n > 0 {
			t.Errorf("%d answers to one who knows", n)
		}
	})
}

// TestListen wants the addresses to be announced that the server listens on.
func TestListen(t *testing.T) {
	for listen, want := range map[string]string{
		"[::]:80":      "http://10.0.0.2:80",
		"0.0.0.0:80":   "http://10.0.0.2:80",
		"10.0.0.2:80":  "http://10.0.0.2:80",
		"10.0.0.3:80":  "",
		"[fd00::1]:80": "",
	} {
		inWorld(t, func(w *world) {
			b, _ := w.browse(w.host("10.0.0.1"), Options{})
			w.announce(w.host("10.0.0.2"), Service{Kind: Publish, Instance: "p", Listen: netip.MustParseAddrPort(listen)})
			time.Sleep(2 * time.Second)
			if want == "" {
				w.sees(b)
			} else {
				w.sees(b, "p="+want)
			}
		})
	}
}

// TestEnds wants nobody to be listed when a browser has ended.
func TestEnds(t *testing.T) {
	inWorld(t, func(w *world) {
		b, stop := w.browse(w.host("10.0.0.1"), Options{})
		w.announce(w.host("10.0.0.2"), testService(Publish, "p"))
		time.Sleep(2 * time.Second)
		w.sees(b, "p=http://10.0.0.2:8080")
		stop()
		w.sees(b)
	})
}

func TestValidate(t *testing.T) {
	good := testService(Node, "ersatz-x")
	for what, change := range map[string]func(*Service){
		"unknown kind": func(s *Service) { s.Kind = "other" },
		"no name":      func(s *Service) { s.Instance = "" },
		"is no name":   func(s *Service) { s.Instance = strings.Repeat("a", 64) },
		"no address":   func(s *Service) { s.Listen = netip.AddrPort{} },
		"and port":     func(s *Service) { s.Listen = netip.MustParseAddrPort("[::]:0") },
		"nobody else":  func(s *Service) { s.Listen = netip.MustParseAddrPort("127.0.0.1:80") },
		"of 256 bytes": func(s *Service) { s.Text = []string{strings.Repeat("a", 256)} },
		"limit 400":    func(s *Service) { s.Text = slices.Repeat([]string{strings.Repeat("a", 100)}, 4) },
	} {
		s := good
		change(&s)
		if err := Announce(t.Context(), s, Options{}); err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(what, " ")) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := InstanceOf(strings.Repeat("ä", 40)); len(got) > maxLabel || !validInstance(got) || !strings.HasPrefix(got, "guix-publish-ä") {
		t.Errorf("%q", got)
	}
	if a, b := NewInstance(), NewInstance(); a == b || !validInstance(a) || len(a) != len("ersatz-")+13 {
		t.Errorf("%q, %q", a, b)
	}
}
