//go:build linux

package lanes

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// guarded returns a place for n bytes that ends, or begins, where the next page
// must not be touched. n is at most a page.
func guarded(t *testing.T, n int, atEnd bool) []byte {
	t.Helper()
	page := os.Getpagesize()
	b, err := unix.Mmap(-1, 0, 3*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(b); err != nil {
			t.Error(err)
		}
	})
	for _, outer := range [][]byte{b[:page], b[2*page:]} {
		if err := unix.Mprotect(outer, unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	if atEnd {
		return b[2*page-n : 2*page : 2*page]
	}
	return b[page : page+n : page+n]
}

// TestGuarded has each message, sum, key and text at the edge of what may be
// read. A byte beyond it would end the test with a fault.
func TestGuarded(t *testing.T) {
	each(t, func(t *testing.T, l level) {
		for _, atEnd := range []bool{false, true} {
			t.Run(fmt.Sprintf("end=%v", atEnd), func(t *testing.T) {
				r := rand.NewChaCha8([32]byte{3})
				put := func(n int) []byte {
					b := guarded(t, n, atEnd)
					r.Read(b)
					return b
				}
				key := (*[32]byte)(put(32))
				for _, n := range []int{1, 2, 4, 5, 8, 15} {
					msgs := make([][]byte, n)
					for i := range msgs {
						msgs[i] = put(1024)
					}
					one := put(32 * n)
					sums := make([][32]byte, n)
					sum256(l, sums[:n/2], key, msgs) // the others are fetched ahead
					sum256(l, sums, key, msgs)
					for i, m := range msgs {
						copy(one[32*i:], sums[i][:])
						if sums[i] != want(t, key, m) {
							t.Fatalf("sum %d of %d is wrong", i, n)
						}
					}
				}
				nonce := (*[12]byte)(put(12))
				for _, n := range []int{64, 512, 576, 1024, 2048 + 64} {
					src, dst := put(n), put(n)
					right := wantXOR(t, src, key, nonce)
					chacha20(l, dst, src, key, nonce)
					if !bytes.Equal(dst, right) {
						t.Fatalf("%d bytes are wrong", n)
					}
				}
			})
		}
	})
}

// TestSHA256Guarded has each piece of each message at the edge of what may be
// read.
func TestSHA256Guarded(t *testing.T) {
	eachSHA256(t, func(t *testing.T, k sha256Kind) {
		for _, atEnd := range []bool{false, true} {
			t.Run(fmt.Sprintf("end=%v", atEnd), func(t *testing.T) {
				r := rand.NewChaCha8([32]byte{7})
				msgs := make([]Pieces, 20)
				for i := range msgs {
					for j, n := range [3]int{i * 11, 64 * i, 70} {
						msgs[i][j] = guarded(t, n, atEnd)
						r.Read(msgs[i][j])
					}
				}
				for n := range msgs {
					k.check(t, msgs[:n+1])
				}
			})
		}
	})
}
