package eris_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"

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

// TestEncodeAllocations wants one allocation a block, the cipher's key: see
// docs/decisions/0001-chacha20.md.
func TestEncodeAllocations(t *testing.T) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		const blocks = 256
		content := make([]byte, blocks*int(size))
		e := eris.NewEncoder(size, eris.Secret{}, nil)
		e.Write(content) // the levels are made once
		internal := float64(blocks/size.Arity() + 2)
		if n := testing.AllocsPerRun(4, func() { e.Write(content) }); n > blocks+internal {
			t.Errorf("%v: %.0f allocations for %d blocks", size, n, blocks)
		}
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
