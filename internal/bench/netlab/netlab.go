// Package netlab makes small networks for tests and measurements: hosts that
// are network namespaces, joined by one switch, each with a line of its own
// that has a rate, a loss and a delay.
//
//	host ── eth0 ══ rate ══ delay ══ port ── switch ── port ══ … ══ eth0 ── host
//
// Rate is tc's token bucket, at both ends of the line; loss is nftables in the
// switch, in both directions; delay is in this process, which then carries the
// frames of the line itself: it holds for every packet, those that open a
// connection too. TCP's congestion control is Linux's default, CUBIC.
//
// Namespaces have no names. They are held by open files of this process, so
// that they end with it, however it ends, and nothing is left to sweep.
//
// It needs root, and ip, tc, nft and nsenter.
package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// maxHosts is how many hosts a network has at most.
const maxHosts = 254

// Missing returns why no network can be made here, nil if one can.
func Missing() error {
	if os.Getuid() != 0 {
		return errors.New("netlab: not root")
	}
	for _, program := range []string{"ip", "tc", "nft", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("netlab: %w", err)
		}
	}
	if _, err := os.Stat(tunDevice); err != nil {
		return fmt.Errorf("netlab: %w", err)
	}
	return nil
}

// Lab is a network. Its methods, and those of its hosts, are safe for
// concurrent use.
type Lab struct {
	bridge *namespace
	wires  sync.WaitGroup

	mu    sync.Mutex // also held while the switch is changed
	hosts []*Host
}

// New makes a network without hosts.
func New(ctx context.Context) (*Lab, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, fmt.Errorf("netlab: making a switch: %w", err)
	}
	l := &Lab{bridge: ns}
	// Without snooping the switch floods multicast, which DNS-SD needs.
	if err := l.bridge.ip(ctx, "link add lan type bridge mcast_snooping 0", "link set lan up"); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Host adds a host with a line to the switch. The name is for people.
func (l *Lab) Host(ctx context.Context, name string, link Link) (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.hosts) == maxHosts {
		return nil, fmt.Errorf("netlab: host %s: there are %d already", name, maxHosts)
	}
	ns, err := newNamespace()
	if err != nil {
		return nil, fmt.Errorf("netlab: host %s: %w", name, err)
	}
	number := len(l.hosts) + 1
	h := &Host{lab: l, ns: ns, name: name, port: fmt.Sprintf("p%d", number), addr: netip.AddrFrom4([4]byte{10, 77, 0, byte(number)})}
	if err := h.connect(ctx, link); err != nil {
		return nil, fmt.Errorf("netlab: host %s: %w", name, errors.Join(err, h.close()))
	}
	l.hosts = append(l.hosts, h)
	return h, nil
}

// Close removes the network. Programs that still run in a host keep it alive,
// without its line.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, h := range l.hosts {
		errs = append(errs, h.close())
	}
	l.hosts = nil
	l.wires.Wait()
	return errors.Join(append(errs, l.bridge.close())...)
}

// setLoss writes the switch's rules anew. l.mu is held.
func (l *Lab) setLoss(ctx context.Context, hosts []*Host) error {
	var rules strings.Builder
	for _, h := range hosts {
		if h.link.Loss > 0 {
			for _, direction := range []string{"iifname", "oifname"} {
				fmt.Fprintf(&rules, "%s %q ether type ip numgen random mod 10000 < %d counter drop\n", direction, h.port, int(h.link.Loss*100))
			}
		}
	}
	// The first line is for the first time: only what exists can be deleted.
	script := "table bridge loss\ndelete table bridge loss\n" +
		"table bridge loss {\nchain forward {\ntype filter hook forward priority 0\n" + rules.String() + "}\n}\n"
	return l.bridge.run(ctx, script, "nft", "-f", "-")
}

// ip runs commands of ip(8), in the form of its -batch, in the namespace.
func (n *namespace) ip(ctx context.Context, lines ...string) error {
	return n.run(ctx, strings.Join(lines, "\n"), "ip", "-batch", "-")
}

// run runs a program in the namespace.
func (n *namespace) run(ctx context.Context, input, name string, args ...string) error {
	cmd := n.command(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s\n%s", strings.Join(append([]string{name}, args...), " "), err, bytes.TrimSpace(out), input)
	}
	return nil
}
