package substitute_test

import (
	"io"
	"testing"

	"github.com/ulikunitz/xz"

	"ersatz/internal/compress"
)

func newCompressor(w io.Writer, m compress.Method) (io.WriteCloser, error) {
	if m.Name == "xz" {
		return xz.NewWriter(w)
	}
	return compress.NewWriter(w, m)
}

func TestPlainNar(t *testing.T) {
	for _, method := range []string{"none", "gzip", "lzip", "zstd:3", "xz"} {
		t.Run(method, func(t *testing.T) {
			it := newItem(t, "plain-1.0", tree(t, 50_000), method)
			server := newServer(t)
			server.add(t, it, key(t, 1))
			m := newMachine(t, server.URL)
			m.wantInstalled(m.substitute(it)[0], it)
			if want := server.URL + "/" + it.nars[0].URL; m.source() != want {
				t.Errorf("source is %q, want %q", m.source(), want)
			}
		})
	}
}

func TestBlocksFirst(t *testing.T) {
	for _, methods := range [][]string{{"zstd:3", "none"}, {"none"}, {"gzip:1"}} {
		it := newItem(t, "big-1.0", tree(t, 2<<20), methods...)
		server := newServer(t)
		server.add(t, it, key(t, 1))
		m := newMachine(t, server.URL)
		m.wantInstalled(m.substitute(it)[0], it)
		if m.source() != it.fields.ERIS {
			t.Errorf("%s: source is %q, want the URN", methods, m.source())
		}
		if n := server.count("GET /nar"); n != 0 {
			t.Errorf("%s: %d nars were asked for", methods, n)
		}
	}
}
