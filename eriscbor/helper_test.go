package eriscbor_test

import (
	"bytes"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"ersatz/eris"
	"ersatz/eriscbor"
)

// vector is an official test vector of ERIS.
type vector struct {
	content []byte
	cap     eris.ReadCap
	blocks  map[eris.Ref][]byte
}

// vectors returns the positive vectors that are small.
func vectors(t testing.TB) []vector {
	t.Helper()
	names, err := filepath.Glob("../eris/testdata/eris-test-vector-positive-*.json")
	if err != nil || len(names) < 9 {
		t.Fatalf("%d vectors, %v", len(names), err)
	}
	text := base32.StdEncoding.WithPadding(base32.NoPadding)
	unbase32 := func(s string) []byte {
		b, err := text.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var list []vector
	for _, name := range names {
		file, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var v struct {
			Content, URN string
			Blocks       map[string]string
		}
		if err := json.Unmarshal(file, &v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		c, err := eris.ParseURN(v.URN)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		blocks := map[eris.Ref][]byte{}
		for ref, block := range v.Blocks {
			blocks[eris.Ref(unbase32(ref))] = unbase32(block)
		}
		list = append(list, vector{unbase32(v.Content), c, blocks})
	}
	return list
}

// first returns the first vector's only block, its reference and its read
// capability, and how a bundle has it.
func first(t testing.TB) (block []byte, ref eris.Ref, c eris.ReadCap, pair string) {
	t.Helper()
	v := vectors(t)[0]
	if len(v.blocks) != 1 {
		t.Fatalf("%d blocks", len(v.blocks))
	}
	ref = slices.Collect(maps.Keys(v.blocks))[0]
	return v.blocks[ref], ref, v.cap, "5820" + hex.EncodeToString(ref[:]) + "590400" + hex.EncodeToString(v.blocks[ref])
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// value is all that a bundle says.
type value struct {
	blocks map[eris.Ref][]byte
	wrong  []eris.Ref
	caps   []eris.ReadCap
}

func (v value) equal(o value) bool {
	same := func(a, b eris.ReadCap) bool { return bytes.Equal(a.Bytes(), b.Bytes()) }
	return maps.EqualFunc(v.blocks, o.blocks, bytes.Equal) && slices.EqualFunc(v.caps, o.caps, same)
}

// read reads a bundle.
func read(r io.Reader) (value, error) {
	v := value{blocks: map[eris.Ref][]byte{}}
	b := eriscbor.NewReader(r)
	for {
		ref, block, err := b.Block()
		var corrupt *eris.CorruptError
		switch {
		case errors.As(err, &corrupt):
			v.wrong = append(v.wrong, corrupt.Ref)
		case errors.Is(err, io.EOF):
			v.caps, err = b.Caps()
			return v, err
		case err != nil:
			if _, _, again := b.Block(); !errors.Is(again, err) {
				return v, errors.Join(errors.New("the error does not last"), err, again)
			}
			return v, err
		default:
			v.blocks[ref] = bytes.Clone(block)
		}
	}
}

// write returns the bundle of a value.
func write(t testing.TB, v value) []byte {
	t.Helper()
	var out bytes.Buffer
	w := eriscbor.NewWriter(&out)
	for ref, block := range v.blocks {
		if err := w.Block(ref, block); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(v.caps...); err != nil {
		t.Fatal(err)
	}
	if w.Blocks() != len(v.blocks) || w.Size() != int64(out.Len()) {
		t.Errorf("writer counts %d blocks, %d bytes", w.Blocks(), w.Size())
	}
	return out.Bytes()
}
