package discover

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxTTL      = 2 * time.Hour    // longer lives are cut to this
	maxUnknown  = 10 * time.Second // for the address of a peer to become known
	maxAddrs    = 8                // addresses of a peer
	maxTextKept = 1300             // bytes of a TXT record (RFC 6763, "DNS TXT Record Size")
	flushWait   = time.Second
	firstAsk    = 200 * time.Millisecond
	maxAsks     = 4 // questions for what is not known, or about to expire
)

// table is what is known of others. It has no clock and no lock: time is
// handed to it.
type table struct {
	max     int
	self    string
	kinds   map[name]Kind // by service name
	entries map[name]*entry
}

// entry is one instance of a service. It is a peer once there are a port and
// an address.
type entry struct {
	label    string
	instance name
	kind     Kind
	source   netip.Addr // who spoke of it first
	host     name
	port     uint16
	text     []string
	addrs    []place
	since    time.Time // when it became a peer; zero before
	seen     time.Time

	pointer, srv time.Time // when these expire
	ask          time.Time // when to ask for it
	asked        int       // times, since anything was heard of it
	life         time.Duration
}

// place is where a peer may be reached.
type place struct {
	addr    netip.Addr // with zone if it is link-local
	link    int
	heard   time.Time
	expires time.Time
}

func newTable(o Options) *table {
	t := &table{max: o.MaxPeers, self: o.Self, kinds: map[name]Kind{}, entries: map[name]*entry{}}
	for _, k := range []Kind{Publish, Node} {
		t.kinds[serviceName(k)] = k
	}
	return t
}

// serviceName returns the name under which services of the kind are listed.
func serviceName(k Kind) name { return makeName(append(k.service(), "local")...) }

// add takes a response into the table.
func (t *table) add(now time.Time, h heard) {
	for _, rec := range h.answers {
		if kind, ok := t.kinds[rec.name.fold()]; ok && rec.kind == typePTR {
			t.pointer(now, h.from, kind, rec)
		}
	}
	for _, rec := range h.answers {
		if e := t.entries[rec.name.fold()]; e != nil {
			t.describe(now, e, rec)
		}
	}
	for _, e := range t.entries {
		if e.host != "" {
			e.place(now, h)
		}
		if soon := now.Add(firstAsk); e.host != "" && len(e.addrs) == 0 && e.asked == 0 && soon.Before(e.ask) {
			e.ask = soon // the rest was not in the message
		}
	}
}

// isAddr reports whether the record is an address.
func (rec record) isAddr() bool { return rec.kind == typeA || rec.kind == typeAAAA }

// life returns how long the record may be believed.
func (rec record) life() time.Duration {
	if rec.ttl >= 1<<31 {
		return 0 // RFC 2181, "Time to Live"
	}
	return min(time.Duration(rec.ttl)*time.Second, maxTTL)
}

// pointer takes a record that says which instances there are.
func (t *table) pointer(now time.Time, from netip.Addr, kind Kind, rec record) {
	key := rec.target.fold()
	label, service := rec.target.split()
	e := t.entries[key]
	switch {
	case rec.life() == 0:
		delete(t.entries, key) // it said goodbye
		return
	case service.fold() != rec.name.fold() || !validInstance(label) || t.self != "" && strings.EqualFold(label, t.self):
		return
	case e == nil && !t.room(from):
		return
	case e == nil:
		e = &entry{label: label, instance: rec.target, kind: kind, source: from, srv: now.Add(maxUnknown), ask: now.Add(firstAsk)}
		t.entries[key] = e
	}
	e.pointer, e.seen = now.Add(rec.life()), now
}

// room reports whether one more instance may be known, by way of this address.
// One that has not become a peer yet gives way.
func (t *table) room(from netip.Addr) bool {
	count := 0
	var oldest *entry
	for _, e := range t.entries {
		if e.source == from {
			count++
		}
		if e.since.IsZero() && (oldest == nil || e.seen.Before(oldest.seen)) {
			oldest = e
		}
	}
	switch {
	case count >= maxInstances:
		return false
	case len(t.entries) < t.max:
		return true
	case oldest == nil:
		return false
	}
	delete(t.entries, oldest.instance.fold())
	return true
}

// describe takes a record that says where an instance is, or more about it.
func (t *table) describe(now time.Time, e *entry, rec record) {
	switch rec.kind {
	case typeSRV:
		if rec.life() == 0 {
			delete(t.entries, e.instance.fold())
			return
		}
		if host := rec.target.fold(); host != e.host {
			e.host, e.addrs = host, nil
		}
		e.port, e.srv, e.seen = rec.port, now.Add(rec.life()), now
		e.refreshed(now, rec.life())
	case typeTXT:
		if size := len(strings.Join(rec.text, " ")); rec.life() > 0 && size < maxTextKept {
			e.text = rec.text
		}
	}
}

// refreshed notes when to ask again: at 80 % of the life of what is known
// (RFC 6762, "Cache Maintenance").
func (e *entry) refreshed(now time.Time, life time.Duration) {
	e.asked, e.life, e.ask = 0, life, now.Add(life/5*4)
}

