package discover

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	start   = time.Unix(1_700_000_000, 0)
	testLAN = link{Index: 7, Name: "lan0", Prefixes: []netip.Prefix{
		netip.MustParsePrefix("192.168.1.1/24"), netip.MustParsePrefix("198.51.100.1/24"), netip.MustParsePrefix("fe80::1/64"),
	}}
	testFrom = netip.MustParseAddr("192.168.1.5")
)

// says is the whole announcement of an instance.
func says(k Kind, label string, port uint16, text []string, addrs ...string) []record {
	instance := makeName(append([]string{label}, append(k.service(), "local")...)...)
	host := makeName("host-of-"+cut(label, 40), "local")
	out := []record{
		{name: serviceName(k), kind: typePTR, ttl: 4500, target: instance},
		{name: instance, kind: typeSRV, flush: true, ttl: 120, port: port, target: host},
		{name: instance, kind: typeTXT, flush: true, ttl: 4500, text: text},
	}
	for _, a := range addrs {
		rec := record{name: host, kind: typeA, flush: true, ttl: 120, addr: netip.MustParseAddr(a)}
		if rec.addr.Is6() {
			rec.kind = typeAAAA
		}
		out = append(out, rec)
	}
	return out
}

// withTTL returns the records with another life.
func withTTL(records []record, ttl uint32) []record {
	records = slices.Clone(records)
	for i := range records {
		records[i].ttl = ttl
	}
	return records
}

func hear(t *table, now time.Time, records []record) {
	t.add(now, heard{testLAN, testFrom, message{response: true, answers: records}})
}

func urls(t *table, now time.Time, own ...netip.Addr) string {
	var out []string
	for _, p := range t.peers(now, own) {
		out = append(out, p.Name+"="+p.URL)
	}
	return strings.Join(out, " ")
}

func newTestTable() *table { return newTable(Options{}.withDefaults()) }

func TestWhichAddresses(t *testing.T) {
	for _, c := range []struct{ addr, want string }{
		{"192.168.1.5", "http://192.168.1.5:80"},
		{"10.200.0.9", "http://10.200.0.9:80"},       // private, if not of this network
		{"198.51.100.77", "http://198.51.100.77:80"}, // public, but of this network
		{"169.254.3.4", "http://169.254.3.4:80"},
		{"fd00::5", "http://[fd00::5]:80"},
		{"fe80::5", "http://[fe80::5%25lan0]:80"},
		{"8.8.8.8", ""},
		{"198.51.101.1", ""},
		{"2001:db8::1", ""},
		{"127.0.0.1", ""},
		{"::1", ""},
		{"0.0.0.0", ""},
		{"::", ""},
		{"224.0.0.251", ""},
		{"ff02::fb", ""},
		{"::ffff:192.168.1.5", ""},
	} {
		table := newTestTable()
		hear(table, start, says(Publish, "p", 80, nil, c.addr))
		if got := strings.TrimPrefix(urls(table, start), "p="); got != c.want {
			t.Errorf("%s: %q, want %q", c.addr, got, c.want)
		}
	}
}

func TestOwnIsLeftOut(t *testing.T) {
	table := newTable(Options{Self: "Ersatz-Me"}.withDefaults())
	hear(table, start, says(Publish, "here", 80, nil, "192.168.1.1", "fd00::1"))
	hear(table, start, says(Node, "ersatz-me", 80, []string{"v=1"}, "192.168.1.9"))
	if got := urls(table, start, netip.MustParseAddr("192.168.1.1")); got != "" {
		t.Errorf("lists itself: %s", got)
	}
	hear(table, start, says(Publish, "zero port", 0, nil, "192.168.1.9"))
	if got := urls(table, start); got != "here=http://192.168.1.1:80" {
		t.Errorf("%s", got)
	}
}

