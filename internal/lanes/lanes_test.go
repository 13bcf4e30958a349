package lanes

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/crypto/blake2b"
	xchacha20 "golang.org/x/crypto/chacha20"
)

// want is BLAKE2b-256 by x/crypto.
func want(t testing.TB, key *[32]byte, msg []byte) [32]byte {
	t.Helper()
	if key == nil {
		return blake2b.Sum256(msg)
	}
	h, err := blake2b.New256(key[:])
	if err != nil {
		t.Fatal(err)
	}
	h.Write(msg)
	return [32]byte(h.Sum(nil))
}

// wantXOR is ChaCha20 by x/crypto.
func wantXOR(t testing.TB, src []byte, key *[32]byte, nonce *[12]byte) []byte {
	t.Helper()
	c, err := xchacha20.NewUnauthenticatedCipher(key[:], nonce[:])
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, len(src))
	c.XORKeyStream(dst, src)
	return dst
}

func random(r *rand.ChaCha8, n int) []byte {
	b := make([]byte, n)
	r.Read(b)
	return b
}

// each runs a test for every implementation that this machine has.
func each(t *testing.T, f func(t *testing.T, l level)) {
	for _, l := range levels() {
		t.Run(l.String(), func(t *testing.T) { f(t, l) })
	}
}

func TestSum256(t *testing.T) {
	each(t, func(t *testing.T, l level) {
		src := rand.NewChaCha8([32]byte{1})
		r := rand.New(src)
		for n := range 34 {
			blocks := 1 + r.IntN(64)
			if n == 33 {
				blocks = 512 // 64 KiB
			}
			// Each message begins at an address of its own in a common area, so
			// that it is unaligned and what is beside it is another's.
			area := random(src, n*(block*blocks+7))
			msgs := make([][]byte, n)
			for i := range msgs {
				msgs[i] = area[i*(block*blocks+7)+i%7:][:block*blocks]
			}
			key := [32]byte(random(src, 32))
			for _, k := range []*[32]byte{nil, &key, {}} {
				before := bytes.Clone(area)
				sums := make([][32]byte, n+1) // one more, to stay zero
				sum256(l, sums[:n], k, msgs)
				for i, m := range msgs {
					if sums[i] != want(t, k, m) {
						t.Fatalf("%d messages of %d bytes, keyed %v: sum %d is wrong", n, len(m), k != nil, i)
					}
				}
				if sums[n] != [32]byte{} {
					t.Fatalf("%d messages: wrote a sum too many", n)
				}
				if !bytes.Equal(area, before) {
					t.Fatalf("%d messages: they were changed", n)
				}
			}
		}
	})
}

func TestChaCha20(t *testing.T) {
	each(t, func(t *testing.T, l level) {
		r := rand.NewChaCha8([32]byte{2})
		for blocks := range 70 {
			n := chachaBlock * (blocks + 1)
			if blocks == 69 {
				n = 64 << 10
			}
			key, nonce := [32]byte(random(r, 32)), [12]byte(random(r, 12))
			src := random(r, n)
			right := wantXOR(t, src, &key, &nonce)

			const edge = 67 // odd, so that nothing is aligned
			area := random(r, n+2*edge)
			before := bytes.Clone(area)
			dst := area[edge:][:n]
			keep := bytes.Clone(src)
			chacha20(l, dst, src, &key, &nonce)
			if !bytes.Equal(dst, right) {
				t.Fatalf("%d bytes: wrong", n)
			}
			if !bytes.Equal(src, keep) {
				t.Fatalf("%d bytes: the source was changed", n)
			}
			if !bytes.Equal(area[:edge], before[:edge]) || !bytes.Equal(area[edge+n:], before[edge+n:]) {
				t.Fatalf("%d bytes: wrote beside them", n)
			}
			copy(dst, src)
			chacha20(l, dst, dst, &key, &nonce)
			if !bytes.Equal(dst, right) {
				t.Fatalf("%d bytes in place: wrong", n)
			}
		}
	})
}

