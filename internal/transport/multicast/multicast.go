// Package multicast joins multicast groups of UDP (RFC 1112, RFC 4291) on one
// network interface at a time, beside other programs that do the same. What is
// heard there is said by anybody on the network.
package multicast

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Interface is a network interface.
type Interface struct {
	Index    int
	Name     string
	Prefixes []netip.Prefix // its addresses, with the networks that they are in
}

// Near reports whether an address is one of the interface's network.
func (i Interface) Near(a netip.Addr) bool {
	if a.IsLinkLocalUnicast() {
		return true
	}
	a = a.WithZone("")
	return slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Has reports whether the interface has an address of the family.
func (i Interface) Has(ip6 bool) bool {
	return slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() == ip6 })
}

// Equal reports whether nothing of the interface has changed.
func (i Interface) Equal(o Interface) bool {
	return i.Index == o.Index && i.Name == o.Name && slices.Equal(i.Prefixes, o.Prefixes)
}

// Interfaces returns the interfaces that can be used: up, with an address, and of
// those that know multicast, but for loopback and point-to-point ones. Own are all
// addresses of this machine.
func Interfaces() (usable []Interface, own []netip.Addr, err error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, nil, err
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has gone meanwhile
		}
		u := Interface{Index: i.Index, Name: i.Name}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			addr, ok := netip.AddrFromSlice(n.IP)
			if !ok {
				continue
			}
			addr = addr.Unmap()
			bits, _ := n.Mask.Size()
			own = append(own, addr)
			u.Prefixes = append(u.Prefixes, netip.PrefixFrom(addr, bits))
		}
		const want, not = net.FlagUp | net.FlagMulticast, net.FlagLoopback | net.FlagPointToPoint
		if len(u.Prefixes) > 0 && i.Flags&(want|not) == want {
			usable = append(usable, u)
		}
	}
	return usable, own, nil
}

// Conn hears what is sent to a group on one interface, by other programs of this
// machine too, and by itself. It is bound to the group's own address, which
// package net would not do: what is sent to this machine alone stays with whom it
// is for.
type Conn struct {
	*net.UDPConn
	group netip.AddrPort
}

// Join joins a group on an interface. What is sent passes as many routers as hops
// says, less one.
func Join(i Interface, group netip.AddrPort, hops int) (*Conn, error) {
	family, addr := unix.AF_INET, unix.Sockaddr(nil)
	if group.Addr().Is6() {
		family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(group.Port()), Addr: group.Addr().As16(), ZoneId: uint32(i.Index)}
		group = netip.AddrPortFrom(group.Addr().WithZone(i.Name), group.Port())
	} else {
		addr = &unix.SockaddrInet4{Port: int(group.Port()), Addr: group.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "multicast")
	defer f.Close() // FilePacketConn has its own
	if err := errors.Join(options(fd, i.Index, group.Addr(), hops), os.NewSyscallError("bind", unix.Bind(fd, addr))); err != nil {
		return nil, fmt.Errorf("multicast on %s: %w", i.Name, err)
	}
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return &Conn{c.(*net.UDPConn), group}, nil
}

// options joins the group so that the socket hears only what comes in at the
// interface, and what other programs of this machine send there.
func options(fd, index int, group netip.Addr, hops int) error {
	set := func(level, option, value int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value))
	}
	reuse := set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if group.Is6() {
		mreq := &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)}
		return errors.Join(reuse,
			set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
			set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index),
			set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, hops),
			set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 1),
			os.NewSyscallError("setsockopt", unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, mreq)))
	}
	mreq := &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)}
	return errors.Join(reuse,
		set(unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0),
		set(unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, hops),
		set(unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 1),
		os.NewSyscallError("setsockopt", unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, mreq)),
		os.NewSyscallError("setsockopt", unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, mreq)))
}

// Read reads a datagram. Close ends it.
func (c *Conn) Read(b []byte) (int, netip.AddrPort, error) { return c.ReadFromUDPAddrPort(b) }

// Write sends a datagram to the group.
func (c *Conn) Write(b []byte) error {
	_, err := c.WriteToUDPAddrPort(b, c.group)
	return err
}
