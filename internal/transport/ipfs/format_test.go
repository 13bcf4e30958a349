package ipfs_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/blake2b"

	"ersatz/eris"
	"ersatz/internal/transport/ipfs"
)

var update = flag.Bool("update", false, "write the golden files")

// The block of the official vector 00.
func TestCID(t *testing.T) {
	ref, err := eris.ParseRef("H77AGSYKAVTQPUHODJTQA7WZPTWGTTKLRB2GLMF5H53NEKFJ3FUQ")
	if err != nil {
		t.Fatal(err)
	}
	const want = "bafk2bzacea774a2lbicwob6q5yngoad63f6oy2onjoehiznqxu7xnurivhmws"
	if got := ipfs.CID(ref); got != want {
		t.Fatalf("CID is %s, want %s", got, want)
	}
}

// counted returns n references that differ.
func counted(n int) iter.Seq[eris.Ref] {
	return func(yield func(eris.Ref) bool) {
		var ref eris.Ref
		for i := range n {
			binary.BigEndian.PutUint64(ref[:], uint64(i+1))
			if !yield(ref) {
				return
			}
		}
	}
}

// What the bytes mean is for Kubo to say: the TestKubo… tests import such CARs.
// This one keeps them from changing.
func TestCARGolden(t *testing.T) {
	it := newItem(t, 1, 1500, eris.Size1KiB)
	got, err := ipfs.CAR(it.seq(), it.emit)
	if err != nil {
		t.Fatal(err)
	}
	const name = "testdata/item.car.hex"
	text := []byte(hex.Dump(got))
	if *update {
		if err := os.WriteFile(name, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, want) {
		t.Fatalf("the CAR differs from %s; it is now\n%s", name, text)
	}
}

// Each section of a CAR holds a CID whose digest is that of its block.
func TestCARSections(t *testing.T) {
	it := newItem(t, 2, 40<<10, eris.Size1KiB)
	car, err := ipfs.CAR(it.seq(), it.emit)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; len(car) > 0; n++ {
		length, k := binary.Uvarint(car)
		if k <= 0 || uint64(len(car)-k) < length {
			t.Fatalf("section %d: length %d of %d", n, length, len(car))
		}
		section := car[k : k+int(length)]
		car = car[k+int(length):]
		if n == 0 {
			continue // the header
		}
		if sum := blake2b.Sum256(section[38:]); !bytes.Equal(sum[:], section[6:38]) {
			t.Fatalf("section %d: the CID is not that of the block", n)
		}
	}
}

func TestManifestShape(t *testing.T) {
	full := 3 + 43*ipfs.MaxLinks
	if full > 256<<10 || full+43 <= 256<<10 {
		t.Fatalf("a full node has %d bytes", full)
	}
	for _, c := range []struct {
		refs  int
		nodes []int // sizes, children first
	}{
		{1, []int{1 + 43}},
		{23, []int{1 + 23*43}},
		{24, []int{2 + 24*43}},
		{256, []int{3 + 256*43}},
		{ipfs.MaxLinks, []int{full}},
		{ipfs.MaxLinks + 1, []int{full, 1 + 43, 1 + 2*43}},
		{2*ipfs.MaxLinks + 1, []int{full, full, 1 + 43, 1 + 3*43}},
	} {
		cid, sizes, err := ipfs.Manifest(counted(c.refs))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(sizes, c.nodes) {
			t.Errorf("%d references: nodes of %v bytes, want %v", c.refs, sizes, c.nodes)
		}
		if !strings.HasPrefix(cid, "bafy2bzace") {
			t.Errorf("%d references: manifest %s", c.refs, cid)
		}
	}
	if _, _, err := ipfs.Manifest(counted(0)); err == nil {
		t.Error("a manifest of nothing")
	}
}

func TestPutStopsAtTheFirstError(t *testing.T) {
	it := newItem(t, 3, 10<<10, eris.Size1KiB)
	boom := errors.New("boom")
	_, err := ipfs.CAR(it.seq(), func(func(eris.Ref, []byte) error) error { return boom })
	if !errors.Is(err, boom) {
		t.Fatalf("error is %v", err)
	}
}

// References that change between the two iterations are noticed before any
// block is sent.
func TestPutWantsStableReferences(t *testing.T) {
	n := 0
	refs := func(yield func(eris.Ref) bool) {
		n++
		yield(eris.Ref{byte(n)})
	}
	_, err := ipfs.CAR(refs, func(func(eris.Ref, []byte) error) error {
		t.Error("blocks were asked for")
		return nil
	})
	if err == nil {
		t.Fatal("no error")
	}
}
