package eris_test

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20"

	"ersatz/eris"
)

// TestBlocks checks what emit is told of each block, and that Seal, LeafKey
// and Leaf make the block again from the content.
func TestBlocks(t *testing.T) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		content, err := io.ReadAll(keystream(t, "blocks", int64(size)*int64(size.Arity())+5000))
		if err != nil {
			t.Fatal(err)
		}
		secret := eris.Secret{1, 2, 3}
		var next [8]int64
		var below [8][]byte // pairs of the blocks emitted per level
		c, n, err := eris.Encode(bytes.NewReader(content), size, secret, func(b eris.Block) error {
			if b.Index != next[b.Level] {
				t.Fatalf("level %d: index %d, want %d", b.Level, b.Index, next[b.Level])
			}
			next[b.Level]++
			node := make([]byte, size)
			if b.Level == 0 {
				rest := content[b.Index*int64(size):]
				if len(rest) < int(size) {
					eris.Leaf(node, rest)
				} else {
					copy(node, rest)
				}
				if eris.LeafKey(node, secret) != b.Key {
					t.Fatalf("leaf %d: wrong key", b.Index)
				}
			} else {
				children := below[b.Level-1]
				copy(node, children[b.Index*int64(size):])
				if blake2b.Sum256(node) != b.Key {
					t.Fatalf("node %d of level %d: wrong key", b.Index, b.Level)
				}
			}
			if !bytes.Equal(b.Node, node) {
				t.Fatalf("node %d of level %d: wrong plaintext", b.Index, b.Level)
			}
			block := node
			eris.Seal(block, node, b.Level, b.Key)
			if !bytes.Equal(block, b.Data) || eris.BlockRef(block) != b.Ref {
				t.Fatalf("node %d of level %d: wrong block", b.Index, b.Level)
			}
			below[b.Level] = append(append(below[b.Level], b.Ref[:]...), b.Key[:]...)
			return nil
		})
		if err != nil || n != int64(len(content)) {
			t.Fatalf("%d bytes, %v", n, err)
		}
		if next[c.Level] != 1 || c.Level < 2 {
			t.Errorf("%v: level %d with %d nodes", size, c.Level, next[c.Level])
		}
		if root := below[c.Level]; !bytes.Equal(root, append(c.Root[:], c.Key[:]...)) {
			t.Errorf("%v: the last block is not the root", size)
		}
	}
}

// TestSeal compares the fast keystream with the plain one, in place and not.
func TestSeal(t *testing.T) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		for level := range 5 {
			node, err := io.ReadAll(keystream(t, "seal", int64(size)))
			if err != nil {
				t.Fatal(err)
			}
			key := eris.Key(blake2b.Sum256(node[level:]))
			nonce := make([]byte, chacha20.NonceSize)
			nonce[0] = byte(level)
			plain, err := chacha20.NewUnauthenticatedCipher(key[:], nonce)
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, size)
			plain.XORKeyStream(want, node)

			// Bytes around the block stay as they are.
			room := bytes.Repeat([]byte{0xaa}, int(size)+64)
			block := room[32:][:size]
			eris.Seal(block, node, level, key)
			if !bytes.Equal(block, want) {
				t.Fatalf("%v level %d: wrong ciphertext", size, level)
			}
			eris.Seal(block, block, level, key)
			if !bytes.Equal(block, node) {
				t.Fatalf("%v level %d: does not decrypt in place", size, level)
			}
			if bytes.Count(room[:32], []byte{0xaa}) != 32 || bytes.Count(room[32+size:], []byte{0xaa}) != 32 {
				t.Fatalf("%v level %d: wrote beyond the block", size, level)
			}
		}
	}
}

// TestBlockRef wants BLAKE2b-256 of any bytes, and no memory for it.
func TestBlockRef(t *testing.T) {
	all, err := io.ReadAll(keystream(t, "ref", 33<<10))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 106, 128, 1023, 1024, 1025, 2048, 32 << 10, 33 << 10} {
		if got, want := eris.BlockRef(all[:n]), eris.Ref(blake2b.Sum256(all[:n])); got != want {
			t.Errorf("%d bytes: %s, want %s", n, got, want)
		}
		if allocs := testing.AllocsPerRun(10, func() { eris.BlockRef(all[:n]) }); allocs > 0 {
			t.Errorf("%d bytes: %.0f allocations", n, allocs)
		}
	}
}

