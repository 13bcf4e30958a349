package bitswap

import (
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"ersatz/eris"
)

// hashPrefix is what a BLAKE2b-256 multihash begins with: the function 0xb220 as
// a varint, and the digest's length.
const hashPrefix = "\xa0\xe4\x02\x20"

// toCID returns the name that IPFS has for an ERIS block: CIDv1, codec raw,
// multihash BLAKE2b-256.
func toCID(ref eris.Ref) cid.Cid {
	return cid.NewCidV1(cid.Raw, multihash.Multihash(hashPrefix+string(ref[:])))
}

// toRef returns the reference in a CID; ok is false if it is no name of a block.
func toRef(c cid.Cid) (ref eris.Ref, ok bool) {
	if !c.Defined() || c.Type() != cid.Raw || c.Version() != 1 {
		return ref, false
	}
	h := string(c.Hash())
	if len(h) != len(hashPrefix)+len(ref) || h[:len(hashPrefix)] != hashPrefix {
		return ref, false
	}
	copy(ref[:], h[len(hashPrefix):])
	return ref, true
}
