// Package discover finds substitute servers and nodes on the local network, and
// lets them find this one: DNS-Based Service Discovery (RFC 6763) over
// Multicast DNS (RFC 6762), beside whatever else of that kind the machine runs,
// such as avahi-daemon.
//
// What is heard is said by anybody on the network. It is bounded, it leads to
// no address outside the local network, and it is no reason to trust anything:
// see docs/peers.md.
package discover

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Kind tells what a peer is.
type Kind string

const (
	// Publish is a substitute server, such as "guix publish" or "ersatz
	// publish", announced as _guix_publish._tcp.
	Publish Kind = "publish"

	// Node is an "ersatz node" that shares, announced as _ersatz._tcp.
	Node Kind = "node"
)

// service returns the labels of the kind's service type.
func (k Kind) service() []string {
	switch k {
	case Publish:
		return []string{"_guix_publish", "_tcp"} // guix/scripts/publish.scm
	case Node:
		return []string{"_ersatz", "_tcp"}
	}
	return nil
}

// version is what the TXT record of a node says after "v=". Nodes of another
// version are not listed.
const version = "1"

// Service is what Announce tells the network.
type Service struct {
	Kind Kind

	// Instance is the name, at most 63 bytes: InstanceOf a host for Publish,
	// NewInstance for Node. If another machine has it already, " (2)" is put
	// behind it, and so on.
	Instance string

	// Listen is the address that the server listens on. Of an unspecified
	// one, such as [::]:8080, each interface's own addresses are announced;
	// 0.0.0.0 stands for those of IPv4. Any other is announced where it is.
	Listen netip.AddrPort

	// Text are further strings of the TXT record, "key=value", at most 400
	// bytes together. None are needed.
	Text []string
}

const (
	maxLabel     = 63  // bytes of an instance's name
	maxText      = 400 // bytes of Service.Text
	maxPath      = 64  // bytes of a path in a TXT record
	maxInstances = 8   // peers that one address may announce
)

// Options of Announce and New. The zero value works.
type Options struct {
	// Log takes what happens. Default: nothing is logged.
	Log *slog.Logger

	// Interfaces names the network interfaces to use. Default: all that are
	// up and know multicast, but for loopback and point-to-point ones.
	Interfaces []string

	// Self is the instance name of the own node, which is not listed. What
	// has one of this machine's addresses is left out in any case.
	Self string

	// MaxPeers bounds how many peers are known at once. Default 64.
	MaxPeers int
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxPeers <= 0 {
		o.MaxPeers = 64
	}
	return o
}

// Peer is a server that was found.
type Peer struct {
	Name string `json:"name"` // as announced, printable, at most 63 bytes
	Kind Kind   `json:"kind"`
	// URL is http://ADDRESS:PORT with the first of Addrs, and a path if the
	// peer announced one; it does not end in a slash.
	URL   string           `json:"url"`
	Addrs []netip.AddrPort `json:"addresses"` // the likeliest to work first, at most 8
	Since time.Time        `json:"since"`     // when it was found
	Seen  time.Time        `json:"seen"`      // when it was last heard of
}

// InstanceOf returns the name under which "guix publish" announces itself on
// the host, cut to what a label can hold.
func InstanceOf(host string) string { return cut("guix-publish-"+host, maxLabel) }

// cut shortens a text to at most n bytes, at a character.
func cut(s string, n int) string {
	for len(s) > n {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

// NewInstance returns a name for a node: made anew each time, and telling
// nothing of the machine.
func NewInstance() string { return "ersatz-" + strings.ToLower(rand.Text()[:13]) }

// validate reports all that is wrong with the service.
func (s Service) validate() error {
	var errs []error
	if s.Kind.service() == nil {
		errs = append(errs, fmt.Errorf("unknown kind %q", s.Kind))
	}
	if !validInstance(s.Instance) {
		errs = append(errs, fmt.Errorf("%q is no name for a service", s.Instance))
	}
	if a := s.Listen.Addr(); !a.IsValid() || s.Listen.Port() == 0 {
		errs = append(errs, fmt.Errorf("no address and port to announce: %s", s.Listen))
	} else if a.IsLoopback() {
		errs = append(errs, fmt.Errorf("nobody else can reach %s", s.Listen))
	}
	size := 0
	for _, t := range s.Text {
		size += 1 + len(t)
		if t == "" || len(t) > 255 {
			errs = append(errs, fmt.Errorf("a TXT string of %d bytes", len(t)))
		}
	}
	if size > maxText {
		errs = append(errs, fmt.Errorf("%d bytes of TXT strings, limit %d", size, maxText))
	}
	return errors.Join(errs...)
}

// text returns the strings of the service's TXT record.
func (s Service) text() []string {
	if s.Kind == Node {
		return slices.Concat([]string{"v=" + version}, s.Text)
	}
	return s.Text
}

// validInstance reports whether a name can be shown to people as it is.
func validInstance(s string) bool {
	return s != "" && len(s) <= maxLabel && utf8.ValidString(s) &&
		!strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// textValue returns the value of a key in a TXT record, of which the first
// counts (RFC 6763, "Rules for Keys in DNS-SD Key/Value Pairs").
func textValue(text []string, key string) string {
	for _, t := range text {
		if k, v, _ := strings.Cut(t, "="); strings.EqualFold(k, key) {
			return v
		}
	}
	return ""
}

// validPath reports whether a peer's path can be put before request paths: it
// is empty, or has a slash before each of its segments, of plain characters.
func validPath(p string) bool {
	if p == "" {
		return true
	}
	if len(p) > maxPath || p[0] != '/' {
		return false
	}
	for segment := range strings.SplitSeq(p[1:], "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
		for _, c := range []byte(segment) {
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0) {
				return false
			}
		}
	}
	return true
}
