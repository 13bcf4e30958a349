package multicast

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestNear(t *testing.T) {
	i := Interface{Index: 1, Name: "lan0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.7.5/24"), netip.MustParsePrefix("fd00::5/64")}}
	for addr, want := range map[string]bool{
		"192.168.7.5": true, "192.168.7.200": true, "192.168.8.1": false, "10.0.0.1": false, "169.254.3.4": true,
		"fd00::1": true, "fd00::1%lan0": true, "fd00:0:0:1::1": false, "fe80::1": true, "2001:db8::1": false, "127.0.0.1": false, "::": false,
	} {
		if got := i.Near(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s is near: %v", addr, got)
		}
	}
}

func TestEqual(t *testing.T) {
	a := Interface{Index: 1, Name: "lan0", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.7.5/24")}}
	for name, change := range map[string]func(*Interface){
		"index":   func(i *Interface) { i.Index = 2 },
		"name":    func(i *Interface) { i.Name = "lan1" },
		"address": func(i *Interface) { i.Prefixes = []netip.Prefix{netip.MustParsePrefix("fd00::5/64")} },
	} {
		b := a
		if change(&b); a.Equal(b) || !a.Equal(a) {
			t.Errorf("%s does not matter", name)
		}
	}
	if !a.Has(false) || a.Has(true) {
		t.Errorf("of IPv4: %v, of IPv6: %v", a.Has(false), a.Has(true))
	}
}

func TestInterfaces(t *testing.T) {
	usable, own, err := Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(own, netip.MustParseAddr("127.0.0.1")) {
		t.Errorf("own addresses are %v", own)
	}
	for _, i := range usable {
		if n, err := net.InterfaceByIndex(i.Index); err != nil || n.Name != i.Name || n.Flags&net.FlagLoopback != 0 || len(i.Prefixes) == 0 {
			t.Errorf("%+v: %v", i, err)
		}
	}
}

// TestJoin has two on one interface hear each other, and no other group.
func TestJoin(t *testing.T) {
	lo := loopback(t)
	group, other := netip.MustParseAddrPort("239.192.7.7:0"), netip.MustParseAddrPort("239.192.7.8:0")
	probe, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	port := uint16(probe.LocalAddr().(*net.UDPAddr).Port)
	join := func(g netip.AddrPort) *Conn {
		c, err := Join(lo, netip.AddrPortFrom(g.Addr(), port), 1)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	a, b, c := join(group), join(group), join(other)
	for _, say := range []struct {
		by   *Conn
		text string
	}{{c, "other"}, {a, "one"}, {b, "two"}} {
		if err := say.by.Write([]byte(say.text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, hear := range []struct {
		by   *Conn
		want []string
	}{{a, []string{"one", "two"}}, {b, []string{"one", "two"}}, {c, []string{"other"}}} {
		for _, want := range hear.want {
			buf := make([]byte, 100)
			if err := hear.by.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if n, from, err := hear.by.Read(buf); err != nil || string(buf[:n]) != want || !from.IsValid() {
				t.Errorf("heard %q from %s, %v; want %q", buf[:n], from, err, want)
			}
		}
	}
	a.Close()
	if _, _, err := a.Read(make([]byte, 1)); err == nil {
		t.Error("a closed one reads")
	}
}

// TestJoinFails wants an error for an interface that is not there.
func TestJoinFails(t *testing.T) {
	for _, group := range []string{"239.192.7.7:6771", "[ff15::7:7]:6771", "10.0.0.1:6771"} {
		if c, err := Join(Interface{Index: 1 << 20, Name: "none"}, netip.MustParseAddrPort(group), 1); err == nil {
			c.Close()
			t.Errorf("%s: joined", group)
		}
	}
}

func loopback(t *testing.T) Interface {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 {
			return Interface{Index: i.Index, Name: i.Name, Prefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}}
		}
	}
	t.Skip("no loopback interface")
	return Interface{}
}
