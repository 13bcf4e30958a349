package narinfo_test

import (
	"testing"

	"ersatz/narinfo"
)

// TestMove: what nothing covers and holds for one server alone goes, and what
// is covered stays. Signatures are not looked at, only where they stand.
func TestMove(t *testing.T) {
	const (
		body = "StorePath: /gnu/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-a\nNarHash: sha256:1hhr79fmi8vpq527nh2ssqzn1f7b4qp0i0z3a9x7zwrmxcsiz58l\nNarSize: 9\nReferences: \n"
		urn  = "ERISFormat: f\nERIS: urn:eris:X\nERISMagnet: m\n"
		sig  = "Signature: 1;host;AAAA\n"
		nars = "URL: nar/zstd/x\nCompression: zstd\nFileSize: 393\nFileHash: sha256:x\n"
		ours = "URL: nar/x\nCompression: none\nFileSize: 9\n"
	)
	for name, c := range map[string]struct{ in, portable, moved string }{
		"signed by Guix":      {body + urn + sig + nars, body + urn + sig, body + urn + sig + ours},
		"blocks below":        {body + sig + urn + nars, body + sig, body + sig + ours},
		"both signatures":     {body + sig + "Sig: k:x\n" + nars, body + sig + "Sig: k:x\n", body + sig + "Sig: k:x\n" + ours},
		"signed by Nix":       {nars + body + urn + "Sig: k:x\nCA: c\n", body + "Sig: k:x\nCA: c\n", body + "Sig: k:x\nCA: c\n" + ours},
		"unsigned":            {body + nars, body, body + ours},
		"nars are signed":     {body + nars + sig, body + nars + sig, body + nars + sig + ours},
		"and without a size":  {body + "URL: y\nCompression: gzip\n" + sig, body + "URL: y\nCompression: gzip\n" + sig, body + "URL: y\nCompression: gzip\n" + sig + "URL: nar/x\nCompression: none\n"},
		"what is not unknown": {body + "Above: 1\n" + sig + "Below: 2\n" + nars, body + "Above: 1\n" + sig + "Below: 2\n", body + "Above: 1\n" + sig + "Below: 2\n" + ours},
	} {
		n, err := narinfo.Parse([]byte(c.in))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		portable := n.Portable()
		if string(portable) != c.portable {
			t.Errorf("%s: portable is\n%s", name, portable)
		}
		if got := n.AppendNar(portable, narinfo.Nar{URL: "nar/x", Compression: "none", FileSize: 9}); string(got) != c.moved {
			t.Errorf("%s: moved is\n%s", name, got)
		}
		if string(n.Text()) != c.in {
			t.Errorf("%s: the text has changed", name)
		}
	}
}
