package lanes

import (
	"crypto/sha256"
	"fmt"
)

// sha256Lanes is how many messages the widest kernel of any processor hashes at
// once.
const sha256Lanes = 16

// Pieces is one message: its parts one after the other, each of any length, 0
// too.
type Pieces [3][]byte

// SHA256Width returns how many messages SumsSHA256 hashes at once at full speed
// on this machine: 16, 8, or 1, if it only calls crypto/sha256 for one after the
// other.
func SHA256Width() int { return here.sha256Width() }

// SumsSHA256 sets sums[i] to SHA-256 (FIPS 180-4) of msgs[i]. There may be any
// number of messages, of any lengths. Those that are at work at the same time
// are the longest that are left, so calls with several times SHA256Width of
// them, or of like lengths, are the fastest. Another number of sums than of
// messages is a bug of the caller's, and it panics. It keeps nothing of
// msgs, allocates nothing, and is safe for concurrent use.
func SumsSHA256(sums [][32]byte, msgs []Pieces) { sumsSHA256(here, sums, msgs) }

func sumsSHA256(l level, sums [][32]byte, msgs []Pieces) {
	if len(sums) != len(msgs) {
		panic(fmt.Sprintf("lanes: %d sums for %d messages", len(sums), len(msgs)))
	}
	l.sumsSHA256(sums, msgs)
}

// portableSHA256 hashes one message after another.
func portableSHA256(sums [][32]byte, msgs []Pieces) {
	for i := range msgs {
		h := sha256.New()
		for _, p := range msgs[i] {
			h.Write(p)
		}
		h.Sum(sums[i][:0])
	}
}