func TestNodesText(t *testing.T) {
	for _, c := range []struct {
		text []string
		want string
	}{
		{nil, ""},
		{[]string{"v=2"}, ""},
		{[]string{"v=1", "v=2"}, "http://192.168.1.9:80"},
		{[]string{"V=1", "path=/"}, "http://192.168.1.9:80"},
		{[]string{"v=1", "path=/guix/a-b"}, "http://192.168.1.9:80/guix/a-b"},
		{[]string{"v=1", "path=guix"}, ""},
		{[]string{"v=1", "path=/../x"}, ""},
		{[]string{"v=1", "path=/a//b"}, ""},
		{[]string{"v=1", "path=/@evil.example"}, ""},
		{[]string{"v=1", "path=/x?y"}, ""},
		{[]string{"v=1", "path=/" + strings.Repeat("a", maxPath)}, ""},
	} {
		table := newTestTable()
		hear(table, start, says(Node, "n", 80, c.text, "192.168.1.9"))
		if got := strings.TrimPrefix(urls(table, start), "n="); got != c.want {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
	table := newTestTable()
	hear(table, start, says(Node, "n", 80, []string{"v=1", strings.Repeat("x", maxTextKept)}, "192.168.1.9"))
	if got := urls(table, start); got != "" {
		t.Errorf("a long text was kept: %s", got)
	}
}

func TestHostileNames(t *testing.T) {
	table := newTestTable()
	for _, label := range []string{"a\nb", "\x1b[31m", "\xff", "\u202egpj"} {
		hear(table, start, says(Publish, label, 80, nil, "192.168.1.9"))
	}
	// An instance of another service, and of none.
	hear(table, start, []record{
		{name: serviceName(Publish), kind: typePTR, ttl: 10, target: makeName("x", "_ipp", "_tcp", "local")},
		{name: serviceName(Publish), kind: typePTR, ttl: 10, target: makeName()},
	})
	if len(table.entries) > 0 {
		t.Errorf("%d were taken", len(table.entries))
	}
}

func TestExpiry(t *testing.T) {
	table := newTestTable()
	hear(table, start, says(Publish, "p", 80, nil, "192.168.1.5"))
	at := func(d time.Duration) time.Time { return start.Add(d) }
	table.expire(at(119 * time.Second))
	if urls(table, at(0)) == "" {
		t.Fatal("is not known")
	}
	if q := table.questions(at(95 * time.Second)); q != nil {
		t.Errorf("asked too early: %v", q)
	}
	if q := table.questions(at(96 * time.Second)); len(q) != 4 {
		t.Errorf("asked at 80 %% of its life: %v", q)
	}
	for d := 97 * time.Second; d < 300*time.Second; d += time.Second {
		table.questions(at(d))
	}
	if e := table.entries[makeName("p", "_guix_publish", "_tcp", "local")]; e == nil || e.asked != maxAsks {
		t.Errorf("%+v", e)
	}
	// The address alone is renewed, then the server too: it is not new.
	hear(table, at(100*time.Second), says(Publish, "p", 80, nil, "192.168.1.5"))
	table.expire(at(200 * time.Second))
	if p := table.peers(at(200*time.Second), nil); len(p) != 1 || !p[0].Since.Equal(start) || !p[0].Seen.Equal(at(100*time.Second)) {
		t.Errorf("%+v", p)
	}
	table.expire(at(220 * time.Second))
	if len(table.entries) > 0 {
		t.Error("is known for ever")
	}
	// No life is longer than the limit, and one with the top bit set is none.
	hear(table, start, withTTL(says(Publish, "p", 80, nil, "192.168.1.5"), 1<<31-1))
	table.expire(at(maxTTL))
	hear(table, start, withTTL(says(Publish, "q", 80, nil, "192.168.1.5"), 1<<31))
	if len(table.entries) > 0 {
		t.Error("lives too long")
	}
}

func TestGoodbye(t *testing.T) {
	whole := says(Publish, "p", 80, nil, "192.168.1.5", "192.168.1.6")
	for what, records := range map[string][]record{
		"all":       withTTL(whole, 0),
		"pointer":   withTTL(whole[:1], 0),
		"server":    withTTL(whole[1:2], 0),
		"addresses": withTTL(whole[3:], 0),
	} {
		table := newTestTable()
		hear(table, start, whole)
		hear(table, start.Add(time.Second), records)
		if got := urls(table, start); got != "" {
			t.Errorf("%s: still there: %s", what, got)
		}
	}
	table := newTestTable()
	hear(table, start, whole)
	hear(table, start, withTTL(whole[3:4], 0))
	if got := urls(table, start); got != "p=http://192.168.1.6:80" {
		t.Errorf("one of two addresses: %s", got)
	}
}

// TestMoved wants an address to replace the one before, on its own link and of
// its own family alone.
func TestMoved(t *testing.T) {
	table := newTestTable()
	hear(table, start, says(Publish, "p", 80, nil, "192.168.1.5", "fe80::5"))
	other := heard{link{Index: 8, Name: "lan1"}, netip.MustParseAddr("10.1.1.5"), message{answers: says(Publish, "p", 80, nil, "10.1.1.5", "fe80::5")}}
	table.add(start, other)
	hear(table, start, says(Publish, "p", 80, nil, "192.168.1.55")) // from another interface of the same host
	if got := len(table.peers(start, nil)[0].Addrs); got != 5 {
		t.Errorf("%d addresses", got)
	}
	hear(table, start.Add(2*flushWait), says(Publish, "p", 81, nil, "192.168.1.6"))
	p := table.peers(start, nil)
	if len(p) != 1 || fmt.Sprint(p[0].Addrs) != "[10.1.1.5:81 192.168.1.6:81 [fe80::5%lan0]:81 [fe80::5%lan1]:81]" {
		t.Errorf("%v", p)
	}
	// Another host under the same name has none of the addresses.
	moved := says(Publish, "p", 80, nil)
	moved[1].target = makeName("elsewhere", "local")
	hear(table, start, moved)
	if got := urls(table, start); got != "" {
		t.Errorf("addresses of another host: %s", got)
	}
}

func TestBounds(t *testing.T) {
	table := newTestTable()
	for i := range 200 {
		hear(table, start, says(Publish, fmt.Sprint("p", i), 80, nil, "192.168.1.5"))
	}
	if n := len(table.peers(start, nil)); n != maxInstances {
		t.Errorf("%d instances by way of one address", n)
	}
	for i := range 200 {
		from := netip.AddrFrom4([4]byte{192, 168, 1, byte(i)})
		table.add(start, heard{testLAN, from, message{answers: says(Publish, fmt.Sprint("q", i), 80, nil, "192.168.1.7")}})
	}
	if n := len(table.peers(start, nil)); n != 64 {
		t.Errorf("%d peers", n)
	}
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("192.168.1.%d", i+1))
	}
	table = newTestTable()
	hear(table, start, says(Publish, "p", 80, nil, many...))
	if p := table.peers(start, nil); len(p) != 1 || len(p[0].Addrs) != maxAddrs {
		t.Errorf("%v", p)
	}
}

