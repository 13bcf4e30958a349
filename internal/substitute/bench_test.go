package substitute_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/internal/substitute"
)

// BenchmarkQuery asks for 500 items that one server has.
func BenchmarkQuery(b *testing.B) {
	server := newServer(b)
	line := "info"
	dir := b.TempDir()
	for i := range 500 {
		name := filepath.Join(dir, fmt.Sprint(i))
		must(b, os.WriteFile(name, fmt.Append(nil, i), 0o644))
		it := newItem(b, fmt.Sprintf("q-item-%d", i), name, "none")
		server.add(b, it, key(b, 1))
		line += " " + it.path.String()
	}
	for _, warm := range []bool{false, true} {
		b.Run(fmt.Sprintf("warm=%v", warm), func(b *testing.B) {
			m := newMachine(b, server.URL)
			if !warm {
				m.o.States = nil
			}
			for b.Loop() {
				if got := m.query(line); len(got) != 500*6+1 {
					b.Fatalf("%d lines", len(got))
				}
			}
		})
	}
}

// BenchmarkSubstitute installs one file of 32 MiB that does not compress.
func BenchmarkSubstitute(b *testing.B) {
	name := filepath.Join(b.TempDir(), "file")
	must(b, os.WriteFile(name, noise(32<<20, 1), 0o644))
	for _, way := range []string{"blocks", "nar"} {
		b.Run(way, func(b *testing.B) {
			it := newItem(b, "big-1.0", name, "zstd:1")
			if way == "nar" {
				it.fields.ERIS, it.fields.ERISFormat = "", ""
			}
			server := newServer(b)
			server.add(b, it, key(b, 1))
			m := newMachine(b, server.URL)
			s, err := substitute.New(m.daemon, io.Discard, m.o)
			must(b, err)
			defer s.Close()
			b.SetBytes(it.info.Size)
			for b.Loop() {
				var out bytes.Buffer
				must(b, s.Substitute(b.Context(), strings.NewReader(fmt.Sprintf("substitute %s %s\n", it.path, m.dest(it))), &out))
				if !strings.HasPrefix(out.String(), "success") {
					b.Fatal(out.String())
				}
				must(b, os.Remove(m.dest(it)))
			}
		})
	}
}
