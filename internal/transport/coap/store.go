package coap

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/plgd-dev/go-coap/v3/message"
)

// The schemes of store URLs.
const (
	SchemeTCP  = "coap+tcp"
	SchemeUDP  = "coap"
	SchemeDTLS = "coaps"
)

// Store is what a store URL says: SCHEME://HOST[:PORT][/PATH][?get&put].
//
// Whoever knows the URL may do what its query says, so a path that nobody can
// guess is the permission to put blocks.
type Store struct {
	Scheme   string // SchemeTCP, SchemeUDP or SchemeDTLS
	Host     string // with the port
	Path     string // WellKnown if the URL has none; no slash at its end
	Get, Put bool   // Get alone if the URL has no query
}

// ParseStore reads a store URL.
func ParseStore(s string) (Store, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Store{}, fmt.Errorf("store URL: %w", err)
	}
	st := Store{Scheme: u.Scheme, Path: strings.TrimSuffix(u.Path, "/")}
	port := "5683" // RFC 7252, "URI Schemes"; RFC 8323 has the same
	switch u.Scheme {
	case SchemeTCP, SchemeUDP:
	case SchemeDTLS:
		port = "5684"
	default:
		return Store{}, fmt.Errorf("store URL %q: scheme is none of coap+tcp, coap and coaps", s)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port != strconv.FormatUint(n, 10) {
		return Store{}, fmt.Errorf("store URL %q: port %q is not one", s, port)
	}
	host, ok := hostOf(u)
	if !ok || u.User != nil || u.Fragment != "" {
		return Store{}, fmt.Errorf("store URL %q is not SCHEME://HOST[:PORT][/PATH][?get&put]", s)
	}
	st.Host = net.JoinHostPort(host, port)
	if st.Path == "" {
		st.Path = WellKnown
	}
	if err := checkPath(st.Path); err != nil {
		return Store{}, fmt.Errorf("store URL %q: %w", s, err)
	}
	switch u.RawQuery {
	case "", "get":
		st.Get = true
	case "put":
		st.Put = true
	case "get&put", "put&get":
		st.Get, st.Put = true, true
	default:
		return Store{}, fmt.Errorf("store URL %q: query is none of get, put and get&put", s)
	}
	return st, nil
}

// hostOf returns the host of a URL: an address, or a name, which may hold
// letters, digits, dots, hyphens and underscores.
func hostOf(u *url.URL) (host string, ok bool) {
	host = u.Hostname()
	if a, err := netip.ParseAddr(host); err == nil {
		return a.String(), true
	}
	host = strings.ToLower(host)
	odd := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_')
	}
	return host, host != "" && len(host) <= 255 && !strings.ContainsFunc(host, odd)
}

// String returns the URL, which ParseStore reads. It holds the path, which may
// be a secret.
func (s Store) String() string {
	u := url.URL{Scheme: s.Scheme, Host: s.Host, Path: s.Path}
	switch {
	case s.Get && s.Put:
		u.RawQuery = "get&put"
	case s.Put:
		u.RawQuery = "put"
	default:
		u.RawQuery = "get"
	}
	return u.String()
}

// maxSegments bounds the path of a store, below what maxOptions leaves.
const maxSegments = 16

// checkPath refuses what cannot be sent as Uri-Path options, one per segment,
// or what would be another path then (RFC 7252, "Uri-Host, Uri-Port, Uri-Path,
// and Uri-Query").
func checkPath(path string) error {
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("path %q does not begin with a slash", path)
	}
	segments := strings.Split(path[1:], "/")
	if len(segments) > maxSegments {
		return fmt.Errorf("path has more than %d segments", maxSegments)
	}
	for _, s := range segments {
		if s == "" || s == "." || s == ".." || len(s) > 255 {
			return fmt.Errorf("path has a segment %.20q", s)
		}
	}
	return nil
}

// options returns those that name the blocks of the store: its host, unless
// that is an address, and its path.
func (s Store) options() message.Options {
	var o message.Options
	if host, _, err := net.SplitHostPort(s.Host); err == nil {
		if _, err := netip.ParseAddr(host); err != nil {
			o = append(o, message.Option{ID: message.URIHost, Value: []byte(host)})
		}
	}
	for segment := range strings.SplitSeq(s.Path[1:], "/") {
		o = append(o, message.Option{ID: message.URIPath, Value: []byte(segment)})
	}
	return append(o, message.Option{ID: message.URIPath, Value: []byte(resource)})
}