// TestIncomplete wants the rest to be asked for, a few times, and what never
// becomes a peer to give way.
func TestIncomplete(t *testing.T) {
	table := newTestTable()
	whole := says(Publish, "p", 80, nil, "192.168.1.5")
	hear(table, start, whole[:1])
	if q := table.questions(start); q != nil || !table.wake().Equal(start.Add(firstAsk)) {
		t.Errorf("%v, %v", q, table.wake())
	}
	if q := table.questions(start.Add(firstAsk)); len(q) != 2 || q[0].kind != typeSRV {
		t.Errorf("%v", q)
	}
	hear(table, start.Add(time.Second), whole[1:3])
	if q := table.questions(start.Add(2 * time.Second)); len(q) != 4 || q[2].name != makeName("host-of-p", "local") {
		t.Errorf("%v", q)
	}
	hear(table, start.Add(3*time.Second), whole[3:])
	if got := urls(table, start); got == "" {
		t.Error("piece by piece it is no peer")
	}

	table = newTestTable()
	for i := range 100 {
		from := netip.AddrFrom4([4]byte{192, 168, 2, byte(i)})
		table.add(start, heard{testLAN, from, message{answers: says(Publish, fmt.Sprint("q", i), 80, nil)[:1]}})
	}
	hear(table, start, whole)
	if len(table.entries) != 64 || urls(table, start) == "" {
		t.Errorf("%d entries, peers %q", len(table.entries), urls(table, start))
	}
	table.expire(start.Add(maxUnknown))
	if len(table.entries) != 1 {
		t.Errorf("%d entries", len(table.entries))
	}
}

func TestKnownAnswers(t *testing.T) {
	table := newTestTable()
	for i := range 60 {
		from := netip.AddrFrom4([4]byte{192, 168, 1, byte(i)})
		table.add(start, heard{testLAN, from, message{answers: says(Publish, fmt.Sprint(strings.Repeat("p", 50), i), 80, nil, "192.168.1.7")}})
	}
	table.peers(start, nil)
	got := table.known(start.Add(time.Minute), Publish, maxSend)
	if len(got) < 5 || len(got) > 20 || got[0].ttl != 4440 {
		t.Errorf("%d known answers", len(got))
	}
	if got := table.known(start.Add(time.Hour), Publish, maxSend); got != nil {
		t.Errorf("%d are to be renewed, and not asked for", len(got))
	}
	if got := table.known(start, Node, maxSend); got != nil {
		t.Errorf("%d of another kind", len(got))
	}
}
