package keep

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/eris"
)

// FuzzRecord reads records. What is read is printed as it was.
func FuzzRecord(f *testing.F) {
	x := makeThing(f, 0, 1000)
	legacy := x.about()
	urn := "urn:erisx2:" + strings.TrimPrefix(x.ReadCap.URN(), "urn:eris:")
	var err error
	if legacy.Item.ReadCap, err = eris.ParseLegacyURN(urn); err != nil {
		f.Fatal(err)
	}
	none := x.about()
	none.Item.ReadCap, none.Item.Narinfo, none.Item.Server = eris.ReadCap{}, nil, ""
	tagged := x.about()
	tagged.ETag, tagged.FileSize, tagged.Item.Method = `W/"a: b"`, 1<<40, "xz"
	for _, a := range []About{x.about(), legacy, none, tagged} {
		b, err := a.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
		f.Add(bytes.Replace(b, []byte("Size: "), []byte("Size: 0"), 1))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseRecord(b)
		if err != nil {
			return
		}
		again, err := a.encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%q becomes %q, %v", b, again, err)
		}
	})
}

// FuzzNodes reads files of internal nodes, which a crash has torn or bits have
// rotted in. No node of it is outside the tree, nothing is served unverified,
// and what the next process finds in a part can be stored again.
func FuzzNodes(f *testing.F) {
	x := makeThing(f, 0, 10_000)
	entry := func(level uint32, index uint64, node []byte) []byte {
		b := binary.BigEndian.AppendUint32([]byte(nodeMagic), level)
		return append(binary.BigEndian.AppendUint64(b, index), node...)
	}
	var good []byte
	for _, b := range x.nodes {
		if b.Level > 0 {
			good = append(good, entry(uint32(b.Level), uint64(b.Index), b.Node)...)
		}
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(append(make([]byte, nodeHead+1024), good...))
	f.Add(append(bytes.Clone(good), good...))
	f.Add(entry(1<<31, 1<<63, make([]byte, 1024)))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		s := open(t, dir, Options{})
		defer closing(t, s)
		name := filepath.Join(dir, partsDir, string(BlocksID(x.ReadCap)))
		if err := os.MkdirAll(name, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(name, nodesFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		p := part(t, s, x)
		defer closing(t, p)
		buf := make([]byte, p.size)
		for id := range p.filled.nodes {
			if err := p.check(id.level(), id.index()); err != nil {
				t.Error(err)
			}
			if ok, err := p.Load(id.level(), id.index(), buf); !ok || err != nil {
				t.Errorf("node %d of level %d is not there: %v", id.index(), id.level(), err)
			}
		}
		for _, b := range x.nodes {
			p.Done(b.Level, b.Index, b.Ref, b.Key)
		}
		given(t, s.Blocks(nil), x) // fails if a block is wrong
		if _, err := eris.NewFiller(x.ReadCap, p, eris.FillOptions{}).Run(t.Context(), &from{x: x}); err != nil {
			t.Error(err)
		}
		if n := given(t, s.Blocks(nil), x); n != len(x.nodes) {
			t.Errorf("%d blocks of %d", n, len(x.nodes))
		}
	})
}
