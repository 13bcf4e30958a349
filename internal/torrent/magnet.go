package torrent

import (
	"crypto/sha1"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Limits of ParseMagnet.
const (
	// MaxMagnet bounds the text, in bytes.
	MaxMagnet = 16 << 10
	// MaxSources bounds each list of a Magnet.
	MaxSources = 32
)

const (
	magnetPrefix = "magnet:?"
	btih         = "urn:btih:"
)

// Magnet is a magnet link of a torrent (BEP 9, "magnet URI format"; web seeds
// and exact sources as in BEP 53's list of parameters).
type Magnet struct {
	Hash     [sha1.Size]byte // xt, the info hash
	Name     string          // dn, "" if there is none
	Trackers []string        // tr: URLs, http, https or udp
	WebSeeds []string        // ws: URLs, http or https
	Sources  []string        // xs: URLs of the .torrent, http or https
	Peers    []string        // x.pe: HOST:PORT
}

// ParseMagnet reads a magnet link. It passes over parameters that have no
// meaning here, and over URLs and peers that nothing here could ask. The error
// matches ErrMalformed.
func ParseMagnet(s string) (Magnet, error) {
	if len(s) > MaxMagnet {
		return Magnet{}, fmt.Errorf("%w: magnet link of %d bytes, limit %d", ErrMalformed, len(s), MaxMagnet)
	}
	query, ok := strings.CutPrefix(s, magnetPrefix)
	if !ok {
		return Magnet{}, fmt.Errorf("%w: %.80q does not begin with %s", ErrMalformed, s, magnetPrefix)
	}
	var m Magnet
	hashed := false
	for param := range strings.SplitSeq(query, "&") {
		name, text, _ := strings.Cut(param, "=")
		value, err := url.QueryUnescape(text)
		if err != nil {
			return Magnet{}, fmt.Errorf("%w: magnet link: %w", ErrMalformed, err)
		}
		switch name {
		case "xt":
			text, ok := strings.CutPrefix(value, btih)
			if !ok {
				continue // of another network
			}
			h, err := parseHash(text)
			if err != nil {
				return Magnet{}, err
			}
			if hashed && h != m.Hash {
				return Magnet{}, fmt.Errorf("%w: magnet link of two torrents", ErrMalformed)
			}
			m.Hash, hashed = h, true
		case "dn":
			m.Name = value
		case "tr":
			err = add(&m.Trackers, name, value, isURL(value, "http", "https", "udp"))
		case "ws":
			err = add(&m.WebSeeds, name, value, isURL(value, "http", "https"))
		case "xs":
			err = add(&m.Sources, name, value, isURL(value, "http", "https"))
		case "x.pe":
			err = add(&m.Peers, name, value, isPeer(value))
		}
		if err != nil {
			return Magnet{}, err
		}
	}
	if !hashed {
		return Magnet{}, fmt.Errorf("%w: magnet link without xt=%s", ErrMalformed, btih)
	}
	return m, nil
}

// parseHash reads an info hash, 40 characters of hexadecimal or 32 of Base32.
func parseHash(text string) (h [sha1.Size]byte, err error) {
	var b []byte
	if len(text) == base32.StdEncoding.EncodedLen(len(h)) {
		b, err = base32.StdEncoding.DecodeString(strings.ToUpper(text))
	} else {
		b, err = hex.DecodeString(text)
	}
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("%w: %.80q is no info hash", ErrMalformed, text)
	}
	return [sha1.Size]byte(b), nil
}

// add adds a value to a list that does not have it.
func add(list *[]string, name, value string, ok bool) error {
	if !ok || slices.Contains(*list, value) {
		return nil
	}
	if len(*list) == MaxSources {
		return fmt.Errorf("%w: magnet link with more than %d of %s", ErrMalformed, MaxSources, name)
	}
	*list = append(*list, value)
	return nil
}

// isURL reports whether a text is a URL of one of the schemes.
func isURL(s string, schemes ...string) bool {
	u, err := url.Parse(s)
	return err == nil && slices.Contains(schemes, u.Scheme) && u.Hostname() != "" && u.User == nil
}

// isPeer reports whether a text is HOST:PORT, with an IPv6 address in brackets.
func isPeer(s string) bool {
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a.Port() > 0 && a.Addr().Zone() == ""
	}
	host, port, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(port, 10, 16)
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-"
	return ok && err == nil && n > 0 && host != "" && strings.Trim(host, letters) == ""
}

// String returns the link. What it has reads as m again.
func (m Magnet) String() string {
	var b strings.Builder
	b.WriteString(magnetPrefix + "xt=" + btih + hex.EncodeToString(m.Hash[:]))
	if m.Name != "" {
		b.WriteString("&dn=" + url.QueryEscape(m.Name))
	}
	for _, list := range []struct {
		name   string
		values []string
	}{{"tr", m.Trackers}, {"ws", m.WebSeeds}, {"xs", m.Sources}} {
		for _, v := range list.values {
			b.WriteString("&" + list.name + "=" + url.QueryEscape(v))
		}
	}
	for _, p := range m.Peers {
		b.WriteString("&x.pe=" + p) // as it is: other programs take no escapes here
	}
	return b.String()
}
