package ndn

import (
	"bytes"
	"fmt"
	"net/url"
	"strings"

	"ersatz/eris"
)

// Types of name components ("Name", and NDN Naming Conventions, revision 3).
const (
	compGeneric = 8
	compKeyword = 32
	compSegment = 50
)

// DefaultPrefix is where blocks are, unless told otherwise.
const DefaultPrefix = "/eris"

// scheme is the component that tells names of this version.
const scheme = "eris1"

// maxPrefix bounds a prefix in bytes, so that a segment with its name is a
// packet.
const maxPrefix = 256

// segmentSize is how many bytes of a block of 32 KiB a Data packet has.
const segmentSize = 8 << 10

// segments returns how many segments a block has.
func segments(size int) int { return max(1, size/segmentSize) }

// namespace is the encoded components that all names of blocks begin with.
type namespace []byte

// parsePrefix reads a prefix as URIs have it ("NDN URI Scheme"): generic
// components, which may have bytes in percent.
func parsePrefix(s string) (namespace, error) {
	var ns namespace
	if !strings.HasPrefix(s, "/") || len(s) > 3*maxPrefix {
		return nil, fmt.Errorf("ndn: prefix %.80q is not like %s", s, DefaultPrefix)
	}
	for part := range strings.SplitSeq(strings.TrimSuffix(s[1:], "/"), "/") {
		c, err := url.PathUnescape(part)
		if err != nil || strings.Trim(part, ".") == "" || strings.ContainsAny(part, "=?#") {
			return nil, fmt.Errorf("ndn: prefix %q has a component %q, which is not a plain one", s, part)
		}
		ns = appendElement(ns, compGeneric, []byte(c))
	}
	if len(ns) > maxPrefix {
		return nil, fmt.Errorf("ndn: prefix %q is longer than %d bytes", s, maxPrefix)
	}
	return appendElement(ns, compKeyword, []byte(scheme)), nil
}

// place is a segment of a block.
type place struct {
	ref eris.Ref
	seg uint8
}

// appendName appends the components of the name of a segment.
func (ns namespace) appendName(b []byte, p place) []byte {
	b = append(b, ns...)
	b = appendElement(b, compGeneric, p.ref[:])
	return appendUint(b, compSegment, uint64(p.seg))
}

// parse reads what appendName writes.
func (ns namespace) parse(name []byte) (p place, ok bool) {
	rest, ok := bytes.CutPrefix(name, ns)
	if !ok || len(rest) != 2+len(p.ref)+3 {
		return place{}, false
	}
	head, tail := rest[:2+len(p.ref)], rest[2+len(p.ref):]
	if head[0] != compGeneric || int(head[1]) != len(p.ref) || tail[0] != compSegment || tail[1] != 1 {
		return place{}, false
	}
	copy(p.ref[:], head[2:])
	p.seg = tail[2]
	return p, true
}
