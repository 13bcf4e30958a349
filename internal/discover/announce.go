package discover

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// Lives of records, in seconds (RFC 6762, "Resource Record TTL Values and
// Cache Coherency").
const (
	ttlHost  = 120
	ttlOther = 4500
)

const (
	probes      = 3 // RFC 6762, "Probing"
	probeEvery  = 250 * time.Millisecond
	probeWait   = time.Second // after a tie that was lost
	repeats     = 2           // RFC 6762, "Announcing"
	repeatEvery = time.Second
	answerEvery = time.Second // the least time between two answers on a link
	maxRenames  = 10          // after as many conflicts, another name is tried every renameWait
	renameWait  = 5 * time.Second
)

// Announce tells the local network of a service until ctx ends, and then says
// that it is gone; it returns nil when that is sent. Interfaces may come and go
// meanwhile. It returns an error at once if the service cannot be announced.
//
// The host name in the records is made up, so that what is announced here, and
// taken back, never mixes with what the machine's own responder says of it.
func Announce(ctx context.Context, s Service, o Options) error {
	return announce(ctx, system{}, s, o)
}

func announce(ctx context.Context, n network, s Service, o Options) error {
	if err := s.validate(); err != nil {
		return fmt.Errorf("announcing a service: %w", err)
	}
	o = o.withDefaults()
	a := &announcer{
		hub: newHub(n, o), service: s,
		host: makeName(NewInstance(), "local"), due: map[int]*answers{},
	}
	a.rename()
	defer a.close()
	a.run(ctx)
	return nil
}

// announcer answers for one service.
type announcer struct {
	*hub
	service  Service
	host     name
	instance name // as it is now
	renames  int  // conflicts so far
	due      map[int]*answers

	next     time.Time // when to probe or repeat
	probed   int       // probes sent; at the number of probes, the name is ours
	repeated int       // announcements sent since
}

// answers are what a link is owed.
type answers struct {
	last time.Time // the last one
	due  time.Time // the next one; zero if nobody has asked
}

// rename starts with the next name: probing for it.
func (a *announcer) rename() {
	label := a.service.Instance
	if a.renames > 0 {
		suffix := fmt.Sprintf(" (%d)", a.renames+1)
		label = cut(label, maxLabel-len(suffix)) + suffix
	}
	a.instance = makeName(slices.Concat([]string{label}, a.service.Kind.service(), []string{"local"})...)
	a.probed, a.repeated = 0, 0
	a.next = time.Now().Add(rand.N(probeEvery))
	if a.renames >= maxRenames {
		a.next = a.next.Add(renameWait)
	}
}

func (a *announcer) run(ctx context.Context) {
	look := time.Now()
	for {
		now := time.Now()
		if !now.Before(look) {
			if opened := a.refresh(ctx); len(opened) > 0 && a.probed == probes {
				a.next, a.repeated = now, 0
			}
			look = now.Add(rescan)
		}
		wake := a.step(ctx, now)
		if wake.IsZero() || look.Before(wake) {
			wake = look
		}
		timer := time.NewTimer(time.Until(wake))
		select {
		case <-ctx.Done():
			timer.Stop()
			if a.probed == probes {
				for _, j := range a.open {
					a.answer(context.WithoutCancel(ctx), j, true)
				}
			}
			return
		case h := <-a.in:
			a.handle(ctx, h)
		case <-timer.C:
		}
		timer.Stop()
	}
}

// step sends what is due, and returns when something will be; zero if nothing.
func (a *announcer) step(ctx context.Context, now time.Time) (wake time.Time) {
	if !a.next.IsZero() && !now.Before(a.next) {
		switch {
		case a.probed < probes && len(a.open) == 0:
			a.next = now.Add(probeEvery)
		case a.probed < probes:
			a.sendAll(ctx, message{questions: []question{{a.instance, typeANY}}, authority: []record{a.srv(ttlHost)}})
			if a.probed++; a.probed == probes {
				label, _ := a.instance.split()
				a.log.InfoContext(ctx, "announcing on the local network", slog.String("name", label), slog.String("kind", string(a.service.Kind)))
			}
			a.next = now.Add(probeEvery)
		case a.repeated < repeats:
			for _, j := range a.open {
				a.answer(ctx, j, false)
			}
			a.repeated++
			a.next = now.Add(repeatEvery)
		default:
			a.next = time.Time{}
		}
	}
	wake = a.next
	for index, d := range a.due {
		j := a.open[index]
		switch {
		case j == nil:
			delete(a.due, index)
		case d.due.IsZero():
		case !now.Before(d.due):
			a.answer(ctx, j, false)
		case wake.IsZero() || d.due.Before(wake):
			wake = d.due
		}
	}
	return wake
}