// TestMany compares what is made of many blocks at once with what is made of
// each.
func TestMany(t *testing.T) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		for _, n := range []int{0, 1, 2, 3, 4, 5, 7, 8, 9, 17} {
			content, err := io.ReadAll(keystream(t, "many", int64(n)*int64(size)))
			if err != nil {
				t.Fatal(err)
			}
			secret := eris.Secret{byte(n)}
			nodes := slices.Collect(slices.Chunk(content, int(size)))
			refs, keys := make([]eris.Ref, n), make([]eris.Key, n)
			eris.BlockRefs(refs, nodes)
			eris.LeafKeys(keys, nodes, secret)
			for i, b := range nodes {
				if refs[i] != eris.BlockRef(b) || keys[i] != eris.LeafKey(b, secret) {
					t.Errorf("%v: block %d of %d differs", size, i, n)
				}
			}
		}
	}
}

// TestEncodeAllocations wants none for a block: a goroutine for each batch of
// 256 KiB, and nothing else once the Encoder has its memory.
func TestEncodeAllocations(t *testing.T) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		const batches = 16
		content := make([]byte, batches*256<<10)
		e := eris.NewEncoder(size, eris.Secret{}, func(eris.Block) error { return nil })
		e.Write(content)
		if n := testing.AllocsPerRun(2, func() { e.Write(content) }); n > 2*batches {
			t.Errorf("%v: %.0f allocations for %d batches", size, n, batches)
		}
	}
}

// TestShortContent wants no goroutine, and memory by what there is.
func TestShortContent(t *testing.T) {
	for length, most := range map[int]uint64{0: 8 << 10, 1000: 8 << 10, 16 << 10: 160 << 10, 200 << 10: 1400 << 10} {
		content := make([]byte, length)
		var before, after runtime.MemStats
		there := runtime.NumGoroutine()
		runtime.ReadMemStats(&before)
		_, _, err := eris.Encode(bytes.NewReader(content), eris.Recommended(int64(length)), eris.Secret{}, func(eris.Block) error {
			if n := goroutines(there); n > there {
				t.Errorf("%d bytes: %d goroutines more", length, n-there)
			}
			return nil
		})
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; err != nil || took > most {
			t.Errorf("%d bytes: %d bytes allocated, limit %d, %v", length, took, most, err)
		}
	}
}

// TestEncodeAtOnce encodes with one goroutine and with several, in pieces of odd
// sizes, and wants the same blocks in the same order.
func TestEncodeAtOnce(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		content, err := io.ReadAll(keystream(t, "at once", 3<<20+int64(size)/2))
		if err != nil {
			t.Fatal(err)
		}
		var want []eris.Block
		for _, workers := range []int{1, 2, 5} {
			runtime.GOMAXPROCS(workers)
			var got []eris.Block
			e := eris.NewEncoder(size, eris.Secret{7}, func(b eris.Block) error {
				if eris.BlockRef(b.Data) != b.Ref {
					t.Fatalf("%v: node %d of level %d: wrong block", size, b.Index, b.Level)
				}
				b.Data, b.Node = nil, bytes.Clone(b.Node[:64])
				got = append(got, b)
				return nil
			})
			for rest := content; len(rest) > 0; {
				n := min(len(rest), 1+len(rest)/3)
				if m, err := e.Write(rest[:n]); m != n || err != nil {
					t.Fatal(m, err)
				}
				rest = rest[n:]
			}
			c, err := e.Finish()
			if err != nil || got[len(got)-1].Ref != c.Root {
				t.Fatal(c, err)
			}
			if want == nil {
				want = got
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%v: blocks by %d differ", size, workers)
			}
		}
	}
}

// TestEncoderGoroutines wants no more than there are cores, however much is written,
// and none once Finish or Encode has returned, with an error or without.
func TestEncoderGoroutines(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	const length = 40 * 256 << 10
	for _, at := range []int64{-1, 0, 9, 300} {
		synctest.Test(t, func(t *testing.T) {
			before := runtime.NumGoroutine()
			_, _, err := eris.Encode(keystream(t, "goroutines", length), eris.Size32KiB, eris.Secret{}, func(b eris.Block) error {
				if n := goroutines(before + 2); n > before+2 {
					t.Errorf("%d goroutines more", n-before)
				}
				if b.Index == at {
					return errBroken
				}
				return nil
			})
			if errors.Is(err, errBroken) != (at >= 0) {
				t.Errorf("block %d: %v", at, err)
			}
			synctest.Wait()
			if n := goroutines(before); n > before {
				t.Errorf("block %d: %d goroutines are left", at, n-before)
			}
		})
	}
}

