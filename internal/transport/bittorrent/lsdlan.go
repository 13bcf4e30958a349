package bittorrent

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ersatz/internal/transport/multicast"
)

const (
	rescan    = 10 * time.Second // between two looks at the interfaces
	maxPlaces = 64               // sockets, of all interfaces and families
	localHops = 1                // no router passes it on: only those near are heard
)

// localGroups are those of BEP 14.
var localGroups = []netip.AddrPort{
	netip.MustParseAddrPort("239.192.152.143:6771"),
	netip.MustParseAddrPort("[ff15::efc0:988f]:6771"),
}

// groupConn sends to and reads from a group on one interface. Close ends a read.
type groupConn interface {
	Read(b []byte) (n int, from netip.AddrPort, err error)
	Write(b []byte) error
	Close() error
}

// network is the machine's network.
type network interface {
	interfaces() ([]multicast.Interface, error)
	join(i multicast.Interface, group netip.AddrPort) (groupConn, error)
}

type system struct{}

func (system) interfaces() ([]multicast.Interface, error) {
	usable, _, err := multicast.Interfaces()
	return usable, err
}

func (system) join(i multicast.Interface, group netip.AddrPort) (groupConn, error) {
	return multicast.Join(i, group, localHops)
}

// lan has a socket per interface and family. But for hear, which is called by
// their readers, it is for one goroutine.
type lan struct {
	net  network
	log  *slog.Logger
	hear func(from netip.Addr, b []byte)
	open map[place]*joined
	deaf map[place]bool // those that could not be joined
	work sync.WaitGroup
}

// place is a group on an interface.
type place struct {
	index int
	group netip.AddrPort
}

type joined struct {
	groupConn
	on    multicast.Interface
	group netip.AddrPort
	ended atomic.Bool // reading has
}

// refresh looks at the interfaces, joins the groups on those that are new, changed
// or broken, leaves them on those that are gone, and reports whether it has joined
// any.
func (l *lan) refresh(ctx context.Context) bool {
	all, err := l.net.interfaces()
	if err != nil {
		l.log.WarnContext(ctx, "looking at the network interfaces", slog.Any("error", err))
		return false
	}
	now := map[place]multicast.Interface{}
	for _, i := range all {
		for _, g := range localGroups {
			if slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return speaks(p.Addr(), g) }) && len(now) < maxPlaces {
				now[place{i.Index, g}] = i
			}
		}
	}
	for p, j := range l.open {
		if i, ok := now[p]; !ok || j.ended.Load() || !i.Equal(j.on) {
			j.Close() // only ends the reading
			delete(l.open, p)
		}
	}
	maps.DeleteFunc(l.deaf, func(p place, _ bool) bool { _, ok := now[p]; return !ok })
	more := false
	for p, i := range now {
		if l.open[p] == nil {
			more = l.join(ctx, p, i) || more
		}
	}
	return more
}

// speaks reports whether an address can be that of a peer who is heard in a group.
// One of IPv6 that holds on one link alone cannot: the library does without zones.
func speaks(a netip.Addr, group netip.AddrPort) bool {
	return a.Is4() == group.Addr().Is4() && (a.Is4() || !a.IsLinkLocalUnicast())
}

func (l *lan) join(ctx context.Context, p place, i multicast.Interface) bool {
	c, err := l.net.join(i, p.group)
	if err != nil {
		if !l.deaf[p] { // it is tried again and again
			l.log.WarnContext(ctx, "no local discovery on an interface", slog.String("interface", i.Name), slog.Any("error", err))
		}
		l.deaf[p] = true
		return false
	}
	delete(l.deaf, p)
	j := &joined{groupConn: c, on: i, group: p.group}
	l.open[p] = j
	l.work.Go(func() { l.listen(j) })
	return true
}

// listen reads until the socket is closed or breaks. What does not come from the
// network of the interface is left out.
func (l *lan) listen(j *joined) {
	defer j.ended.Store(true)
	buf := make([]byte, maxLocal+1)
	for {
		n, from, err := j.Read(buf)
		if err != nil {
			return
		}
		if a := from.Addr().Unmap(); speaks(a, j.group) && j.on.Near(a) {
			l.hear(a, buf[:n])
		}
	}
}

// reached reports whether anybody can be told of a peer who listens at an address.
func (l *lan) reached(at netip.Addr) bool {
	for _, j := range l.open {
		if j.reaches(at) {
			return true
		}
	}
	return false
}

// reaches reports whether who hears j can connect to who listens at an address: to
// the same one of all that the machine has there, or to any.
func (j *joined) reaches(at netip.Addr) bool {
	if at.IsUnspecified() {
		return at.Is6() || j.group.Addr().Is4()
	}
	return speaks(at, j.group) && slices.ContainsFunc(j.on.Prefixes, func(p netip.Prefix) bool { return p.Addr() == at })
}

// send announces to all networks from where peers can connect.
func (l *lan) send(ctx context.Context, at netip.Addr, m localMessage) {
	for _, j := range l.open {
		if !j.reaches(at) {
			continue
		}
		if err := j.Write(m.bytes(j.group)); err != nil {
			l.log.DebugContext(ctx, "announcing to the local network", slog.String("interface", j.on.Name), slog.Any("error", err))
		}
	}
}

// close leaves all groups, and waits for the readers.
func (l *lan) close() {
	for _, j := range l.open {
		j.Close() // only ends the reading
	}
	l.work.Wait()
}
