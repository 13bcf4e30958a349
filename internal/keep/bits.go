package keep

import "math/bits"

// bitmap is a set of leaves. The first leaf is the most significant bit of the
// first byte.
type bitmap []byte

func (b bitmap) has(i int64) bool { return i/8 < int64(len(b)) && b[i/8]&(0x80>>(i%8)) != 0 }

// set adds a leaf; the caller has bounded i.
func (b *bitmap) set(i int64) {
	if n := i/8 + 1 - int64(len(*b)); n > 0 {
		*b = append(*b, make([]byte, n)...)
	}
	(*b)[i/8] |= 0x80 >> (i % 8)
}

// count returns how many there are.
func (b bitmap) count() (n int64) {
	for _, x := range b {
		n += int64(bits.OnesCount8(x))
	}
	return n
}
