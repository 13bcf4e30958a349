package discover

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
)

// Types of records (RFC 1035, RFC 2782, RFC 3596).
const (
	typeA    = 1
	typePTR  = 12
	typeTXT  = 16
	typeAAAA = 28
	typeSRV  = 33
	typeANY  = 255
)

const (
	classIN = 1

	// topBit of a class is no part of it (RFC 6762, "Repurposing of Top Bit
	// of qclass in Question Section" and "... of rrclass in Resource Record
	// Sections").
	topBit = 1 << 15

	flagResponse  = 1 << 15
	flagAuthority = 1 << 10
	maskCodes     = 0x780f // opcode and rcode: a message with either is ignored

	maxName    = 255  // bytes of a name
	maxPacket  = 9000 // bytes of a message (RFC 6762, "Multicast DNS Message Size")
	maxSend    = 1400 // bytes of a message of ours
	maxRecords = 256  // records and questions of a message
	headerSize = 12
)

// errFormat means that a message breaks the rules of DNS or the limits above.
var errFormat = errors.New("malformed DNS message")

// name is a domain name as it is sent, without compression: each label behind
// its length, and a zero. Labels may hold any byte, dots too.
type name string

// makeName returns the name with these labels, each of 1 to 63 bytes.
func makeName(labels ...string) name {
	var b strings.Builder
	for _, l := range labels {
		b.WriteByte(byte(len(l)))
		b.WriteString(l)
	}
	b.WriteByte(0)
	return name(b.String())
}

// fold returns the name in lower case, as names are compared. No length is as
// large as a letter.
func (n name) fold() name {
	b := []byte(n)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return name(b)
}

// split takes off the first label. The root yields nothing.
func (n name) split() (label string, rest name) {
	if len(n) < 2 {
		return "", ""
	}
	end := 1 + int(n[0])
	return string(n[1:end]), n[end:]
}

// message is what is used of a DNS message.
type message struct {
	response  bool
	questions []question
	answers   []record // and additional records
	authority []record // what somebody means to announce
}

type question struct {
	name name
	kind uint16
}

// record is a resource record of a known type and class IN.
type record struct {
	name   name
	kind   uint16
	flush  bool   // what else is known under this name and type is outdated
	ttl    uint32 // seconds; 0 says goodbye
	target name   // PTR, SRV
	port   uint16 // SRV
	addr   netip.Addr
	text   []string // TXT, without empty strings
}

// parse reads a message. Records of other types and classes are left out; a
// message that is not understood yields an empty one. The error is errFormat.
func parse(b []byte) (message, error) {
	if len(b) < headerSize || len(b) > maxPacket {
		return message{}, errFormat
	}
	flags := binary.BigEndian.Uint16(b[2:])
	if flags&maskCodes != 0 {
		return message{}, nil
	}
	m := message{response: flags&flagResponse != 0}
	var counts [4]int
	total := 0
	for i := range counts {
		counts[i] = int(binary.BigEndian.Uint16(b[4+2*i:]))
		total += counts[i]
	}
	if total > maxRecords {
		return message{}, errFormat
	}
	r := reader{msg: b, off: headerSize}
	for range counts[0] {
		n, err := r.name()
		if err != nil {
			return message{}, err
		}
		fixed, err := r.bytes(4)
		if err != nil {
			return message{}, err
		}
		if binary.BigEndian.Uint16(fixed[2:])&^topBit == classIN {
			m.questions = append(m.questions, question{n, binary.BigEndian.Uint16(fixed)})
		}
	}
	for section, count := range counts[1:] {
		for range count {
			rec, known, err := r.record()
			switch {
			case err != nil:
				return message{}, err
			case known && section == 1:
				m.authority = append(m.authority, rec)
			case known:
				m.answers = append(m.answers, rec)
			}
		}
	}
	return m, nil
}

// reader reads a message from off on.
type reader struct {
	msg []byte
	off int
}

func (r *reader) bytes(n int) ([]byte, error) {
	if len(r.msg)-r.off < n {
		return nil, errFormat
	}
	r.off += n
	return r.msg[r.off-n : r.off], nil
}