// place takes the addresses of the instance's host from a message. Those that
// the message has are all that there are on its link, if it says so, but for
// those of the last second: a host with two interfaces on one network sends two
// messages (RFC 6762, "Announcements to Flush Outdated Cache Entries").
func (e *entry) place(now time.Time, h heard) {
	of := func(rec record) bool { return rec.isAddr() && rec.name.fold() == e.host }
	for _, rec := range h.answers {
		if !of(rec) {
			continue
		}
		e.addrs = slices.DeleteFunc(e.addrs, func(p place) bool {
			same := func(rec record) bool { return of(rec) && rec.addr == p.addr.WithZone("") }
			return p.link == h.link.Index && (same(rec) ||
				rec.flush && rec.life() > 0 && now.Sub(p.heard) > flushWait && p.addr.Is4() == rec.addr.Is4() && !slices.ContainsFunc(h.answers, same))
		})
		if rec.life() == 0 || len(e.addrs) >= maxAddrs || !leads(h.link, rec.addr) {
			continue
		}
		addr := rec.addr
		if addr.Is6() && addr.IsLinkLocalUnicast() {
			addr = addr.WithZone(h.link.Name)
		}
		e.addrs = append(e.addrs, place{addr, h.link.Index, now, now.Add(rec.life())})
		if e.life == 0 || rec.life() <= e.life {
			e.refreshed(now, rec.life())
		}
	}
}

// leads reports whether an address that was heard on the link may be asked:
// private, link-local, or in a network that the link is part of. What is said
// on a local network must not lead to any other host, or to this one.
func leads(l link, a netip.Addr) bool {
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4In6() {
		return false
	}
	return a.IsPrivate() || l.Near(a)
}

// peer returns what users see of the entry, and whether it is a peer.
func (e *entry) peer(own []netip.Addr) (Peer, bool) {
	p := Peer{Name: e.label, Kind: e.kind, Since: e.since, Seen: e.seen}
	path := strings.TrimSuffix(textValue(e.text, "path"), "/")
	if e.port == 0 || e.kind == Node && textValue(e.text, "v") != version || !validPath(path) {
		return p, false
	}
	for _, a := range e.addrs {
		if slices.Contains(own, a.addr.WithZone("")) {
			return p, false // it is this machine
		}
		if to := netip.AddrPortFrom(a.addr, e.port); !slices.Contains(p.Addrs, to) {
			p.Addrs = append(p.Addrs, to)
		}
	}
	if len(p.Addrs) == 0 {
		return p, false
	}
	slices.SortFunc(p.Addrs, func(a, b netip.AddrPort) int {
		return cmp.Or(cmp.Compare(rank(a.Addr()), rank(b.Addr())), a.Compare(b))
	})
	p.URL = baseURL(p.Addrs[0]) + path
	return p, true
}

// rank orders addresses by how likely they are to work: "guix publish" listens
// on IPv4 alone unless told otherwise.
func rank(a netip.Addr) int {
	switch {
	case a.Is4() && !a.IsLinkLocalUnicast():
		return 0
	case !a.IsLinkLocalUnicast():
		return 1
	case a.Is4():
		return 2
	}
	return 3
}

// baseURL writes an address as RFC 6874 does.
func baseURL(a netip.AddrPort) string {
	host := a.Addr().String()
	if a.Addr().Is6() {
		host = "[" + strings.Replace(host, "%", "%25", 1) + "]"
	}
	return "http://" + host + ":" + strconv.Itoa(int(a.Port()))
}

// peers returns the peers, nodes first, by name.
func (t *table) peers(now time.Time, own []netip.Addr) []Peer {
	out := []Peer{}
	for _, e := range t.entries {
		p, ok := e.peer(own)
		if !ok {
			e.since = time.Time{}
			continue
		}
		if e.since.IsZero() {
			e.since = now
		}
		p.Since = e.since
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// expire forgets what nobody has renewed.
func (t *table) expire(now time.Time) {
	for key, e := range t.entries {
		e.addrs = slices.DeleteFunc(e.addrs, func(p place) bool { return !now.Before(p.expires) })
		if !now.Before(e.pointer) || !now.Before(e.srv) {
			delete(t.entries, key)
		}
	}
}

// questions returns what to ask now, of instances that are not known well
// enough or about to expire.
func (t *table) questions(now time.Time) []question {
	var out []question
	for _, e := range t.entries {
		if e.asked >= maxAsks || now.Before(e.ask) {
			continue
		}
		e.asked++
		e.ask = now.Add(max(time.Second<<e.asked/2, e.life/20))
		out = append(out, question{e.instance, typeSRV}, question{e.instance, typeTXT})
		if e.host != "" {
			out = append(out, question{e.host, typeA}, question{e.host, typeAAAA})
		}
	}
	return out
}

// wake returns when there is something to expire or to ask; zero if never.
func (t *table) wake() time.Time {
	var first time.Time
	sooner := func(at time.Time) {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	for _, e := range t.entries {
		sooner(e.pointer)
		sooner(e.srv)
		for _, p := range e.addrs {
			sooner(p.expires)
		}
		if e.asked < maxAsks {
			sooner(e.ask)
		}
	}
	return first
}

// known returns the records that need no answer, with what is left of their
// lives, as far as size bytes hold them.
func (t *table) known(now time.Time, k Kind, size int) []record {
	var out []record
	for _, e := range t.entries {
		left := e.pointer.Sub(now)
		if e.kind != k || e.since.IsZero() || left < ttlOther/2*time.Second {
			continue
		}
		rec := record{name: serviceName(k), kind: typePTR, ttl: uint32(left / time.Second), target: e.instance}
		if size -= len(rec.append(nil)); size < 0 {
			break
		}
		out = append(out, rec)
	}
	return out
}
