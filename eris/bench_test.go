package eris_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20"
	"golang.org/x/sys/unix"

	"ersatz/eris"
)

// benchSize is a content of 16 MiB: two levels of internal nodes at 32 KiB.
const benchSize = 16 << 20

// Beside the rate by the clock, all give the one by processor time (user and
// system, of all threads): "go test -cpu 1,2" compares cores.

// BenchmarkEncode has beside each encoding ("ours") the same work by the calls
// of golang.org/x/crypto alone ("plain": keyed BLAKE2b, ChaCha20, BLAKE2b for
// each leaf), so that one run gives their ratio. The latter has one core.
func BenchmarkEncode(b *testing.B) {
	content := benchContent(b)
	for _, size := range []eris.BlockSize{eris.Size32KiB, eris.Size1KiB} {
		b.Run(fmt.Sprintf("%v/ours", size), func(b *testing.B) {
			defer measure(b)()
			b.ReportAllocs()
			for b.Loop() {
				e := eris.NewEncoder(size, eris.Secret{}, nil)
				e.Write(content)
				if _, err := e.Finish(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%v/plain", size), func(b *testing.B) {
			defer measure(b)()
			block := make([]byte, size)
			for b.Loop() {
				for off := 0; off < len(content); off += int(size) {
					node := content[off:][:size]
					h, err := blake2b.New256(make([]byte, 32))
					if err != nil {
						b.Fatal(err)
					}
					h.Write(node)
					plainXOR(b, block, node, h.Sum(nil))
					blake2b.Sum256(block)
				}
			}
		})
	}
}

// BenchmarkDecode compares reading in order from blocks in memory, filling, and
// finding all that was filled ("resume"), with BLAKE2b and ChaCha20 of each leaf by
// golang.org/x/crypto alone; "store" is what the source itself takes to find the leaves.
func BenchmarkDecode(b *testing.B) {
	content := benchContent(b)
	for _, size := range []eris.BlockSize{eris.Size32KiB, eris.Size1KiB} {
		m, leaves := benchMap{}, []eris.Ref{}
		c, _, err := eris.Encode(bytes.NewReader(content), size, eris.Secret{}, func(b eris.Block) error {
			m[b.Ref] = bytes.Clone(b.Data)
			if b.Level == 0 {
				leaves = append(leaves, b.Ref)
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("%v/ours", size), func(b *testing.B) {
			defer measure(b)()
			b.ReportAllocs()
			for b.Loop() {
				r := eris.NewReader(b.Context(), c, m, eris.ReaderOptions{})
				if n, err := r.WriteTo(io.Discard); err != nil || n != benchSize {
					b.Fatal(n, err)
				}
				r.Close()
			}
		})
		b.Run(fmt.Sprintf("%v/fill", size), func(b *testing.B) {
			defer measure(b)()
			b.ReportAllocs()
			for b.Loop() {
				f := eris.NewFiller(c, discard{}, eris.FillOptions{})
				if n, err := f.Run(b.Context(), m); err != nil || n != benchSize {
					b.Fatal(n, err)
				}
			}
		})
		b.Run(fmt.Sprintf("%v/resume", size), func(b *testing.B) {
			defer measure(b)()
			s := newShelf(c)
			for b.Loop() {
				f := eris.NewFiller(c, s, eris.FillOptions{})
				if n, err := f.Run(b.Context(), m); err != nil || n != benchSize {
					b.Fatal(n, err)
				}
			}
		})
		b.Run(fmt.Sprintf("%v/store", size), func(b *testing.B) {
			defer measure(b)()
			took := func(is []int, _ [][]byte) (int, error) { return len(is), nil }
			for b.Loop() {
				for refs := range slices.Chunk(leaves, 512) {
					if err := m.FetchMany(b.Context(), size, refs, took); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
		b.Run(fmt.Sprintf("%v/plain", size), func(b *testing.B) {
			defer measure(b)()
			node := make([]byte, size)
			key := make([]byte, 32)
			for b.Loop() {
				for off := 0; off < len(content); off += int(size) {
					block := content[off:][:size]
					blake2b.Sum256(block)
					plainXOR(b, node, block, key)
				}
			}
		})
	}
}

// BenchmarkBlockRef hashes one block alone, as who gets them one by one does.
func BenchmarkBlockRef(b *testing.B) {
	content := benchContent(b)
	for _, size := range []eris.BlockSize{eris.Size32KiB, eris.Size1KiB} {
		for name, ref := range map[string]func([]byte) eris.Ref{"ours": eris.BlockRef, "plain": func(b []byte) eris.Ref { return blake2b.Sum256(b) }} {
			b.Run(fmt.Sprintf("%v/%s", size, name), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					ref(content[:size])
				}
			})
		}
	}
}

// measure returns what is to be called when a benchmark of benchSize a round ends.
func measure(b *testing.B) func() {
	b.SetBytes(benchSize)
	start := processorTime(b)
	return func() {
		used := processorTime(b) - start
		b.ReportMetric(float64(b.N)*benchSize/1e6/used.Seconds(), "MB/cpu-s")
	}
}

func processorTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func plainXOR(b *testing.B, dst, src, key []byte) {
	c, err := chacha20.NewUnauthenticatedCipher(key, make([]byte, chacha20.NonceSize))
	if err != nil {
		b.Fatal(err)
	}
	c.XORKeyStream(dst, src)
}

func benchContent(b *testing.B) []byte {
	content, err := io.ReadAll(keystream(b, "bench", benchSize))
	if err != nil {
		b.Fatal(err)
	}
	return content
}

// benchMap is a ManyFetcher over a map that nobody writes to any more.
type benchMap map[eris.Ref][]byte

func (m benchMap) FetchMany(_ context.Context, _ eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	is, blocks := make([]int, 0, len(refs)), make([][]byte, 0, len(refs))
	for i, ref := range refs {
		if b, ok := m[ref]; ok {
			is, blocks = append(is, i), append(blocks, b)
		}
	}
	_, err := got(is, blocks)
	return err
}

func (m benchMap) Fetch(_ context.Context, _ eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	for i, ref := range refs {
		if b, ok := m[ref]; ok {
			if err := got(i, b); err != nil {
				return err
			}
		}
	}
	return nil
}
