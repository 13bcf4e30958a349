package discover

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ersatz/internal/transport/multicast"
)

const (
	mdnsPort  = 5353
	maxLinks  = 32               // interfaces that are used at once
	rescan    = 10 * time.Second // between two looks at the interfaces
	hubQueue  = 32               // messages that were heard and not yet looked at
	maxOfLink = 4                // addresses that are announced per interface and family
)

// link is a network interface.
type link = multicast.Interface

// conn sends to and reads from the mDNS group of one family on one link.
// Close ends a read.
type conn interface {
	Read(b []byte) (n int, from netip.AddrPort, err error)
	Write(b []byte) error
	Close() error
}

// network is the machine's network.
type network interface {
	// links returns the links that can be used, and all addresses that the
	// machine has on any.
	links(names []string) ([]link, []netip.Addr, error)
	open(l link, ip6 bool) (conn, error)
}

// heard is a message with where it came from.
type heard struct {
	link link
	from netip.Addr // without zone
	message
}

// hub has a socket per link and family, and hands what they hear to its owner.
// Its methods are for one goroutine.
type hub struct {
	net   network
	names []string
	log   *slog.Logger
	own   []netip.Addr // of this machine
	open  map[int]*joined
	deaf  map[int]bool // links that could not be joined
	in    chan heard
	done  chan struct{}
	wg    sync.WaitGroup
}

// joined is a link that is listened on.
type joined struct {
	link  link
	conns []conn
	ended chan struct{} // takes word of a socket that broke
}

func newHub(n network, o Options) *hub {
	return &hub{net: n, names: o.Interfaces, log: o.Log, open: map[int]*joined{}, deaf: map[int]bool{}, in: make(chan heard, hubQueue), done: make(chan struct{})}
}

// refresh looks at the machine's links, opens those that are new, changed or
// broken, closes those that are gone, and returns what it has opened.
func (h *hub) refresh(ctx context.Context) []link {
	links, own, err := h.net.links(h.names)
	if err != nil {
		h.log.WarnContext(ctx, "looking at the network interfaces", slog.Any("error", err))
		return nil
	}
	h.own = own
	links = links[:min(len(links), maxLinks)]
	for index, j := range h.open {
		i := slices.IndexFunc(links, func(l link) bool { return l.Index == index })
		broken := len(j.ended) > 0
		if i < 0 || broken || !links[i].Equal(j.link) {
			h.leave(j)
		}
	}
	maps.DeleteFunc(h.deaf, func(index int, _ bool) bool {
		return !slices.ContainsFunc(links, func(l link) bool { return l.Index == index })
	})
	var opened []link
	for _, l := range links {
		if h.open[l.Index] == nil && h.join(ctx, l) {
			opened = append(opened, l)
		}
	}
	return opened
}

// join listens on a link, and reports whether that works on either family.
func (h *hub) join(ctx context.Context, l link) bool {
	j := &joined{link: l, ended: make(chan struct{}, 2)}
	var errs []error
	for _, ip6 := range []bool{false, true} {
		if !l.Has(ip6) {
			continue
		}
		c, err := h.net.open(l, ip6)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		j.conns = append(j.conns, c)
		h.wg.Go(func() { h.listen(j, c) })
	}
	if len(j.conns) == 0 {
		if !h.deaf[l.Index] { // it is tried again and again
			h.log.WarnContext(ctx, "no DNS-SD on an interface", slog.String("interface", l.Name), slog.Any("error", errors.Join(errs...)))
		}
		h.deaf[l.Index] = true
		return false
	}
	delete(h.deaf, l.Index)
	h.open[l.Index] = j
	h.log.DebugContext(ctx, "listening for mDNS", slog.String("interface", l.Name), slog.Int("sockets", len(j.conns)))
	return true
}

func (h *hub) leave(j *joined) {
	for _, c := range j.conns {
		c.Close() // only ends the reading
	}
	delete(h.open, j.link.Index)
}

// listen reads until the socket is closed or breaks. What does not come from
// an mDNS responder or querier of the same network is left out (RFC 6762,
// "Source Address Check"), and so are queries that want an answer sent to
// themselves alone ("Legacy Unicast Responses").
func (h *hub) listen(j *joined, c conn) {
	buf := make([]byte, maxPacket+1)
	for {
		n, from, err := c.Read(buf)
		if err != nil {
			j.ended <- struct{}{}
			return
		}
		addr := from.Addr().Unmap().WithZone("")
		if from.Port() != mdnsPort || !j.link.Near(addr) {
			continue
		}
		m, err := parse(buf[:n])
		if err != nil || len(m.questions)+len(m.answers) == 0 {
			continue
		}
		select {
		case h.in <- heard{j.link, addr, m}:
		case <-h.done:
			return
		}
	}
}

// send sends a message on a link, on both families.
func (h *hub) send(ctx context.Context, j *joined, m message) {
	b := m.append(make([]byte, 0, maxSend))
	for _, c := range j.conns {
		if err := c.Write(b); err != nil {
			h.log.DebugContext(ctx, "sending mDNS", slog.String("interface", j.link.Name), slog.Any("error", err))
		}
	}
}

// sendAll sends a message on all links.
func (h *hub) sendAll(ctx context.Context, m message) {
	for _, j := range h.open {
		h.send(ctx, j, m)
	}
}

// close ends all sockets and waits for their readers.
func (h *hub) close() {
	close(h.done)
	for _, j := range h.open {
		h.leave(j)
	}
	h.wg.Wait()
}
