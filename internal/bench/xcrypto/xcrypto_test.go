package xcrypto_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"ersatz/eris"
	"ersatz/internal/bench/xcrypto"
)

var errTest = errors.New("test")

// TestAgrees wants the same blocks and read capability as package eris gives, and the
// content back, at lengths around each change of the tree's shape.
func TestAgrees(t *testing.T) {
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		bs, arity := int(size), size.Arity()
		lengths := []int{0, 1, bs - 1, bs, bs + 1, 5*bs - 1, (arity-1)*bs + 7, arity*bs - 1, arity * bs, (arity + 1) * bs}
		if size == eris.Size1KiB {
			lengths = append(lengths, arity*arity*bs-1, arity*arity*bs, (arity*arity+arity+1)*bs+9)
		}
		for _, n := range lengths {
			t.Run(fmt.Sprint(size, n), func(t *testing.T) {
				content := make([]byte, n)
				rand.NewChaCha8([32]byte{byte(n)}).Read(content)
				secret := eris.Secret{byte(n >> 8)}
				want := map[eris.Ref][]byte{}
				order := []eris.Ref{}
				c, _, err := eris.Encode(bytes.NewReader(content), size, secret, func(b eris.Block) error {
					want[b.Ref] = bytes.Clone(b.Data)
					order = append(order, b.Ref)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				got, err := xcrypto.Encode(iotest.HalfReader(bytes.NewReader(content)), size, secret, func(ref eris.Ref, block []byte) error {
					if !bytes.Equal(want[ref], block) || ref != order[0] {
						return fmt.Errorf("%w: block %s", errTest, ref)
					}
					order = order[1:]
					return nil
				})
				if err != nil || got != c || len(order) > 0 {
					t.Fatal(got, c, len(order), err)
				}
				var back bytes.Buffer
				if err := xcrypto.Decode(&back, c, of(want)); err != nil || !bytes.Equal(back.Bytes(), content) {
					t.Errorf("%d bytes, %v", back.Len(), err)
				}
			})
		}
	}
}

func of(blocks map[eris.Ref][]byte) func(eris.Ref) ([]byte, error) {
	return func(ref eris.Ref) ([]byte, error) {
		b, ok := blocks[ref]
		if !ok {
			return nil, errTest
		}
		return b, nil
	}
}

func TestEncodeFails(t *testing.T) {
	none := func(eris.Ref, []byte) error { return nil }
	r := io.MultiReader(bytes.NewReader(make([]byte, 3000)), iotest.ErrReader(errTest))
	if _, err := xcrypto.Encode(r, eris.Size1KiB, eris.Secret{}, none); !errors.Is(err, errTest) {
		t.Error("reading:", err)
	}
	for at := range 20 { // 17 leaves, 2 nodes above, the root
		_, err := xcrypto.Encode(bytes.NewReader(make([]byte, 17000)), eris.Size1KiB, eris.Secret{}, func(eris.Ref, []byte) error {
			if at--; at < 0 {
				return errTest
			}
			return nil
		})
		if !errors.Is(err, errTest) {
			t.Error("emit:", err)
		}
	}
}

func TestDecodeFails(t *testing.T) {
	blocks := map[eris.Ref][]byte{}
	var leaf eris.Ref
	c, err := xcrypto.Encode(bytes.NewReader(make([]byte, 3000)), eris.Size1KiB, eris.Secret{}, func(ref eris.Ref, block []byte) error {
		if len(blocks) == 0 {
			leaf = ref
		}
		blocks[ref] = bytes.Clone(block)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	right := blocks[leaf]
	blocks[leaf] = bytes.Repeat([]byte{1}, 1024)
	if err := xcrypto.Decode(io.Discard, c, of(blocks)); err == nil {
		t.Error("accepts a wrong block")
	}
	delete(blocks, leaf)
	if err := xcrypto.Decode(io.Discard, c, of(blocks)); !errors.Is(err, errTest) {
		t.Error("missing:", err)
	}
	blocks[leaf] = right
	wrong := eris.ReadCap{Size: c.Size, Root: leaf, Key: c.Key} // a leaf that is not the last
	if err := xcrypto.Decode(io.Discard, wrong, of(blocks)); err == nil {
		t.Error("accepts a leaf without padding")
	}
}
