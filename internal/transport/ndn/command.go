package ndn

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// Types of elements of NFD Management ("Control Command").
const (
	typeResponse   = 101
	typeStatusCode = 102
	typeStatusText = 103
	typeControl    = 104
)

// Those of signed Interests ("Signature"), and the last component of a name of
// an Interest with parameters.
const (
	typeSigNonce   = 38
	typeSigTime    = 40
	compParameters = 2
)

// appendRegister appends the command that registers a prefix at a forwarder, a
// signed Interest ("RIB Management", "Register a route"; "Signed Interest"). It
// returns the components of its name, too. DigestSha256 signs for no one: the
// forwarder goes by whose connection it is.
func appendRegister(b []byte, local bool, ns namespace, nonce [8]byte, now time.Time) (packet, name []byte) {
	scope := "localhop"
	if local {
		scope = "localhost"
	}
	for _, c := range []string{scope, "nfd", "rib", "register"} {
		name = appendElement(name, compGeneric, []byte(c))
	}
	control := appendElement(nil, typeControl, appendElement(nil, typeName, ns))
	name = appendElement(name, compGeneric, control)

	info := appendUint(nil, typeSigType, 0) // DigestSha256
	info = appendElement(info, typeSigNonce, nonce[:])
	info = appendUint(info, typeSigTime, uint64(now.UnixMilli()))
	params := appendElement(nil, typeParameters, nil)
	params = appendElement(params, typeInterestSig, info)
	h := sha256.New()
	h.Write(name)
	h.Write(params)
	params = appendElement(params, typeInterestValue, h.Sum(nil))
	digest := sha256.Sum256(params)
	name = appendElement(name, compParameters, digest[:])

	v := appendElement(nil, typeName, name)
	v = appendElement(v, typeMustBeFresh, nil)
	v = appendElement(v, typeNonce, nonce[:4])
	v = append(v, params...)
	return appendElement(b, typeInterest, v), name
}

// RefusedError says that a forwarder did not do what it was told.
type RefusedError struct {
	Status uint64 // 403: it may not be done
	Text   string // the forwarder's words
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("forwarder refuses the prefix: %d %.200q", e.Status, e.Text)
}

// parseResponse reads the content of the answer to a command. An error is
// ErrMalformed or a *RefusedError.
func parseResponse(content []byte) error {
	e, rest, err := parseElement(content)
	if err != nil {
		return err
	}
	if e.typ != typeResponse || len(rest) > 0 {
		return fmt.Errorf("%w: element of type %d is no response", ErrMalformed, e.typ)
	}
	var refused RefusedError
	err = children(e.value, []uint64{typeStatusCode, typeStatusText, typeControl}, func(e element) (err error) {
		switch e.typ {
		case typeStatusCode:
			refused.Status, err = e.uint()
		case typeStatusText:
			refused.Text = string(bytes.ToValidUTF8(e.value, nil))
		}
		return err
	})
	if err != nil {
		return err
	}
	if refused.Status != 200 {
		return &refused
	}
	return nil
}

// nonceOf makes a nonce out of a number.
func nonceOf(n uint64) (nonce [8]byte) {
	binary.BigEndian.PutUint64(nonce[:], n)
	return nonce
}
