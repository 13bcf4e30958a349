package lanes

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"
)

// cut makes pieces of b, with cuts where they are asked for.
func cut(b []byte, first, second int) Pieces {
	first, second = min(first, second), max(first, second)
	return Pieces{b[:first:first], b[first:second:second], b[second:]}
}

// sha256Kind is a way to hash.
type sha256Kind struct {
	name string
	sums func(sums [][32]byte, msgs []Pieces)
}

// sha256Kinds returns those that this machine has, the ones too that it has
// better ones for.
func sha256Kinds() []sha256Kind {
	return append(moreSHA256(), sha256Kind{"portable", portableSHA256}, sha256Kind{"here", SumsSHA256})
}

// eachSHA256 runs a test for all of them.
func eachSHA256(t *testing.T, f func(t *testing.T, k sha256Kind)) {
	for _, k := range sha256Kinds() {
		t.Run(k.name, func(t *testing.T) { f(t, k) })
	}
}

// check hashes messages in their pieces, and compares.
func (k sha256Kind) check(t *testing.T, msgs []Pieces) {
	t.Helper()
	sums := make([][32]byte, len(msgs)+1) // one more, to stay zero
	k.sums(sums[:len(msgs)], msgs)
	for i, m := range msgs {
		if want := sha256.Sum256(bytes.Join(m[:], nil)); sums[i] != want {
			t.Fatalf("%s: sum %d of %d is wrong, pieces of %d, %d and %d bytes", k.name, i, len(msgs), len(m[0]), len(m[1]), len(m[2]))
		}
	}
	if sums[len(msgs)] != [32]byte{} {
		t.Fatalf("%s: %d messages: wrote a sum too many", k.name, len(msgs))
	}
}

// TestSumsSHA256Lengths has every length around the ends of blocks, all at once
// and some at a time.
func TestSumsSHA256Lengths(t *testing.T) {
	eachSHA256(t, func(t *testing.T, k sha256Kind) {
		src := rand.NewChaCha8([32]byte{4})
		r := rand.New(src)
		area := random(src, 600)
		var msgs []Pieces
		for n := range 301 {
			msgs = append(msgs, cut(area[r.IntN(300):][:n], r.IntN(n+1), r.IntN(n+1)))
		}
		before := bytes.Clone(area)
		k.check(t, msgs)
		for n := range 41 {
			from := r.IntN(len(msgs) - n)
			k.check(t, msgs[from:][:n])
		}
		if !bytes.Equal(area, before) {
			t.Error("the messages were changed")
		}
	})
}

// TestSumsSHA256Mixed has messages of all lengths beside each other, at any
// address, cut anywhere.
func TestSumsSHA256Mixed(t *testing.T) {
	eachSHA256(t, func(t *testing.T, k sha256Kind) {
		src := rand.NewChaCha8([32]byte{5})
		r := rand.New(src)
		area := random(src, 300<<10)
		for n := range 41 {
			msgs := make([]Pieces, n)
			for i := range msgs {
				size := r.IntN(1 << r.IntN(15))
				if r.IntN(40) == 0 {
					size = r.IntN(200 << 10)
				}
				m := area[r.IntN(len(area)-size):][:size]
				switch r.IntN(4) {
				case 0:
					msgs[i][i%3] = m
				case 1: // a head and a tail, as of a file in an archive
					msgs[i] = cut(m, min(size, 112), size-size%8)
				default:
					msgs[i] = cut(m, r.IntN(size+1), r.IntN(size+1))
				}
			}
			k.check(t, msgs)
		}
	})
}

// TestSumsSHA256Same has as many messages of one length as there may be lanes,
// and a few more or less.
func TestSumsSHA256Same(t *testing.T) {
	eachSHA256(t, func(t *testing.T, k sha256Kind) {
		area := random(rand.NewChaCha8([32]byte{6}), 64<<10)
		for _, size := range []int{0, 55, 56, 64, 1024, 8 << 10} {
			for n := range 2*sha256Lanes + 2 {
				msgs := make([]Pieces, n)
				for i := range msgs {
					msgs[i] = Pieces{1: area[17*i:][:size]}
				}
				k.check(t, msgs)
			}
		}
	})
}

func TestSumsSHA256Refused(t *testing.T) {
	for _, n := range []int{0, 2} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d sums for one message: no panic", n)
				}
			}()
			SumsSHA256(make([][32]byte, n), make([]Pieces, 1))
		}()
	}
	SumsSHA256(nil, nil)
}

func TestSHA256NoAllocations(t *testing.T) {
	if all := levels(); SHA256Width() != all[len(all)-1].sha256Width() || SHA256Width() > sha256Lanes {
		t.Errorf("width %d", SHA256Width())
	}
	eachSHA256(t, func(t *testing.T, k sha256Kind) {
		msgs := make([]Pieces, 40)
		sums := make([][32]byte, len(msgs))
		for i := range msgs {
			msgs[i] = cut(make([]byte, 10+100*i), 10, 20*i)
		}
		for _, n := range []int{1, 5, 16, 40} {
			if got := testing.AllocsPerRun(20, func() { k.sums(sums[:n], msgs[:n]) }); got != 0 {
				t.Errorf("%d messages: %v allocations", n, got)
			}
		}
	})
}

func FuzzSumsSHA256(f *testing.F) {
	f.Add([]byte("abc"), []byte{3})
	f.Add([]byte{}, []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	f.Add(bytes.Repeat([]byte{0xff}, 64), []byte{64, 1, 2, 55, 56, 63, 119, 120})
	f.Add(bytes.Repeat([]byte("nar"), 100), bytes.Repeat([]byte{200, 100, 255}, 20))
	f.Fuzz(func(t *testing.T, seed, lengths []byte) {
		if len(lengths) > 200 {
			return
		}
		// A length l gives a message of 5*l bytes, one of them with each remainder.
		area := bytes.Repeat(append(seed, 1), 2000/(len(seed)+1)+2)
		msgs := make([]Pieces, len(lengths))
		for i, n := range lengths {
			size := 5 * int(n)
			msgs[i] = cut(area[i:][:size], (i*31)%(size+1), (i*71)%(size+1))
		}
		for _, k := range sha256Kinds() {
			k.check(t, msgs)
		}
	})
}

// BenchmarkSHA256 has crypto/sha256 beside each implementation. Of each number
// of messages there are equal ones, and ones of 8 to 200 KiB.
func BenchmarkSHA256(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 2, 4, 6, 8, 12, 16, 50} {
		equal, mixed := make([]Pieces, n), make([]Pieces, n)
		for i := range n {
			equal[i] = Pieces{1: make([]byte, 32<<10)}
			mixed[i] = cut(make([]byte, 8<<10+r.IntN(192<<10)), 112, 8<<10)
		}
		for name, msgs := range map[string][]Pieces{"equal": equal, "mixed": mixed} {
			size := 0
			for _, m := range msgs {
				size += len(m[0]) + len(m[1]) + len(m[2])
			}
			sums := make([][32]byte, n)
			for _, k := range sha256Kinds() {
				b.Run(fmt.Sprintf("%s/%d/%s", name, n, k.name), func(b *testing.B) {
					b.SetBytes(int64(size))
					for b.Loop() {
						k.sums(sums, msgs)
					}
				})
			}
		}
	}
}
