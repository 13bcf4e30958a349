//go:build !purego

package lanes

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestRFC7693Lanes gives the example of RFC 7693, appendix A, to each lane of
// each kernel, with other messages beside it. Its 3 bytes are no message for
// Sum256, but the kernels count from where they are told.
func TestRFC7693Lanes(t *testing.T) {
	before := uint64(3)
	before -= block
	each(t, func(t *testing.T, l level) {
		for width := 4; width <= l.width(); width *= 2 {
			for lane := range width {
				h := abcState()
				var blocks [MaxWidth][block]byte
				var msgs [MaxWidth]*byte
				for i := range msgs {
					copy(blocks[i][:], fmt.Sprint("another ", i))
					msgs[i] = &blocks[i][0]
				}
				blocks[lane] = abcBlock()
				var sums [MaxWidth][32]byte
				l.lanes(width, &sums[0], &h, &msgs, &msgs, 1, before)
				if got := hex.EncodeToString(sums[lane][:]); got != abcSum[:64] {
					t.Errorf("lane %d of %d: %s", lane, width, got)
				}
				if h != abcState() {
					t.Errorf("lane %d of %d: the state that was given has changed", lane, width)
				}
			}
		}
	})
}

// TestRFC7693One does so for one message, whole and in two parts.
func TestRFC7693One(t *testing.T) {
	before := uint64(3)
	before -= block
	each(t, func(t *testing.T, l level) {
		if l < avx2 {
			t.Skip("has no such kernel")
		}
		h, b := abcState(), abcBlock()
		l.one(&h, &b[0], 1, before, ^uint64(0))
		var sum [32]byte
		digest(&sum, &h)
		if got := hex.EncodeToString(sum[:]); got != abcSum[:64] {
			t.Errorf("BLAKE2b-512 of abc begins %s", got)
		}
		msg := make([]byte, 5*block)
		h = parameters(nil)
		l.one(&h, &msg[0], 2, 0, 0)
		l.one(&h, &msg[2*block], 3, 2*block, ^uint64(0))
		digest(&sum, &h)
		if sum != want(t, nil, msg) {
			t.Error("a message in two parts is wrong")
		}
	})
}

// moreSHA256 returns the kernels, as long as any message is left for them.
func moreSHA256() (kinds []sha256Kind) {
	for _, l := range levels() {
		for _, sha := range []bool{false, true} {
			if width, fewest := l.sha256Plan(sha); width > 1 {
				kinds = append(kinds, sha256Kind{fmt.Sprintf("%v,sha=%v", l, sha), func(sums [][32]byte, msgs []Pieces) {
					l.laneSHA256(width, fewest, sums, msgs)
				}})
			}
		}
	}
	return kinds
}

// TestHasSHA asks the kernel of the system too.
func TestHasSHA(t *testing.T) {
	if here < avx2 {
		t.Skip("without AVX2 it does not matter")
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Skip(err)
	}
	flags, _, _ := strings.Cut(string(info), "\n\n")
	if want := strings.Contains(flags, " sha_ni"); hasSHA() != want {
		t.Errorf("SHA: %v, the system says %v", hasSHA(), want)
	}
}
