package upstream

import (
	"bytes"
	"testing"
)

func FuzzCacheEntry(f *testing.F) {
	for _, s := range []string{
		"", "ersatz-narinfo-1 found 1700000000 3\nabc", "ersatz-narinfo-1 absent 1700000000 0\n",
		"ersatz-narinfo-1 absent 1700000000 0\nx", "ersatz-narinfo-1 found 1 4\nabc", "ersatz-narinfo-1 found 01 3\nabc",
		"ersatz-narinfo-1 found -1 0\n", "ersatz-narinfo-1 found 1 0", "ersatz-narinfo-2 found 1 0\n", "\x00\x00\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		e, err := parseEntry(file)
		if err == nil && !bytes.Equal(e.bytes(), file) {
			t.Fatalf("%q is accepted, but is written as %q", file, e.bytes())
		}
	})
}
