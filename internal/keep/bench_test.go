package keep

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

// BenchmarkFill is a part filled by a Filler from memory and committed, per
// byte of the compressed nar.
func BenchmarkFill(b *testing.B) {
	x := makeThing(b, 0, 64<<20)
	s := open(b, b.TempDir(), Options{})
	defer closing(b, s)
	b.SetBytes(int64(len(x.file)))
	b.ReportAllocs()
	for b.Loop() {
		p := part(b, s, x)
		f := eris.NewFiller(x.ReadCap, p, eris.FillOptions{})
		n, err := f.Run(b.Context(), &from{x: x})
		if err != nil {
			b.Fatal(err)
		}
		p.Finish(n)
		if _, err := p.Commit(b.Context(), x.Item, f.Tree); err != nil {
			b.Fatal(err)
		}
		closing(b, p)
	}
}

// BenchmarkTakeUp is finding again what a killed process had stored, per byte.
func BenchmarkTakeUp(b *testing.B) {
	x := makeThing(b, 0, 64<<20)
	s := open(b, b.TempDir(), Options{})
	defer closing(b, s)
	p := part(b, s, x)
	fill(b, p, x)
	closing(b, p)
	b.SetBytes(int64(len(x.file)))
	for b.Loop() {
		p := part(b, s, x)
		src := &from{x: x, asked: map[eris.Ref]int{}}
		if _, err := eris.NewFiller(x.ReadCap, p, eris.FillOptions{}).Run(b.Context(), src); err != nil || len(src.asked) > 0 {
			b.Fatal(len(src.asked), err)
		}
		closing(b, p)
	}
}

// BenchmarkServePart is blocks of a part in batches, per byte.
func BenchmarkServePart(b *testing.B) {
	x := makeThing(b, 0, 16<<20)
	s := open(b, b.TempDir(), Options{})
	defer closing(b, s)
	p := part(b, s, x)
	defer closing(b, p)
	fill(b, p, x)
	refs := make([]eris.Ref, 0, 512)
	for _, n := range x.nodes[:min(len(x.nodes), 512)] {
		refs = append(refs, n.Ref)
	}
	blocks := s.Blocks(nil)
	b.SetBytes(int64(len(refs)) * int64(eris.Size32KiB))
	for b.Loop() {
		err := blocks.Batch(b.Context(), refs, func(_ int, block []byte) error {
			if block == nil {
				b.Fatal("a block is missing")
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFullStore is a part filled and committed where for each byte another
// one has to go, of 50,000 items that are kept.
func BenchmarkFullStore(b *testing.B) {
	const n, size = 50_000, 100_000
	s := open(b, b.TempDir(), Options{Quota: n * size})
	defer closing(b, s)
	var cards []card
	for k := range n {
		p, err := storepath.ParseBase("/gnu/store", nixbase32.Encode(fmt.Appendf(nil, "%020d", k))+"-x")
		if err != nil {
			b.Fatal(err)
		}
		e := &entry{path: p, narHash: [32]byte{byte(k), byte(k >> 8)}, came: time.Unix(int64(k*7919%n), 0), method: "zstd"}
		cards = append(cards, e.card(size, size))
	}
	if err := errors.Join(s.cards.put(b.Context(), cards...), s.count()); err != nil {
		b.Fatal(err)
	}
	x := makeThing(b, 0, 8<<20)
	b.SetBytes(int64(len(x.file)))
	for b.Loop() {
		put(b, s, x)
	}
}

// BenchmarkFsck is the check of a folder of small items, per item.
func BenchmarkFsck(b *testing.B) {
	const many = 50
	dir := b.TempDir()
	s := open(b, dir, Options{})
	for k := range byte(many) {
		put(b, s, makeThing(b, k, 4000))
	}
	closing(b, s)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%many == 0 {
			if f := faults(b, dir, CheckOptions{}); f != "" {
				b.Fatal(f)
			}
		}
	}
}
