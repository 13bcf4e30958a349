package eris_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"ersatz/eris"
)

// seedURNs returns the URNs of the vectors, and spellings of them that must
// not be taken.
func seedURNs(t testing.TB) []string {
	t.Helper()
	var urns []string
	for _, glob := range []struct {
		name string
		want int
	}{{"eris-test-vector-positive-*.json", 9}, {"eris-test-vector-negative-*.json", 10}, {"v0.3.0/*.json", 9}} {
		for _, v := range load(t, glob.name, glob.want) {
			urns = append(urns, v.URN)
		}
	}
	return append(urns, badURNs(urns[0])...)
}

// badURNs misspells an URN.
func badURNs(urn string) []string {
	last := strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", urn[len(urn)-1])
	return []string{
		"", "urn:eris:", urn[9:], " " + urn, urn + "\n", urn + "=", urn[:len(urn)-1], urn + "A", "x" + urn,
		strings.ToLower(urn), strings.ToUpper(urn), "urn:eris:" + strings.ToLower(urn[9:]),
		strings.Replace(urn, "urn:", "URN:", 1), strings.Replace(urn, "urn:eris:", "urn:erisx3:", 1),
		urn[:20] + "\n" + urn[20:], urn[:20] + "\n" + urn[21:], urn[:20] + "1" + urn[21:], urn[:20] + "=" + urn[21:],
		urn[:9] + "A" + urn[10:], // an unknown block size
		urn[:len(urn)-1] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[last^1]), // spare bits
		urn[:len(urn)-1] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[last^2]),
	}
}

func TestBadURNs(t *testing.T) {
	const good = 28
	urns := seedURNs(t)
	if len(urns) < good+20 {
		t.Fatalf("%d seeds", len(urns))
	}
	for i, urn := range urns {
		_, now := eris.ParseURN(urn)
		_, legacy := eris.ParseLegacyURN(urn)
		if i < good && (now == nil) == (legacy == nil) {
			t.Errorf("%s: %v, %v", urn, now, legacy)
		}
		if i >= good && (now == nil || legacy == nil) {
			t.Errorf("%q was taken", urn)
		}
	}
}

func FuzzParseURN(f *testing.F) {
	for _, urn := range seedURNs(f) {
		f.Add(urn)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := eris.ParseURN(s)
		if err == nil && c.URN() != s {
			t.Fatalf("two spellings of one capability: %q and %q", s, c.URN())
		}
	})
}

func FuzzParseLegacyURN(f *testing.F) {
	for _, urn := range seedURNs(f) {
		f.Add(urn)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := eris.ParseLegacyURN(s)
		if err == nil && c.URN() != s {
			t.Fatalf("two spellings of one capability: %q and %q", s, c.URN())
		}
	})
}

func FuzzParseReadCap(f *testing.F) {
	seeds := 0
	for _, urn := range seedURNs(f) {
		if c, err := eris.ParseURN(urn); err == nil {
			f.Add(c.Bytes())
			seeds++
		}
	}
	if seeds != 19 {
		f.Fatalf("%d seeds", seeds)
	}
	f.Add(bytes.Repeat([]byte{0x0a}, 65))
	f.Add(bytes.Repeat([]byte{0x0f}, 67))
	f.Add(make([]byte, 66))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := eris.ParseReadCap(b)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Bytes(), b) {
			t.Fatalf("%x is printed as %x", b, c.Bytes())
		}
		if again, err := eris.ParseURN(c.URN()); err != nil || again != c {
			t.Fatalf("%s: %v, %v", c.URN(), again, err)
		}
	})
}

func FuzzParseRef(f *testing.F) {
	for _, urn := range seedURNs(f) {
		if len(urn) > 61 {
			f.Add(urn[9:61])
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := eris.ParseRef(s); err == nil && r.String() != s {
			t.Fatalf("two spellings of one reference: %q and %q", s, r)
		}
		if k, err := eris.ParseSecret(s); err == nil && eris.Ref(k).String() != s {
			t.Fatalf("two spellings of one secret: %q", s)
		}
	})
}

