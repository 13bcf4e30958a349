package discover

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

var (
	group4 = netip.AddrFrom4([4]byte{224, 0, 0, 251})
	group6 = netip.MustParseAddr("ff02::fb")
)

// system is the network of this machine.
type system struct{}

func (system) links(names []string) ([]link, []netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, nil, err
	}
	var links []link
	var own []netip.Addr
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has gone meanwhile
		}
		l := link{index: i.Index, name: i.Name}
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
			l.prefixes = append(l.prefixes, netip.PrefixFrom(addr, bits))
		}
		const want, not = net.FlagUp | net.FlagMulticast, net.FlagLoopback | net.FlagPointToPoint
		named := len(names) == 0 || slices.Contains(names, i.Name)
		if named && len(l.prefixes) > 0 && i.Flags&(want|not) == want {
			links = append(links, l)
		}
	}
	return links, own, nil
}

// socket is bound to the group's own address on one link: what is sent to this
// machine alone, such as answers to avahi-daemon, stays with whom it is for.
// Package net would bind to all addresses.
type socket struct {
	*net.UDPConn
	group netip.AddrPort
}

func (system) open(l link, ip6 bool) (conn, error) {
	family, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: mdnsPort, Addr: group4.As4()})
	group := netip.AddrPortFrom(group4, mdnsPort)
	if ip6 {
		family, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: mdnsPort, Addr: group6.As16(), ZoneId: uint32(l.index)}
		group = netip.AddrPortFrom(group6.WithZone(l.name), mdnsPort)
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "mdns")
	defer f.Close() // FilePacketConn has its own
	if err := errors.Join(options(fd, l.index, ip6), os.NewSyscallError("bind", unix.Bind(fd, addr))); err != nil {
		return nil, fmt.Errorf("multicast on %s: %w", l.name, err)
	}
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return &socket{c.(*net.UDPConn), group}, nil
}

// options joins the group on a link, so that the socket hears only what comes
// in there, and what other programs of this machine send there.
func options(fd, index int, ip6 bool) error {
	set := func(level, option, value int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value))
	}
	reuse := set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if ip6 {
		mreq := &unix.IPv6Mreq{Multiaddr: group6.As16(), Interface: uint32(index)}
		return errors.Join(reuse,
			set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
			set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index),
			set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
			set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 1),
			os.NewSyscallError("setsockopt", unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, mreq)))
	}
	mreq := &unix.IPMreqn{Multiaddr: group4.As4(), Ifindex: int32(index)}
	return errors.Join(reuse,
		set(unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0),
		set(unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 255),
		set(unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 1),
		os.NewSyscallError("setsockopt", unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, mreq)),
		os.NewSyscallError("setsockopt", unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, mreq)))
}

func (s *socket) Read(b []byte) (int, netip.AddrPort, error) { return s.ReadFromUDPAddrPort(b) }

func (s *socket) Write(b []byte) error {
	_, err := s.WriteToUDPAddrPort(b, s.group)
	return err
}
