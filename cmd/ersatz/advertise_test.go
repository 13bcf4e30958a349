package main

import (
	"errors"
	"net"
	"os"
	"testing"

	"ersatz/internal/discover"
	"ersatz/storepath"
)

// fakeListener has an address and nothing else.
type fakeListener struct {
	net.Listener
	addr net.Addr
}

func (l fakeListener) Addr() net.Addr { return l.addr }

func TestAdvertised(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	tcp := func(ip string) net.Listener {
		return fakeListener{addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 8080}}
	}
	socket := fakeListener{addr: &net.UnixAddr{Name: "/run/x", Net: "unix"}}
	for _, c := range []struct {
		name      string
		store     string
		listeners []net.Listener
		want      string
	}{
		{"everywhere", storepath.Guix, []net.Listener{tcp("::")}, "[::]:8080"},
		{"IPv4", storepath.Guix, []net.Listener{tcp("0.0.0.0")}, "0.0.0.0:8080"},
		{"one address", storepath.Guix, []net.Listener{tcp("192.168.1.5")}, "192.168.1.5:8080"},
		{"the second", storepath.Guix, []net.Listener{socket, tcp("127.0.0.1"), tcp("::ffff:10.0.0.1")}, "10.0.0.1:8080"},
		{"loopback alone", storepath.Guix, []net.Listener{tcp("127.0.0.1"), tcp("::1")}, ""},
		{"no TCP", storepath.Guix, []net.Listener{socket}, ""},
		{"a store of Nix", storepath.Nix, []net.Listener{tcp("::")}, ""},
	} {
		s, err := publishFlags{store: c.store}.advertised(c.listeners)
		switch {
		case c.want == "" && !errors.Is(err, errUsage):
			t.Errorf("%s: %+v, %v", c.name, s, err)
		case c.want != "" && (err != nil || s.Listen.String() != c.want || s.Kind != discover.Publish || s.Instance != discover.InstanceOf(host)):
			t.Errorf("%s: %+v, %v", c.name, s, err)
		}
	}
}
