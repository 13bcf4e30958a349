package node

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"ersatz/internal/keep"
	"ersatz/narinfo"
)

// Share says with whom a node shares what it keeps.
type Share int

// The profiles of docs/node.md, "Sharing".
const (
	ShareNone Share = iota // this machine alone
	ShareLAN               // private and link-local addresses
	ShareAll               // everyone
)

// ParseShare reads none, lan or all.
func ParseShare(s string) (Share, error) {
	for _, share := range []Share{ShareNone, ShareLAN, ShareAll} {
		if s == share.String() {
			return share, nil
		}
	}
	return 0, fmt.Errorf("%q is none of none, lan and all", s)
}

// String returns what ParseShare reads.
func (s Share) String() string { return [...]string{"none", "lan", "all"}[s] }

// serves reports whether a profile serves a client at an address.
func (s Share) serves(client netip.Addr) bool {
	switch s {
	case ShareLAN:
		return client.IsPrivate() || client.IsLinkLocalUnicast() // IsPrivate: unique-local too
	case ShareAll:
		return client.IsValid()
	}
	return false
}

// client returns the address of who makes a request, and whether it is this
// machine: loopback, or the very address that the connection came to.
func client(r *http.Request) (addr netip.Addr, local bool) {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, false
	}
	addr = remote.Addr().Unmap().WithZone("")
	if addr.IsLoopback() {
		return addr, true
	}
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		own, err := netip.ParseAddrPort(a.String())
		return addr, err == nil && own.Addr().Unmap().WithZone("") == addr
	}
	return addr, false
}

// Shares reports whether an item is one that others may have: its narinfo is
// signed by a key of the share list. magnet is the link that is signed with it, ""
// if there is none.
func (k Keys) Shares(item keep.Item) (magnet string, ok bool) {
	n, err := narinfo.Parse(item.Narinfo)
	if err != nil {
		return "", false
	}
	s, err := k.Verify(n)
	if err != nil || s.StorePath != item.Path || s.NarHash != item.NarHash {
		return "", false
	}
	if item.Signed {
		magnet = s.ERISMagnet
	}
	return magnet, true
}

// Digest returns a name of the keys that others do not have, and of the way in which
// Shares judges by them.
func (k Keys) Digest() string {
	h := sha256.New()
	h.Write([]byte("ersatz shares 1\n"))
	h.Write(k.Guix.Text())
	for _, key := range k.Nix {
		h.Write([]byte(key.String() + "\n"))
	}
	return hex.EncodeToString(h.Sum(nil))
}
