//go:build (!amd64 && !arm64) || purego

package lanes

// level is an implementation.
type level int

const portable level = 0

// here is the best level of this machine.
const here = portable

func (level) String() string { return "portable" }

func (level) width() int { return 1 }

func (level) sum256(sums [][32]byte, key *[32]byte, msgs [][]byte) {
	portableSum(sums, key, msgs[:len(sums)])
}

func (level) chacha20(dst, src []byte, key *[32]byte, nonce *[12]byte) {
	portableChaCha20(dst, src, key, nonce)
}

// levels returns those that this machine has.
func levels() []level { return []level{portable} }

func (level) sha256Width() int { return 1 }

func (level) sumsSHA256(sums [][32]byte, msgs []Pieces) { portableSHA256(sums, msgs) }