// TestEncoderAlone wants the same from one goroutine.
func TestEncoderAlone(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		content, err := io.ReadAll(keystream(t, "alone", 9*256<<10+77))
		if err != nil {
			t.Fatal(err)
		}
		var want []eris.Ref
		rc, _, err := eris.Encode(bytes.NewReader(content), size, eris.Secret{}, func(b eris.Block) error {
			want = append(want, b.Ref)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		before := runtime.NumGoroutine()
		var refs []eris.Ref
		e := eris.NewEncoder(size, eris.Secret{}, func(b eris.Block) error {
			if n := goroutines(before); n > before {
				t.Fatalf("%v: %d goroutines more", size, n-before)
			}
			refs = append(refs, b.Ref)
			return nil
		})
		e.Alone()
		if _, err := e.Write(content); err != nil {
			t.Fatal(err)
		}
		if got, err := e.Finish(); err != nil || got != rc || !slices.Equal(refs, want) {
			t.Errorf("%v: %v, %v, want %v", size, got, err, rc)
		}
	}
}

// goroutines returns how many there are. If there are more than want it looks again
// for a while: one that has ended is counted until the runtime has put it away.
func goroutines(want int) (n int) {
	for range 10_000 {
		if n = runtime.NumGoroutine(); n <= want {
			break
		}
		runtime.Gosched()
	}
	return n
}

// TestEncoderDropped gives an Encoder up at each number of batches: nothing of it
// is left. (A bubble fails when a goroutine of it stays blocked.)
func TestEncoderDropped(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	for batches := range 6 {
		synctest.Test(t, func(t *testing.T) {
			e := eris.NewEncoder(eris.Size32KiB, eris.Secret{}, nil)
			if _, err := e.Write(make([]byte, batches*256<<10+1)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestEmitFails(t *testing.T) {
	for at := 1; ; at++ {
		calls := 0
		c, _, err := eris.Encode(keystream(t, "emit", 40_000), eris.Size1KiB, eris.Secret{}, func(eris.Block) error {
			if calls++; calls == at {
				return errBroken
			}
			return nil
		})
		if calls < at {
			if err != nil {
				t.Error(err)
			}
			return
		}
		if !errors.Is(err, errBroken) || c != (eris.ReadCap{}) {
			t.Errorf("call %d: %v", at, err)
		}
		if calls != at {
			t.Errorf("emit was called %d times more", calls-at)
		}
	}
}

// TestEmitFailsAtOnce wants no call of emit after one that has failed, though
// further batches are at work.
func TestEmitFailsAtOnce(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3))
	for _, at := range []int{1, 8, 9, 40, 70} {
		calls := 0
		e := eris.NewEncoder(eris.Size32KiB, eris.Secret{}, func(eris.Block) error {
			if calls++; calls == at {
				return errBroken
			}
			return nil
		})
		var err error
		for range 80 {
			if _, err = e.Write(make([]byte, 32<<10)); err != nil {
				break
			}
		}
		_, end := e.Finish()
		if !errors.Is(end, errBroken) || err != nil && !errors.Is(err, errBroken) || calls != at {
			t.Errorf("call %d: %v, %v; %d calls", at, err, end, calls)
		}
		if n, err := e.Write([]byte("x")); n != 0 || !errors.Is(err, errBroken) {
			t.Errorf("call %d: then wrote %d, %v", at, n, err)
		}
	}
}

func TestContentFails(t *testing.T) {
	r := io.MultiReader(keystream(t, "fails", 5000), iotest.ErrReader(errBroken))
	if _, _, err := eris.Encode(r, eris.Size1KiB, eris.Secret{}, nil); !errors.Is(err, errBroken) {
		t.Error(err)
	}
}

func TestAfterFinish(t *testing.T) {
	e := eris.NewEncoder(eris.Size1KiB, eris.Secret{}, nil)
	if _, err := e.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Finish(); err == nil {
		t.Error("finished twice")
	}
	if _, err := e.Write([]byte("x")); err == nil {
		t.Error("wrote after the finish")
	}
	if _, err := e.ReadFrom(bytes.NewReader([]byte("x"))); err == nil {
		t.Error("read after the finish")
	}
}

func TestBlockSize(t *testing.T) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		if got, err := eris.ParseBlockSize(size.String()); err != nil || got != size {
			t.Errorf("%v: %v, %v", size, got, err)
		}
	}
	for _, s := range []string{"", "1", "1kib", "32KiB ", "64KiB", "1024"} {
		if got, err := eris.ParseBlockSize(s); err == nil {
			t.Errorf("%q is %v", s, got)
		}
	}
	for n, want := range map[int64]eris.BlockSize{0: eris.Size1KiB, 16383: eris.Size1KiB, 16384: eris.Size32KiB, 1 << 40: eris.Size32KiB} {
		if got := eris.Recommended(n); got != want {
			t.Errorf("%d bytes: %v", n, got)
		}
	}
}
