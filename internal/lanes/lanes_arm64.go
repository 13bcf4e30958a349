//go:build !purego

package lanes

// level is an implementation.
type level int

const (
	portable level = iota
	neon           // 2 messages; x/crypto's ChaCha20 has assembly
)

// here is the best level of this machine: every arm64 has it.
const here = neon

func levels() []level { return []level{portable, neon} }

func (l level) String() string { return [...]string{"portable", "neon"}[l] }

func (l level) width() int { return [...]int{1, 2}[l] }

// blake2bNEON sets the 2 sums at sums to those of as many messages of so many
// blocks, from state h after t bytes on.
//
//go:noescape
func blake2bNEON(sums *[32]byte, h *[8]uint64, msgs *[2]*byte, blocks int, t uint64)

func (l level) sum256(sums [][32]byte, key *[32]byte, msgs [][]byte) {
	msgs = msgs[:len(sums)] // those behind are for who fetches ahead
	if l == neon && len(msgs) > 1 {
		h, t := start(key)
		for ; len(msgs) > 1; sums, msgs = sums[2:], msgs[2:] {
			p := [2]*byte{&msgs[0][0], &msgs[1][0]}
			blake2bNEON(&sums[0], &h, &p, len(msgs[0])/block, t)
		}
	}
	portableSum(sums, key, msgs)
}

func (level) chacha20(dst, src []byte, key *[32]byte, nonce *[12]byte) {
	portableChaCha20(dst, src, key, nonce)
}

func (level) sha256Width() int { return 1 }

func (level) sumsSHA256(sums [][32]byte, msgs []Pieces) { portableSHA256(sums, msgs) }
