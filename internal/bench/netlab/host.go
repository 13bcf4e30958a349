package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Bits per second.
const (
	Kbit = 1_000
	Mbit = 1_000_000
)

// Link is a host's line to the switch. The zero value is fast and faultless.
type Link struct {
	// Rate is in bits per second, frame headers included, in each direction.
	// Zero: no limit.
	Rate int64
	// Loss is the percentage of packets lost, in each direction.
	Loss float64
	// Delay is what a packet takes, in each direction.
	Delay time.Duration
}

// Host is a host of the network.
type Host struct {
	lab  *Lab
	ns   *namespace
	name string
	port string // of the switch
	addr netip.Addr
	link Link       // under lab.mu
	taps []*os.File // of a line with delay: ours and the switch's
}

const (
	device = "eth0"
	// congestion is how TCP finds out what a line carries: by the default of
	// Linux, whatever this machine's is.
	congestion = "cubic"
)

// connect makes the host's line. lab.mu is held.
func (h *Host) connect(ctx context.Context, link Link) error {
	bridge := h.lab.bridge
	if link.Delay > 0 {
		if err := h.tap(link.Delay); err != nil {
			return err
		}
	} else if err := bridge.ip(ctx, fmt.Sprintf("link add %s type veth peer name %s netns %s", h.port, device, h.ns.path())); err != nil {
		return err
	}
	// One segment at a time goes into the line, as into a real one: what is
	// lost is a packet, and what is counted are frames.
	err := h.ns.ip(ctx,
		"link set "+device+" gso_max_segs 1", "link set "+device+" up",
		fmt.Sprintf("addr add %s/24 dev %s noprefixroute", h.addr, device),
		fmt.Sprintf("route add default dev %s congctl %s", device, congestion)) // all, for multicast too
	if err != nil {
		return err
	}
	if err := bridge.ip(ctx, "link set "+h.port+" gso_max_segs 1", "link set "+h.port+" master lan", "link set "+h.port+" up"); err != nil {
		return err
	}
	return h.set(ctx, link, append(h.lab.hosts[:len(h.lab.hosts):len(h.lab.hosts)], h))
}

// tap makes a line whose frames this process carries.
func (h *Host) tap(delay time.Duration) error {
	near, err := h.ns.newTap(device)
	if err != nil {
		return err
	}
	h.taps = append(h.taps, near)
	far, err := h.lab.bridge.newTap(h.port)
	if err != nil {
		return err
	}
	h.taps = append(h.taps, far)
	h.lab.wires.Go(func() { carry(near, far, delay) })
	h.lab.wires.Go(func() { carry(far, near, delay) })
	return nil
}

func (h *Host) close() error {
	var errs []error
	for _, f := range h.taps {
		errs = append(errs, f.Close())
	}
	return errors.Join(append(errs, h.ns.close())...)
}

// SetLink changes the line's rate and loss. The delay stays what it was made
// with.
func (h *Host) SetLink(ctx context.Context, link Link) error {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if link.Delay != h.link.Delay {
		return fmt.Errorf("netlab: host %s: the delay of a line cannot be changed", h.name)
	}
	if err := h.set(ctx, link, h.lab.hosts); err != nil {
		return fmt.Errorf("netlab: host %s: %w", h.name, err)
	}
	return nil
}

// set gives the line its rate and loss; hosts are all that there are.
func (h *Host) set(ctx context.Context, link Link, hosts []*Host) error {
	before := h.link
	h.link = link
	if link.Rate != before.Rate {
		if err := errors.Join(h.ns.setRate(ctx, device, link.Rate), h.lab.bridge.setRate(ctx, h.port, link.Rate)); err != nil {
			return err
		}
	}
	if link.Loss != before.Loss {
		return h.lab.setLoss(ctx, hosts)
	}
	return nil
}

// setRate limits what leaves by an interface. The queue before it holds a
// tenth of a second, but no less than 20 packets.
func (n *namespace) setRate(ctx context.Context, dev string, rate int64) error {
	if rate <= 0 {
		return n.run(ctx, "", "tc", "qdisc", "del", "dev", dev, "root")
	}
	second := rate / 8
	burst := max(3_000, second/100) // what the timer lets through at once
	limit := max(30_000, second/10)
	return n.run(ctx, "", "tc", "qdisc", "replace", "dev", dev, "root", "tbf",
		"rate", fmt.Sprint(rate), "burst", fmt.Sprint(burst), "limit", fmt.Sprint(limit))
}

// SetUp plugs the host's cable in or pulls it.
func (h *Host) SetUp(ctx context.Context, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	return h.lab.bridge.ip(ctx, "link set "+h.port+" "+state)
}

// Name returns the host's name.
func (h *Host) Name() string { return h.name }

// Addr returns the host's address.
func (h *Host) Addr() netip.Addr { return h.addr }

// Netns returns a file that is the host's network namespace, as long as this
// process and the network live. `nsenter --net=FILE` enters it.
func (h *Host) Netns() string { return h.ns.path() }

// Command returns a command that runs in the host, with the files and the
// processes of this machine. When ctx is done it is killed, with all its
// children, and so it is when this process ends.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return h.ns.command(ctx, name, args...)
}

// Dial connects from the host to an address "IP:PORT".
func (h *Host) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	if err := literal(address); err != nil {
		return nil, err
	}
	err = h.ns.do(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens on a TCP port of the host, 0 for any.
func (h *Host) Listen(ctx context.Context, port uint16) (l net.Listener, err error) {
	err = h.ns.do(func() error {
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", netip.AddrPortFrom(h.addr, port).String())
		return err
	})
	return l, err
}

// literal wants an address that nobody has to be asked for: who would be
// asked is not in the host's namespace.
func literal(address string) error {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return fmt.Errorf("netlab: %w", err)
	}
	return nil
}

// Traffic is what a host has sent and received, in bytes of Ethernet frames.
// What the line then lost is in Sent.
type Traffic struct{ Sent, Received int64 }

// Since returns the traffic since an earlier one.
func (t Traffic) Since(before Traffic) Traffic {
	return Traffic{t.Sent - before.Sent, t.Received - before.Received}
}

// Traffic returns the traffic of the host's line so far.
func (h *Host) Traffic() (Traffic, error) {
	var text []byte
	err := h.ns.do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		return Traffic{}, err
	}
	return parseTraffic(string(text))
}

// parseTraffic reads the device's line of proc_net_dev(5).
func parseTraffic(text string) (Traffic, error) {
	for line := range strings.Lines(text) {
		name, counters, ok := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(counters)
		if !ok || name != device || len(f) != 16 {
			continue
		}
		received, err := strconv.ParseInt(f[0], 10, 64)
		if err != nil {
			return Traffic{}, err
		}
		sent, err := strconv.ParseInt(f[8], 10, 64)
		return Traffic{Sent: sent, Received: received}, err
	}
	return Traffic{}, fmt.Errorf("netlab: no %s in %q", device, text)
}