// answer sends all records on a link; with a goodbye, that they are gone.
func (a *announcer) answer(ctx context.Context, j *joined, goodbye bool) {
	a.due[j.link.Index] = &answers{last: time.Now()}
	m := message{response: true, answers: a.records(j.link)}
	if m.answers == nil {
		return
	}
	if goodbye {
		m.answers = m.answers[:len(m.answers)-1] // others of the type are still there
		for i := range m.answers {
			m.answers[i].ttl = 0
		}
	}
	a.send(ctx, j, m)
}

func (a *announcer) srv(ttl uint32) record {
	return record{name: a.instance, kind: typeSRV, ttl: ttl, port: a.service.Listen.Port(), target: a.host}
}

// records returns what a link is told; nothing if the service has no address
// there.
func (a *announcer) records(l link) []record {
	_, service := a.instance.split()
	srv := a.srv(ttlHost)
	srv.flush = true
	out := []record{
		{name: service, kind: typePTR, ttl: ttlOther, target: a.instance},
		srv,
		{name: a.instance, kind: typeTXT, flush: true, ttl: ttlOther, text: a.service.text()},
	}
	fixed := len(out)
	counts := map[uint16]int{}
	for _, p := range l.Prefixes {
		rec := record{name: a.host, kind: typeA, flush: true, ttl: ttlHost, addr: p.Addr()}
		if rec.addr.Is6() {
			rec.kind = typeAAAA
		}
		if counts[rec.kind] < maxOfLink && reaches(a.service.Listen.Addr(), rec.addr) {
			counts[rec.kind]++
			out = append(out, rec)
		}
	}
	if len(out) == fixed {
		return nil
	}
	// For those who look for everything: RFC 6763, "Service Type Enumeration".
	return append(out, record{name: typesName, kind: typePTR, ttl: ttlOther, target: service})
}

var typesName = makeName("_services", "_dns-sd", "_udp", "local")

// reaches reports whether who listens on one address is reached by the other.
func reaches(listen, addr netip.Addr) bool {
	listen = listen.WithZone("")
	return listen.Unmap() == addr || listen == netip.IPv6Unspecified() || listen == netip.IPv4Unspecified() && addr.Is4()
}

// handle takes note of a message of somebody else, or of one's own.
func (a *announcer) handle(ctx context.Context, h heard) {
	own, mine := a.instance.fold(), a.srv(0).data()
	if h.response {
		for _, rec := range h.answers {
			if rec.kind == typeSRV && rec.ttl > 0 && rec.name.fold() == own && !bytes.Equal(rec.data(), mine) {
				a.log.DebugContext(ctx, "another service has the name", slog.String("address", h.from.String()))
				a.renames++
				a.rename()
				return
			}
		}
		return
	}
	if a.probed < probes {
		// RFC 6762, "Simultaneous Probe Tiebreaking": the later data wins.
		for _, rec := range h.authority {
			if rec.kind == typeSRV && rec.name.fold() == own && bytes.Compare(rec.data(), mine) > 0 {
				a.probed, a.next = 0, time.Now().Add(probeWait)
			}
		}
		return
	}
	if !a.asked(h) {
		return
	}
	d := a.due[h.link.Index]
	if d == nil {
		d = &answers{}
		a.due[h.link.Index] = d
	}
	// Who probes for the name is told in time (RFC 6762, "Multicast DNS
	// Message Transmission"); all others may have to wait.
	due := time.Now().Add(20*time.Millisecond + rand.N(100*time.Millisecond))
	if earliest := d.last.Add(answerEvery); len(h.authority) == 0 && due.Before(earliest) {
		due = earliest
	}
	if earliest := d.last.Add(probeEvery); due.Before(earliest) {
		due = earliest
	}
	if d.due.IsZero() || due.Before(d.due) {
		d.due = due
	}
}

// asked reports whether a question of the message is about the service, and
// the answer not known to who asks (RFC 6762, "Known-Answer Suppression").
func (a *announcer) asked(h heard) bool {
	_, service := a.instance.split()
	known := slices.ContainsFunc(h.answers, func(r record) bool {
		return r.kind == typePTR && r.ttl >= ttlOther/2 && r.target.fold() == a.instance.fold()
	})
	return slices.ContainsFunc(h.questions, func(q question) bool {
		is := func(n name, kinds ...uint16) bool {
			return q.name.fold() == n.fold() && (q.kind == typeANY || slices.Contains(kinds, q.kind))
		}
		return is(service, typePTR) && !known || is(typesName, typePTR) || is(a.instance, typeSRV, typeTXT) || is(a.host, typeA, typeAAAA)
	})
}
