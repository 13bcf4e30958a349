//go:build !purego

package lanes

import (
	"encoding/hex"
	"fmt"
	"testing"
)

// TestRFC7693Lanes gives the example of RFC 7693, appendix A, to each lane,
// with another message beside it. Its 3 bytes are no message for Sum256, but
// the kernel counts from where it is told.
func TestRFC7693Lanes(t *testing.T) {
	before := uint64(3)
	before -= block
	for lane := range 2 {
		h := abcState()
		var blocks [2][block]byte
		copy(blocks[1-lane][:], fmt.Sprint("another beside ", lane))
		blocks[lane] = abcBlock()
		var sums [2][32]byte
		blake2bNEON(&sums[0], &h, &[2]*byte{&blocks[0][0], &blocks[1][0]}, 1, before)
		if got := hex.EncodeToString(sums[lane][:]); got != abcSum[:64] {
			t.Errorf("lane %d: %s", lane, got)
		}
		if h != abcState() {
			t.Errorf("lane %d: the state that was given has changed", lane)
		}
	}
}
