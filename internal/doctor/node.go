package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ersatz/internal/nodeapi"
)

const startNode = "sudo systemctl enable --now ersatz-node.socket"

// checkNode asks the node how it does.
func (e *examination) checkNode(ctx context.Context) {
	const check = "node"
	if e.o.Node == "" {
		e.add(check, Note, "the configuration says that none is asked", "")
		return
	}
	if _, err := os.Lstat(e.path(e.o.Node)); errors.Is(err, fs.ErrNotExist) {
		text := e.o.Node + " is not there: nothing is kept or shared"
		if e.guix {
			text += ", and ersatz-substitute fetches for itself"
		}
		e.add(check, Note, text, startNode)
		e.checkNodeState()
		return
	}
	c := nodeapi.New(e.path(e.o.Node), e.o.Timeout)
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	s, err := c.Status(ctx)
	if err != nil {
		e.add(check, Bad, fmt.Sprintf("%s: %v", e.o.Node, err), "sudo systemctl restart ersatz-node; why it does not answer: journalctl -u ersatz-node")
		e.checkNodeState()
		return
	}
	e.node = s
	text := fmt.Sprintf("version %s answers at %s and %s", s.Version, e.o.Node, strings.Join(s.Listen, ", "))
	if e.o.Version != "" && s.Version != e.o.Version {
		e.add(check, Note, fmt.Sprintf("%s; this is version %s", text, e.o.Version), "sudo systemctl restart ersatz-node")
	} else {
		e.add(check, OK, text, "")
	}
	e.checkUpstreams(s.Upstreams)
	e.checkSharing(s)
	e.checkQuota(s)
}

func (e *examination) checkUpstreams(upstreams []nodeapi.Upstream) {
	const check = "node's upstreams"
	const advice = "name servers that answer by --upstream: NODE_OPTIONS in /etc/default/ersatz-node"
	var silent []string
	for _, u := range upstreams {
		if !u.Answered {
			silent = append(silent, u.URL)
		}
	}
	switch {
	case len(upstreams) == 0:
		e.add(check, Note, "it has none: it gives what it keeps, and what peers have", advice)
	case len(silent) == len(upstreams):
		e.add(check, Bad, "none has answered since its start: "+strings.Join(silent, ", "), "check the network; else "+advice)
	case len(silent) > 0:
		e.add(check, Note, "have not answered since its start: "+strings.Join(silent, ", "), "check the network; else "+advice)
	default:
		e.add(check, OK, count(len(upstreams), "upstream")+", and all have answered", "")
	}
}

func (e *examination) checkSharing(s nodeapi.Status) {
	const check = "node's sharing"
	reachable := slices.ContainsFunc(s.Listen, func(address string) bool { return !loopback(address) })
	switch {
	case s.Share == "none" && reachable:
		e.add(check, Note, "others can connect and get nothing: it listens at "+strings.Join(s.Listen, ", ")+" with --share=none",
			"listen on loopback alone, or share: --share=lan")
	case s.Share != "none" && !reachable:
		e.add(check, Bad, fmt.Sprintf("--share=%s, but nobody else can connect to %s", s.Share, strings.Join(s.Listen, ", ")),
			"add an address: systemctl edit ersatz-node.socket, or --listen")
	default:
		e.add(check, OK, "--share="+s.Share, "")
	}
}

// loopback reports whether an address, HOST:PORT, is for this machine alone.
func loopback(address string) bool {
	a, err := netip.ParseAddrPort(address)
	return err == nil && a.Addr().Unmap().IsLoopback()
}

// checkNodeState looks at the disk of a node that does not say where its state is
// and what its quota.
func (e *examination) checkNodeState() {
	if e.exists(e.o.NodeState) {
		e.checkSpace("node's disk", e.o.NodeState, leastState, "free some, or remove kept items: ersatz gc --quota 1G "+e.o.NodeState)
	}
}

// checkQuota compares what the node may take with what there is. A node lowers
// its quota to what the disk has when it starts; later it only raises it again.
func (e *examination) checkQuota(s nodeapi.Status) {
	const check = "node's disk"
	const gib = 1 << 30
	used := s.Kept.ItemBytes + s.Kept.PartBytes
	text := fmt.Sprintf("%.1f of %.1f GiB are taken, by %s", float64(used)/gib, float64(s.Kept.Quota)/gib, count(s.Kept.Items, "item"))
	var st unix.Statfs_t
	if err := unix.Statfs(e.path(s.State), &st); err != nil {
		e.add(check, Note, fmt.Sprintf("%s; free space of %s is unknown: %v", text, s.State, err), "run doctor as root")
		return
	}
	free := int64(st.Bavail) * st.Bsize
	const advice = "free some, or have the node lower its quota to what the disk has: sudo systemctl restart ersatz-node"
	switch {
	case free < leastState:
		e.add(check, Bad, fmt.Sprintf("%s; %s has only %d MiB free: once it is full, nothing more is fetched", text, s.State, free>>20), advice)
	case free < s.Kept.Quota-used:
		e.add(check, Note, fmt.Sprintf("%s; %s has only %.1f GiB free: the disk is full before the quota is, and then nothing more is fetched",
			text, s.State, float64(free)/gib), advice)
	default:
		e.add(check, OK, fmt.Sprintf("%s; %s has %.1f GiB free", text, s.State, float64(free)/gib), "")
	}
}