// name reads a name (RFC 1035, "Message compression"). Each pointer must lead
// to before the place that the last one led to, so there is an end.
func (r *reader) name() (name, error) {
	var out []byte
	off, limit, end := r.off, r.off, -1
	for off < len(r.msg) {
		c := int(r.msg[off])
		switch {
		case c == 0:
			if end < 0 {
				end = off + 1
			}
			r.off = end
			return name(append(out, 0)), nil
		case c <= maxLabel:
			if off+1+c > len(r.msg) || len(out)+1+c+1 > maxName {
				return "", errFormat
			}
			out = append(out, r.msg[off:off+1+c]...)
			off += 1 + c
		case c >= 0xc0 && off+1 < len(r.msg):
			if end < 0 {
				end = off + 2
			}
			off = (c&0x3f)<<8 | int(r.msg[off+1])
			if off >= limit {
				return "", errFormat
			}
			limit = off
		default:
			return "", errFormat
		}
	}
	return "", errFormat
}

// record reads a record and reports whether its type and class are known.
func (r *reader) record() (record, bool, error) {
	n, err := r.name()
	if err != nil {
		return record{}, false, err
	}
	fixed, err := r.bytes(10)
	if err != nil {
		return record{}, false, err
	}
	class := binary.BigEndian.Uint16(fixed[2:])
	rec := record{name: n, kind: binary.BigEndian.Uint16(fixed), flush: class&topBit != 0, ttl: binary.BigEndian.Uint32(fixed[4:])}
	size := int(binary.BigEndian.Uint16(fixed[8:]))
	start := r.off
	if _, err := r.bytes(size); err != nil {
		return record{}, false, err
	}
	if class&^topBit != classIN {
		return record{}, false, nil
	}
	data := reader{msg: r.msg[:r.off], off: start}
	known, err := data.fill(&rec, size)
	if err != nil || known && data.off != r.off {
		return record{}, false, errFormat
	}
	return rec, known, nil
}

// fill reads the data of a record, of size bytes.
func (r *reader) fill(rec *record, size int) (known bool, err error) {
	switch rec.kind {
	case typePTR:
		rec.target, err = r.name()
	case typeSRV:
		var fixed []byte
		if fixed, err = r.bytes(6); err == nil { // priority, weight, port
			rec.port = binary.BigEndian.Uint16(fixed[4:])
			rec.target, err = r.name()
		}
	case typeTXT:
		for r.off < len(r.msg) && err == nil {
			var s []byte
			if s, err = r.bytes(1); err == nil {
				s, err = r.bytes(int(s[0]))
			}
			if len(s) > 0 && err == nil {
				rec.text = append(rec.text, string(s))
			}
		}
	case typeA, typeAAAA:
		var b []byte
		b, err = r.bytes(size)
		var ok bool
		if rec.addr, ok = netip.AddrFromSlice(b); !ok || rec.addr.Is4() != (rec.kind == typeA) {
			err = errFormat
		}
	default:
		return false, nil
	}
	return true, err
}

// append writes the message behind b, without compression.
func (m message) append(b []byte) []byte {
	var flags uint16
	if m.response {
		flags = flagResponse | flagAuthority
	}
	b = binary.BigEndian.AppendUint16(b, 0)
	for _, n := range []uint16{flags, uint16(len(m.questions)), uint16(len(m.answers)), uint16(len(m.authority)), 0} {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	for _, q := range m.questions {
		b = append(b, q.name...)
		b = binary.BigEndian.AppendUint16(b, q.kind)
		b = binary.BigEndian.AppendUint16(b, classIN)
	}
	for _, section := range [][]record{m.answers, m.authority} {
		for _, rec := range section {
			b = rec.append(b)
		}
	}
	return b
}

func (rec record) append(b []byte) []byte {
	b = append(b, rec.name...)
	b = binary.BigEndian.AppendUint16(b, rec.kind)
	class := uint16(classIN)
	if rec.flush {
		class |= topBit
	}
	b = binary.BigEndian.AppendUint16(b, class)
	b = binary.BigEndian.AppendUint32(b, rec.ttl)
	data := rec.data()
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// data returns what stands behind the length of a record.
func (rec record) data() []byte {
	var b []byte
	switch rec.kind {
	case typePTR:
		b = append(b, rec.target...)
	case typeSRV:
		b = binary.BigEndian.AppendUint16(append(b, 0, 0, 0, 0), rec.port)
		b = append(b, rec.target...)
	case typeTXT:
		for _, s := range rec.text {
			b = append(append(b, byte(len(s))), s...)
		}
		if len(b) == 0 {
			b = append(b, 0) // RFC 6763, "General Format Rules for DNS TXT Records"
		}
	case typeA, typeAAAA:
		b = append(b, rec.addr.AsSlice()...)
	}
	return b
}