func TestRFC8439(t *testing.T) {
	// Appendix A.1, test vectors 1, and its first 64 bytes of A.2's.
	const right = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7" +
		"da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
	each(t, func(t *testing.T, l level) {
		b := make([]byte, chachaBlock)
		chacha20(l, b, b, new([32]byte), new([12]byte))
		if got := hex.EncodeToString(b); got != right {
			t.Errorf("keystream %s", got)
		}
	})
}

func TestNoAllocations(t *testing.T) {
	each(t, func(t *testing.T, l level) {
		var sums [5][32]byte
		var nonce [12]byte
		msgs := make([][]byte, len(sums))
		for i := range msgs {
			msgs[i] = make([]byte, 1024)
		}
		key := new([32]byte)
		dst := make([]byte, 1024+64)
		for name, f := range map[string]func(){
			"sums":     func() { sum256(l, sums[:], nil, msgs) },
			"keyed":    func() { sum256(l, sums[:], &sums[0], msgs) },
			"one":      func() { sum256(l, sums[:1], nil, msgs[:1]) },
			"chacha20": func() { chacha20(l, dst, dst, key, &nonce) },
		} {
			if n := testing.AllocsPerRun(20, f); n != 0 {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	})
}

type ref [32]byte

func TestNamedSums(t *testing.T) {
	msgs := [][]byte{make([]byte, 128), bytes.Repeat([]byte{1}, 128)}
	var sums [2]ref
	Sum256(sums[:], nil, msgs)
	for i, m := range msgs {
		if sums[i] != ref(blake2b.Sum256(m)) {
			t.Errorf("sum %d is wrong", i)
		}
	}
	Sum256[ref](nil, nil, nil)
}

func TestRefused(t *testing.T) {
	b := func(n int) []byte { return make([]byte, n) }
	sums := make([][32]byte, 2)
	for name, f := range map[string]func(){
		"fewer sums":         func() { Sum256(sums[:1], nil, [][]byte{b(128), b(128)}) },
		"more sums":          func() { Sum256(sums, nil, [][]byte{b(128)}) },
		"empty message":      func() { Sum256(sums[:1], nil, [][]byte{{}}) },
		"half a block":       func() { Sum256(sums[:1], nil, [][]byte{b(64)}) },
		"a shorter one":      func() { Sum256(sums, nil, [][]byte{b(256), b(128)}) },
		"a longer one":       func() { Sum256(sums, nil, [][]byte{b(128), b(256)}) },
		"nothing to encrypt": func() { ChaCha20(nil, nil, new([32]byte), new([12]byte)) },
		"part of a block":    func() { ChaCha20(b(100), b(100), new([32]byte), new([12]byte)) },
		"short destination":  func() { ChaCha20(b(64), b(128), new([32]byte), new([12]byte)) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f()
		})
	}
}

func FuzzSum256(f *testing.F) {
	f.Add([]byte("a"), uint8(1), uint8(1), false)
	f.Add([]byte{0}, uint8(4), uint8(8), true)
	f.Add(bytes.Repeat([]byte{0xff}, 200), uint8(8), uint8(3), true)
	f.Add([]byte("eris"), uint8(13), uint8(2), false)
	f.Fuzz(func(t *testing.T, seed []byte, n, blocks uint8, keyed bool) {
		n, blocks = n%34, blocks%16+1
		if len(seed) == 0 {
			return
		}
		var key *[32]byte
		if keyed {
			k := blake2b.Sum256(seed)
			key = &k
		}
		// The messages overlap: each begins a byte after the one before.
		area := bytes.Repeat(seed, (int(blocks)*block+int(n))/len(seed)+1)
		msgs := make([][]byte, n)
		for i := range msgs {
			msgs[i] = area[i:][:int(blocks)*block]
		}
		sums := make([][32]byte, n)
		for _, l := range levels() {
			clear(sums)
			sum256(l, sums, key, msgs)
			for i, m := range msgs {
				if sums[i] != want(t, key, m) {
					t.Errorf("%v: sum %d of %d is wrong", l, i, n)
				}
			}
		}
	})
}

func FuzzChaCha20(f *testing.F) {
	f.Add([]byte("key"), []byte("nonce"), []byte("text"), uint8(1))
	f.Add([]byte{}, []byte{1}, []byte{0}, uint8(16))
	f.Add([]byte{255}, []byte{}, []byte{1, 2, 3}, uint8(17))
	f.Add(bytes.Repeat([]byte{0xff}, 32), bytes.Repeat([]byte{0xff}, 12), []byte{0xff}, uint8(40))
	f.Fuzz(func(t *testing.T, k, n, seed []byte, blocks uint8) {
		var key [32]byte
		var nonce [12]byte
		copy(key[:], k)
		copy(nonce[:], n)
		if len(seed) == 0 {
			return
		}
		size := (int(blocks) + 1) * chachaBlock
		src := bytes.Repeat(seed, size/len(seed)+1)[:size]
		right := wantXOR(t, src, &key, &nonce)
		for _, l := range levels() {
			dst := make([]byte, size)
			chacha20(l, dst, src, &key, &nonce)
			if !bytes.Equal(dst, right) {
				t.Errorf("%v: wrong", l)
			}
			copy(dst, src)
			chacha20(l, dst, dst, &key, &nonce)
			if !bytes.Equal(dst, right) {
				t.Errorf("%v: wrong in place", l)
			}
		}
	})
}

// Benchmarks have x/crypto beside each implementation, so that one run gives
// their ratio. A keyed sum is what ERIS derives a key with.
func BenchmarkSum256(b *testing.B) {
	for _, size := range []int{1 << 10, 32 << 10} {
		msgs := make([][]byte, 16)
		for i := range msgs {
			msgs[i] = make([]byte, size)
		}
		sums := make([][32]byte, len(msgs))
		b.Run(fmt.Sprintf("%d/xcrypto", size), func(b *testing.B) {
			b.SetBytes(int64(len(msgs) * size))
			for b.Loop() {
				for i, m := range msgs {
					sums[i] = blake2b.Sum256(m)
				}
			}
		})
		for _, l := range levels() {
			for _, keyed := range []bool{false, true} {
				name, key := "", (*[32]byte)(nil)
				if keyed {
					name, key = "/keyed", new([32]byte)
				}
				b.Run(fmt.Sprintf("%d/%v%s", size, l, name), func(b *testing.B) {
					b.SetBytes(int64(len(msgs) * size))
					for b.Loop() {
						sum256(l, sums, key, msgs)
					}
				})
			}
		}
	}
}

// BenchmarkFew is for the choice of what fewer messages than Width are given
// to.
func BenchmarkFew(b *testing.B) {
	const size = 32 << 10
	msgs := make([][]byte, MaxWidth)
	for i := range msgs {
		msgs[i] = make([]byte, size)
	}
	sums := make([][32]byte, len(msgs))
	for _, l := range levels() {
		for n := 1; n <= MaxWidth; n++ {
			b.Run(fmt.Sprintf("%v/%d", l, n), func(b *testing.B) {
				b.SetBytes(int64(n * size))
				for b.Loop() {
					sum256(l, sums[:n], nil, msgs[:n])
				}
			})
		}
	}
}

func BenchmarkChaCha20(b *testing.B) {
	for _, size := range []int{1 << 10, 32 << 10} {
		buf := make([]byte, size)
		key, nonce := new([32]byte), new([12]byte)
		b.Run(fmt.Sprintf("%d/xcrypto", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				c, err := xchacha20.NewUnauthenticatedCipher(key[:], nonce[:])
				if err != nil {
					b.Fatal(err)
				}
				c.XORKeyStream(buf, buf)
			}
		})
		for _, l := range levels() {
			b.Run(fmt.Sprintf("%d/%v", size, l), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					chacha20(l, buf, buf, key, nonce)
				}
			})
		}
	}
}
