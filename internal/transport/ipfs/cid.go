package ipfs

import (
	"encoding/base32"

	"golang.org/x/crypto/blake2b"

	"ersatz/eris"
)

// Codecs of the multicodec table.
const (
	codecRaw     = 0x55
	codecDagCBOR = 0x71
)

// cid is a binary CIDv1 with a BLAKE2b-256 multihash: version 1, codec, hash
// function 0xb220 as a varint, digest length 32, digest.
type cid [38]byte

func newCID(codec byte, digest [32]byte) (c cid) {
	copy(c[:], []byte{0x01, codec, 0xa0, 0xe4, 0x02, 0x20})
	copy(c[6:], digest[:])
	return c
}

// rawCID names an ERIS block.
func rawCID(ref eris.Ref) cid { return newCID(codecRaw, ref) }

// nodeCID names a manifest node.
func nodeCID(node []byte) cid { return newCID(codecDagCBOR, blake2b.Sum256(node)) }

// digest returns the hash in a CID.
func (c cid) digest() (d [32]byte) {
	copy(d[:], c[6:])
	return d
}

// base32Lower is multibase "b": RFC 4648 Base32, lower case, no padding.
var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// String returns the CID in 62 characters of multibase "b".
func (c cid) String() string { return "b" + base32Lower.EncodeToString(c[:]) }

// CID returns the name that IPFS has for an ERIS block: CIDv1, codec raw,
// multihash BLAKE2b-256, always "bafk2bzace…".
func CID(ref eris.Ref) string { return rawCID(ref).String() }