// FuzzEncodeDecode wants a content back through every entry point, whatever
// the pieces in which it was written.
func FuzzEncodeDecode(f *testing.F) {
	for _, n := range []int{0, 1, 1023, 1024, 1025, 16383, 16384, 40_000} {
		f.Add(bytes.Repeat([]byte{0x80}, n), []byte("secret"), uint16(n/3), false)
		f.Add(make([]byte, n), []byte(nil), uint16(1000), true)
	}
	f.Fuzz(func(t *testing.T, content, salt []byte, piece uint16, big bool) {
		size := eris.Size1KiB
		if big {
			size = eris.Size32KiB
		}
		var secret eris.Secret
		copy(secret[:], salt)
		m := newMap()
		e := eris.NewEncoder(size, secret, m.put)
		for rest := content; len(rest) > 0; {
			n := min(int(piece)+1, len(rest))
			if _, err := e.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		c, err := e.Finish()
		if err != nil {
			t.Fatal(err)
		}
		if again, n, err := eris.Encode(bytes.NewReader(content), size, secret, nil); again != c || n != int64(len(content)) || err != nil {
			t.Fatalf("two capabilities: %s, %s (%v)", c.URN(), again.URN(), err)
		}
		for name, how := range decoders {
			got, err := how(t.Context(), c, m, eris.ReaderOptions{MaxLength: max(1, int64(len(content)))})
			if err != nil || !bytes.Equal(got, content) {
				t.Fatalf("%s: %d bytes of %d, %v", name, len(got), len(content), err)
			}
		}
	})
}

// FuzzDecodeHostileTree reads trees whose nodes the fuzzer describes, through
// each entry point, with a bound on their length. Whatever they are, no more
// than the bound comes out, few blocks are asked for, both orders of reading
// give the same, and it ends.
func FuzzDecodeHostileTree(f *testing.F) {
	seeds := [][]byte{
		{0}, {1, 0, 1}, {2, 15, 0, 15, 1}, {16, 2, 15, 2, 3}, {1, 1, 1}, {2, 0, 0, 0x80},
		{3, 31, 31, 31, 31, 31}, {0x82, 0x11, 0x20, 0x0f}, {4, 15, 15, 15, 15, 0},
	}
	for _, s := range seeds {
		f.Add(s, uint32(0))
		f.Add(s, uint32(100_000))
	}
	f.Fuzz(func(t *testing.T, script []byte, bound uint32) {
		fg := newForge(eris.Size1KiB)
		c := fg.grow(script)
		limit := int64(bound%(1<<20)) + 1
		// All leaves of the longest content, the nodes above, and some waste.
		most := int(limit/1024+1)*17/16 + 64
		var contents [][]byte
		for _, name := range []string{"whole", "fill", "random"} {
			fg.asked = 0
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			got, err := decoders[name](ctx, c, fg, eris.ReaderOptions{MaxLength: limit, Batch: 4, Ahead: 16})
			if ctx.Err() != nil {
				t.Fatalf("%s: does not end", name)
			}
			cancel()
			if int64(len(got)) > limit {
				t.Fatalf("%s: %d bytes, bound %d", name, len(got), limit)
			}
			// Reading at random in pieces asks for a path more than once.
			if name != "random" && fg.asked > most {
				t.Fatalf("%s: %d blocks for %d bytes at most", name, fg.asked, limit)
			}
			if err == nil {
				contents = append(contents, got)
			}
		}
		for _, other := range contents {
			if !bytes.Equal(contents[0], other) {
				t.Fatalf("one way %d bytes, another %d", len(contents[0]), len(other))
			}
		}
	})
}

// grow makes a tree from a script: the first byte gives its level, then each
// makes a node of a level that rises with the script, out of those before it.
func (f forge) grow(script []byte) eris.ReadCap {
	level := 0
	if len(script) > 0 {
		level = int(script[0] & 7)
	}
	rows := [8][]pair{{f.full(), f.last(), f.leaf(nil, nil)}}
	for i, b := range script {
		var pairs []pair
		l := min(1+i*level/max(len(script), 1), max(level, 1))
		row := rows[l-1]
		if len(row) == 0 {
			row = rows[0]
		}
		for k := range int(b&15) + 1 {
			pairs = append(pairs, row[(k*int(b>>6))%len(row)])
		}
		if b&16 != 0 {
			pairs = append(pairs[:len(pairs)-1], row[len(row)-1])
		}
		if b&32 != 0 {
			pairs[len(pairs)/2] = make(pair, 64)
		}
		rows[l] = append(rows[l], f.inner(l, pairs...))
	}
	row := rows[level]
	if len(row) == 0 {
		row = rows[0]
	}
	return f.readCap(uint8(level), row[len(row)-1])
}

// FuzzDecodeBlocks has the fuzzer write the nodes themselves.
func FuzzDecodeBlocks(f *testing.F) {
	f.Add(uint8(0), []byte("end\x80"))
	f.Add(uint8(1), make([]byte, 64))
	f.Add(uint8(1), binary.LittleEndian.AppendUint64(make([]byte, 120), 1))
	f.Add(uint8(9), bytes.Repeat([]byte{1}, 1024))
	f.Fuzz(func(t *testing.T, level uint8, node []byte) {
		fg := newForge(eris.Size1KiB)
		leaf := fg.full()
		// A node of ones stands for the same pair again.
		for off := 0; off+64 <= len(node); off += 64 {
			if node[off] == 1 {
				copy(node[off:], leaf)
			}
		}
		root := fg.inner(int(level), node[:min(len(node), 1024)])
		for name, how := range decoders {
			got, err := how(t.Context(), fg.readCap(level, root), fg, eris.ReaderOptions{MaxLength: 1 << 20})
			if err == nil && level > 0 {
				t.Fatalf("%s: a tree without a last leaf gives %d bytes", name, len(got))
			}
		}
	})
}
