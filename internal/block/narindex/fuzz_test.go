package narindex

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ersatz/eris"
)

// treeBytes returns the tree file of a content.
func treeBytes(f *testing.F, size eris.BlockSize, content []byte) []byte {
	f.Helper()
	pairs := map[int][]byte{}
	c, n, err := eris.Encode(bytes.NewReader(content), size, eris.Secret{}, func(b eris.Block) error {
		pairs[b.Level] = append(append(pairs[b.Level], b.Ref[:]...), b.Key[:]...)
		return nil
	})
	if err != nil {
		f.Fatal(err)
	}
	text := []byte(treeMagic)
	for level := range int(c.Level) + 1 {
		text = append(text, pairs[level]...)
	}
	return binary.BigEndian.AppendUint64(append(text, c.Bytes()...), uint64(n))
}

// FuzzTree reads tree files, which a full disk or bit rot may have changed. What
// is opened has a pair for each node, and the file's length follows from what
// it says.
func FuzzTree(f *testing.F) {
	for _, n := range []int{0, 1000, 5000, 40_000} {
		f.Add(treeBytes(f, eris.Size1KiB, bytes.Repeat([]byte("content "), n/8)))
	}
	long := treeBytes(f, eris.Size32KiB, bytes.Repeat([]byte{1}, 100_000))
	f.Add(long)
	f.Add(long[:len(long)-1])
	f.Add([]byte(treeMagic))
	name := filepath.Join(f.TempDir(), "tree")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		tr, err := openTree(name)
		if err != nil {
			if !errors.Is(err, eris.ErrCorrupt) {
				t.Errorf("an error that is not of the content: %v", err)
			}
			return
		}
		defer tr.close()
		if want := int64(len(treeMagic)) + tr.shape.Nodes()*pairSize + tailSize; want != int64(len(text)) {
			t.Fatalf("%d nodes in %d bytes", tr.shape.Nodes(), len(text))
		}
		for node := range tr.shape.Nodes() {
			ref, key, err := tr.pair(node)
			if err != nil {
				t.Fatal(err)
			}
			at := len(treeMagic) + int(node)*pairSize
			if want := text[at : at+pairSize]; !bytes.Equal(append(ref[:], key[:]...), want) {
				t.Fatalf("pair %d is not what the file has", node)
			}
		}
		if _, _, err := tr.pair(tr.shape.Nodes()); err == nil {
			t.Error("a pair beyond the last")
		}
	})
}
