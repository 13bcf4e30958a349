package lanes

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
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
			blocks := 1 + r.IntN(16)
			if n == 7 {
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
				for first := 0; first < n; first += 3 { // the others come next
					clear(sums)
					sum256(l, sums[:first], k, msgs)
					for i := range first {
						if sums[i] != want(t, k, msgs[i]) {
							t.Fatalf("the first %d of %d messages: sum %d is wrong", first, n, i)
						}
					}
					if sums[first] != [32]byte{} {
						t.Fatalf("the first %d of %d messages: wrote a sum too many", first, n)
					}
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

// abcSum is BLAKE2b-512 of "abc" (RFC 7693, appendix A).
const abcSum = "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1" +
	"7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"

// abcState is the state before it, for a digest of 64 bytes.
func abcState() state {
	h := iv
	h[0] ^= 0x01010040
	return h
}

func abcBlock() (b [block]byte) {
	copy(b[:], "abc")
	return b
}

func TestRFC7693(t *testing.T) {
	h, b := abcState(), abcBlock()
	compress(&h, &b, 3, true)
	var sum []byte
	for _, w := range h {
		sum = binary.LittleEndian.AppendUint64(sum, w)
	}
	if got := hex.EncodeToString(sum); got != abcSum {
		t.Errorf("BLAKE2b-512 of abc is %s", got)
	}
}

// TestRFC8439 has the examples of section 2.4.2 and of appendix A.1, each after
// as many blocks as their counters say.
func TestRFC8439(t *testing.T) {
	count := func(n int) (key [32]byte) {
		for i := range n {
			key[i] = byte(i)
		}
		return key
	}
	for _, c := range []struct {
		name    string
		key     [32]byte
		nonce   [12]byte
		counter int
		text    string
		want    string
	}{
		{"2.4.2", count(32), [12]byte{7: 0x4a}, 1,
			"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.",
			"6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0bf91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8" +
				"07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab77937365af90bbf74a35be6b40b8eedf2785e42874d"},
		{"A.1, 1", [32]byte{}, [12]byte{}, 0, "",
			"76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"},
		{"A.1, 2", [32]byte{}, [12]byte{}, 1, "",
			"9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"},
		{"A.1, 3", [32]byte{31: 1}, [12]byte{}, 1, "",
			"3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0"},
		{"A.1, 4", [32]byte{1: 0xff}, [12]byte{}, 2, "",
			"72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096"},
		{"A.1, 5", [32]byte{}, [12]byte{11: 2}, 0, "",
			"c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c78a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d"},
	} {
		each(t, func(t *testing.T, l level) {
			// The text is where its counter is, with more behind it.
			for _, blocks := range []int{4, 16, 33} {
				b := make([]byte, chachaBlock*blocks)
				at := b[chachaBlock*c.counter:]
				copy(at, c.text)
				chacha20(l, b, b, &c.key, &c.nonce)
				if got := hex.EncodeToString(at[:len(c.want)/2]); got != c.want {
					t.Errorf("%s in %d blocks: %s", c.name, blocks, got)
				}
			}
		})
	}
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

// TestChoice wants levels to be in order, and the best to be taken.
func TestChoice(t *testing.T) {
	all := levels()
	if here != all[len(all)-1] || Width() != here.width() {
		t.Errorf("%v of %v, width %d", here, all, Width())
	}
	for i, l := range all {
		if int(l) != i || l.width() > MaxWidth {
			t.Errorf("level %d is %v, width %d", i, l, l.width())
		}
	}
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
	var first [1]ref
	Sum256First(first[:], nil, msgs)
	if first[0] != sums[0] {
		t.Error("the first sum is wrong")
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
		"sums without one":   func() { Sum256First(sums, nil, [][]byte{b(128)}) },
		"a longer one next":  func() { Sum256First(sums[:1], nil, [][]byte{b(128), b(256)}) },
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
			first := make([][32]byte, n/2)
			if sum256(l, first, key, msgs); !slices.Equal(first, sums[:n/2]) {
				t.Errorf("%v: the first %d of %d are wrong", l, n/2, n)
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
