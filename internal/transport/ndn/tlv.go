package ndn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrMalformed is matched by errors of what is no packet, or none that this
// package has to understand.
var ErrMalformed = errors.New("malformed packet")

// appendNumber appends a type or a length in its shortest form ("TLV
// Encoding", "Variable Size Encoding for Type and Length").
func appendNumber(b []byte, n uint64) []byte {
	switch {
	case n < 253:
		return append(b, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, 253), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, 254), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, 255), n)
}

// parseNumber reads what appendNumber writes, and returns how many bytes that
// is: 0 if b ends before. Longer forms are refused, as the text demands.
func parseNumber(b []byte) (n uint64, size int, err error) {
	if len(b) == 0 {
		return 0, 0, nil
	}
	least := uint64(0)
	switch size = 1; b[0] {
	case 253:
		size, least = 3, 253
	case 254:
		size, least = 5, math.MaxUint16+1
	case 255:
		size, least = 9, math.MaxUint32+1
	}
	if len(b) < size {
		return 0, 0, nil
	}
	if size == 1 {
		return uint64(b[0]), size, nil
	}
	for _, d := range b[1:size] {
		n = n<<8 | uint64(d)
	}
	if n < least {
		return 0, 0, fmt.Errorf("%w: number %d in %d bytes", ErrMalformed, n, size)
	}
	return n, size, nil
}

// element is a type, and a value that is part of what was parsed.
type element struct {
	typ   uint64
	value []byte
}

// parseElement reads the first element of b and returns what follows it.
func parseElement(b []byte) (e element, rest []byte, err error) {
	typ, n, err := parseNumber(b)
	if err != nil {
		return element{}, nil, err
	}
	length, m, err := parseNumber(b[n:])
	switch {
	case err != nil:
		return element{}, nil, err
	case n == 0 || m == 0 || length > uint64(len(b)-n-m):
		return element{}, nil, fmt.Errorf("%w: ends within an element", ErrMalformed)
	case typ == 0 || typ > math.MaxUint32:
		return element{}, nil, fmt.Errorf("%w: type %d", ErrMalformed, typ)
	}
	b = b[n+m:]
	return element{typ, b[:length]}, b[length:], nil
}

// appendElement appends an element.
func appendElement(b []byte, typ uint64, value []byte) []byte {
	b = appendNumber(b, typ)
	b = appendNumber(b, uint64(len(value)))
	return append(b, value...)
}

// critical reports whether a packet with an element that is not known, or is at
// the wrong place, must be refused ("Considerations for Evolvability of
// TLV-Based Encoding").
func critical(typ uint64) bool { return typ < 32 || typ%2 == 1 }

// children calls visit for each element of b whose type is in order, which is
// the order that they must have, each at most once. Others are passed over, or
// refused if they are critical.
func children(b []byte, order []uint64, visit func(element) error) error {
	next := 0
	for len(b) > 0 {
		e, rest, err := parseElement(b)
		if err != nil {
			return err
		}
		b = rest
		at := next
		for at < len(order) && order[at] != e.typ {
			at++
		}
		if at == len(order) {
			if critical(e.typ) {
				return fmt.Errorf("%w: element of type %d is not known, or not here", ErrMalformed, e.typ)
			}
			continue
		}
		next = at + 1
		if err := visit(e); err != nil {
			return err
		}
	}
	return nil
}

// appendUint appends an element with a NonNegativeInteger ("Non-Negative
// Integer Encoding").
func appendUint(b []byte, typ, n uint64) []byte {
	var v [8]byte
	binary.BigEndian.PutUint64(v[:], n)
	switch {
	case n <= math.MaxUint8:
		return appendElement(b, typ, v[7:])
	case n <= math.MaxUint16:
		return appendElement(b, typ, v[6:])
	case n <= math.MaxUint32:
		return appendElement(b, typ, v[4:])
	}
	return appendElement(b, typ, v[:])
}

// uint returns the value as a NonNegativeInteger, which need not be in its
// shortest form.
func (e element) uint() (n uint64, err error) {
	switch len(e.value) {
	case 1, 2, 4, 8:
	default:
		return 0, fmt.Errorf("%w: number of %d bytes in element of type %d", ErrMalformed, len(e.value), e.typ)
	}
	for _, d := range e.value {
		n = n<<8 | uint64(d)
	}
	return n, nil
}
