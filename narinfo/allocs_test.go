package narinfo_test

import (
	"bytes"
	"testing"

	"ersatz/guixsig"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// signedText returns a narinfo as `ersatz publish` has it, and an ACL with its
// key.
func signedText(t testing.TB) ([]byte, guixsig.ACL) {
	t.Helper()
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{5}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	p, err := storepath.Parse("/gnu/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-item-1.0")
	if err != nil {
		t.Fatal(err)
	}
	f := narinfo.Fields{
		StorePath: p, NarHash: [32]byte{1}, NarSize: 1 << 20, References: []string{p.Base(), "ccccccccccccccccccccccccccccccc2-lib-2.0"},
		Deriver: "ddddddddddddddddddddddddddddddd2-item-1.0.drv", ERISFormat: "application/x-nix-archive+zstd-19", ERIS: "urn:eris:X",
	}
	text, err := narinfo.SignGuix(f.Body(), key, "host")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, narinfo.Locations([]narinfo.Nar{{URL: "nar/zstd/x", Compression: "zstd", FileSize: 1000}})...), guixsig.ACL{}.Add(key.Public())
}

// TestAllocs bounds what a query of hundreds of narinfos costs for each.
func TestAllocs(t *testing.T) {
	text, acl := signedText(t)
	n, err := narinfo.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		most float64
		f    func() error
	}{
		"parse":  {12, func() error { _, err := narinfo.Parse(text); return err }},
		"verify": {36, func() error { _, err := n.VerifyGuix(acl); return err }},
	} {
		got := testing.AllocsPerRun(100, func() {
			if err := c.f(); err != nil {
				t.Fatal(err)
			}
		})
		if t.Logf("%s: %v allocations", name, got); got > c.most {
			t.Errorf("%s: %v allocations, at most %v", name, got, c.most)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	text, _ := signedText(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := narinfo.Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyGuix(b *testing.B) {
	text, acl := signedText(b)
	n, err := narinfo.Parse(text)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := n.VerifyGuix(acl); err != nil {
			b.Fatal(err)
		}
	}
}
