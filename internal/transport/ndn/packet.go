package ndn

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// maxPacket is the size of the largest packet, in bytes.
const maxPacket = 8800

// Types of elements ("Packet Format", "Types"; NDNLPv2).
const (
	typeInterest      = 5
	typeData          = 6
	typeName          = 7
	typeNonce         = 10
	typeLifetime      = 12
	typeMustBeFresh   = 18
	typeMetaInfo      = 20
	typeContent       = 21
	typeSigInfo       = 22
	typeSigValue      = 23
	typeContentType   = 24
	typeFreshness     = 25
	typeFinalBlock    = 26
	typeSigType       = 27
	typeHint          = 30
	typeCanBePrefix   = 33
	typeHopLimit      = 34
	typeParameters    = 36
	typeInterestSig   = 44
	typeInterestValue = 46

	typeLink           = 100
	typeFragment       = 80
	typeFragCount      = 83
	typeToken          = 98
	typeNack           = 800
	typeNackReason     = 801
	typeCongestionMark = 832
)

// contentNack is the ContentType of Data that says that there is none.
const contentNack = 3

// Reasons of Nacks of forwarders (NDNLPv2, "Network Nack").
const (
	nackCongestion = 50
	nackDuplicate  = 100
)

// defaultLifetime is that of an Interest which does not say it ("Interest",
// "InterestLifetime").
const defaultLifetime = 4 * time.Second

// freshness is how long a cache may answer with a block: a year.
const freshness = 365 * 24 * time.Hour

// The orders in which elements must come.
var (
	orderInterest = []uint64{typeName, typeCanBePrefix, typeMustBeFresh, typeHint, typeNonce, typeLifetime, typeHopLimit,
		typeParameters, typeInterestSig, typeInterestValue}
	orderData = []uint64{typeName, typeMetaInfo, typeContent, typeSigInfo, typeSigValue}
	orderMeta = []uint64{typeContentType, typeFreshness, typeFinalBlock}
	orderNack = []uint64{typeNackReason}
)

// packet is what comes over a face: an Interest, which a forwarder may have
// given back, or Data. Its slices are parts of what was parsed.
type packet struct {
	data   bool
	name   []byte // components
	token  []byte // what an answer has to repeat, nil if nothing
	nacked bool   // a forwarder gives the Interest back
	reason uint64 // of that
	marked bool   // there is congestion on the way

	lifetime time.Duration // of an Interest

	contentType uint64 // of Data, as the rest
	content     []byte
}

// parsePacket reads a packet, alone or in a frame of NDNLPv2. A frame without a
// packet is one without a name.
func parsePacket(b []byte) (p packet, err error) {
	e, rest, err := parseElement(b)
	switch {
	case err != nil:
		return packet{}, err
	case len(rest) > 0:
		return packet{}, fmt.Errorf("%w: %d bytes follow", ErrMalformed, len(rest))
	}
	if e.typ == typeLink {
		var fragment []byte
		if fragment, err = p.parseLink(e.value); err != nil {
			return packet{}, err
		}
		if fragment == nil {
			return p, nil
		}
		if e, rest, err = parseElement(fragment); err == nil && len(rest) > 0 {
			err = fmt.Errorf("%w: %d bytes follow", ErrMalformed, len(rest))
		}
		if err != nil {
			return packet{}, err
		}
	}
	switch {
	case e.typ == typeInterest:
		err = p.parseInterest(e.value)
	case e.typ == typeData && !p.nacked:
		p.data = true
		err = p.parseData(e.value)
	default:
		err = fmt.Errorf("%w: packet of type %d", ErrMalformed, e.typ)
	}
	if err != nil {
		return packet{}, err
	}
	return p, nil
}

