package transfer

import (
	"bytes"
	"fmt"
	"io"
	"testing"
)

// BenchmarkGet is an item of 64 MiB that compresses to a third or so, by each
// way, and once more from what is kept. CPU time is of the origin too.
func BenchmarkGet(b *testing.B) {
	x := newThing(b, 1, 1, "zstd")
	words := noise(3, 1<<16)
	var text bytes.Buffer
	for k := 0; text.Len() < 64<<20; k++ {
		at := k * 7919 % (len(words) - 64)
		fmt.Fprintf(&text, "%d %x %s\n", k, words[at:at+8], words[at%1000:at%1000+20])
	}
	x.setNar(b, text.Bytes()[:64<<20])
	for _, way := range []string{"blocks", "nar", "kept"} {
		b.Run(way, func(b *testing.B) {
			o := newOrigin(b, x)
			b.SetBytes(int64(len(x.nar)))
			m := newMachine(b)
			if way == "nar" {
				m.o.Policy = HTTPOnly
			}
			m.start()
			w := x.want(b, o.url)
			get := func() {
				n, err := m.trans.Get(b.Context(), w)
				must(b, err)
				_, err = io.Copy(io.Discard, n)
				must(b, err)
				closing(b, n)
				m.settled()
			}
			if way == "kept" {
				get()
			}
			for b.Loop() {
				if way != "kept" {
					must(b, m.store.Remove(b.Context(), x.fields.StorePath.Hash))
				}
				get()
			}
		})
	}
}
