package upstream

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"ersatz/guixsig"
	"ersatz/narinfo"
)

// TestAllocs bounds what each item of a query costs whose narinfo is cached: to
// read it, and to judge it by an ACL.
func TestAllocs(t *testing.T) {
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{5}, 32)))
	must(t, err)
	acl := guixsig.ACL{}.Add(key.Public())
	f := fields(t, func(f *narinfo.Fields) { f.References = []string{hash + "-item-1.0", hash + "-lib-2.0"} })
	text, err := narinfo.SignGuix(f.Body(), key, "host")
	must(t, err)
	text = append(text, narinfo.Locations([]narinfo.Nar{{URL: "nar/x", Compression: "zstd", FileSize: 1000}})...)
	sv := server(t, "http://a.example")
	c := openCache([]string{t.TempDir()}, time.Now, slog.New(slog.DiscardHandler))
	c.put(sv, hash, text, time.Now().Add(time.Hour))
	for name, x := range map[string]struct {
		most float64
		f    func() bool
	}{
		"read": {12, func() bool {
			e, ok := c.get(sv, hash)
			return ok && len(e.text) == len(text)
		}},
		"judge": {60, func() bool {
			choice := Choose(f.StorePath, []Answer{{Server: sv, Text: text}}, func(n *narinfo.Narinfo) (narinfo.Signed, error) { return n.VerifyGuix(acl) })
			return len(choice.Builds) == 1
		}},
	} {
		ok := true
		got := testing.AllocsPerRun(50, func() { ok = ok && x.f() })
		if t.Logf("%s: %v allocations", name, got); !ok || got > x.most {
			t.Errorf("%s: %v allocations, at most %v; it worked: %v", name, got, x.most, ok)
		}
	}
}