// parseLink reads a frame and returns what it carries, nil if nothing. Packets
// in parts are not read: no forwarder makes them where 8,800 bytes fit.
func (p *packet) parseLink(b []byte) (fragment []byte, err error) {
	for len(b) > 0 {
		e, rest, err := parseElement(b)
		if err != nil {
			return nil, err
		}
		b = rest
		switch e.typ {
		case typeFragment:
			if len(rest) > 0 {
				return nil, fmt.Errorf("%w: frame goes on after what it carries", ErrMalformed)
			}
			return e.value, nil
		case typeFragCount:
			if n, err := e.uint(); err != nil || n != 1 {
				return nil, fmt.Errorf("%w: packet in parts", ErrMalformed)
			}
		case typeToken:
			if len(e.value) == 0 || len(e.value) > 32 {
				return nil, fmt.Errorf("%w: PIT token of %d bytes", ErrMalformed, len(e.value))
			}
			p.token = e.value
		case typeNack:
			p.nacked = true
			err = children(e.value, orderNack, func(e element) error {
				p.reason, err = e.uint()
				return err
			})
		case typeCongestionMark:
			var n uint64
			n, err = e.uint()
			p.marked = n > 0
		case 81, 82, 812, 816, 820, 836, 840, 844, 848:
			// Sequence, FragIndex, IncomingFaceId, NextHopFaceId, CachePolicy,
			// Ack, TxSequence, NonDiscovery, PrefixAnnouncement.
		default:
			// "LpPacket": those that may be ignored.
			if e.typ < 800 || e.typ > 959 || e.typ%4 != 0 {
				return nil, fmt.Errorf("%w: header field of type %d", ErrMalformed, e.typ)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (p *packet) parseInterest(b []byte) error {
	p.lifetime = defaultLifetime
	return p.parseBody(b, orderInterest, func(e element) error {
		switch e.typ {
		case typeNonce:
			if len(e.value) != 4 {
				return fmt.Errorf("%w: nonce of %d bytes", ErrMalformed, len(e.value))
			}
		case typeLifetime:
			ms, err := e.uint()
			p.lifetime = time.Duration(min(ms, uint64(time.Hour/time.Millisecond))) * time.Millisecond
			return err
		}
		return nil
	})
}

func (p *packet) parseData(b []byte) error {
	signed := 0
	err := p.parseBody(b, orderData, func(e element) error {
		switch e.typ {
		case typeMetaInfo:
			return children(e.value, orderMeta, func(e element) (err error) {
				if e.typ == typeContentType {
					p.contentType, err = e.uint()
				}
				return err
			})
		case typeContent:
			p.content = e.value
		case typeSigInfo, typeSigValue:
			signed++
		}
		return nil
	})
	if err == nil && signed != 2 {
		err = fmt.Errorf("%w: Data without a signature", ErrMalformed)
	}
	return err
}

// parseBody reads elements of which the first is the name.
func (p *packet) parseBody(b []byte, order []uint64, visit func(element) error) error {
	if len(b) == 0 || b[0] != typeName {
		return fmt.Errorf("%w: begins without a name", ErrMalformed)
	}
	return children(b, order, func(e element) error {
		if e.typ == typeName {
			p.name = e.value
			return checkName(e.value)
		}
		return visit(e)
	})
}

// checkName wants components, one at least.
func checkName(name []byte) error {
	if len(name) == 0 {
		return fmt.Errorf("%w: empty name", ErrMalformed)
	}
	for len(name) > 0 {
		e, rest, err := parseElement(name)
		if err != nil {
			return err
		}
		if e.typ > 65535 {
			return fmt.Errorf("%w: name component of type %d", ErrMalformed, e.typ)
		}
		name = rest
	}
	return nil
}

// appendInterest appends an Interest in fresh Data with exactly this name.
func appendInterest(b, name []byte, nonce uint32, lifetime time.Duration) []byte {
	v := make([]byte, 0, maxPrefix)
	v = appendElement(v, typeName, name)
	v = appendElement(v, typeMustBeFresh, nil)
	v = appendElement(v, typeNonce, binary.BigEndian.AppendUint32(nil, nonce))
	if lifetime != defaultLifetime {
		v = appendUint(v, typeLifetime, uint64(lifetime.Milliseconds()))
	}
	return appendElement(b, typeInterest, v)
}

// appendBlock appends Data with a segment of a block of n segments.
func appendBlock(b, name, token, segment []byte, n int) []byte {
	meta := appendUint(make([]byte, 0, 24), typeFreshness, uint64(freshness.Milliseconds()))
	meta = appendElement(meta, typeFinalBlock, appendUint(nil, compSegment, uint64(n-1)))
	return appendData(b, name, token, meta, segment)
}

// appendAbsent appends Data that says that there is no such segment. It is
// never fresh.
func appendAbsent(b, name, token []byte) []byte {
	return appendData(b, name, token, appendUint(nil, typeContentType, contentNack), nil)
}

// appendData appends Data, signed with its digest ("Signature",
// "DigestSha256"), in a frame if it has a PIT token to repeat.
func appendData(b, name, token, meta, content []byte) []byte {
	v := make([]byte, 0, len(name)+len(meta)+len(content)+64)
	v = appendElement(v, typeName, name)
	v = appendElement(v, typeMetaInfo, meta)
	v = appendElement(v, typeContent, content)
	v = appendElement(v, typeSigInfo, []byte{typeSigType, 1, 0})
	sum := sha256.Sum256(v)
	v = appendElement(v, typeSigValue, sum[:])
	if token == nil {
		return appendElement(b, typeData, v)
	}
	data := appendElement(make([]byte, 0, len(v)+4), typeData, v)
	frame := appendElement(make([]byte, 0, len(data)+48), typeToken, token)
	frame = appendElement(frame, typeFragment, data)
	return appendElement(b, typeLink, frame)
}
