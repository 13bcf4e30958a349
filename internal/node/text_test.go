package node

import (
	"bytes"
	"strings"
	"testing"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/narinfo"
	"ersatz/storepath"
)

const (
	guixItem = "/gnu/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-a+b-1.0"
	nixItem  = "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-a"
	someHash = "sha256:1hhr79fmi8vpq527nh2ssqzn1f7b4qp0i0z3a9x7zwrmxcsiz58l"
)

// testKey returns a Guix key made of one byte.
func testKey(t testing.TB, b byte) *guixsig.PrivateKey {
	t.Helper()
	k, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{b}, 4096)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// sign signs a text as Guix does.
func sign(t testing.TB, text string, key *guixsig.PrivateKey) string {
	t.Helper()
	out, err := narinfo.SignGuix([]byte(text), key, "host")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// someHint is a hint with a read capability of zeros.
func someHint() hint {
	return hint{eris.ReadCap{Size: eris.Size1KiB, Level: 0}, "application/x-nix-archive+zstd"}
}

func TestRewrite(t *testing.T) {
	key := testKey(t, 1)
	body := "StorePath: " + guixItem + "\nNarHash: " + someHash + "\nNarSize: 3328\nReferences: \n"
	eris := "ERISFormat: application/x-nix-archive+zstd-19\nERIS: urn:eris:X\n"
	nars := "URL: nar/zstd/x\nCompression: zstd\nFileSize: 393\nURL: nar/lzip/x\nCompression: lzip\nFileSize: 374\n"
	ours := "URL: nar/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-a%2Bb-1.0\nCompression: none\nFileSize: 3328\n"
	urn := "ERISHintFormat: application/x-nix-archive+zstd\nERISHint: " + someHint().readCap.URN() + "\n"
	nix := strings.ReplaceAll(body, guixItem, nixItem)
	nixOurs := strings.ReplaceAll(ours, "a%2Bb-1.0", "a")
	old := "URL: nar/gzip/x\nCompression: gzip\n"
	for _, c := range []struct {
		name, in string
		h        hint
		want     string
	}{
		{"signed by Guix", sign(t, body, key) + nars, hint{}, sign(t, body, key) + ours},
		{"with a URN", sign(t, body+eris, key) + nars, someHint(), sign(t, body+eris, key) + ours},
		{"with a hint", sign(t, body, key) + nars, someHint(), sign(t, body, key) + urn + ours},
		{"another's hint", sign(t, body, key) + urn + nars, hint{}, sign(t, body, key) + ours},
		{"a URN that nothing covers", sign(t, body, key) + eris + nars, hint{}, sign(t, body, key) + ours},
		{"half a URN", sign(t, body+"ERIS: urn:eris:X\n", key), someHint(), sign(t, body+"ERIS: urn:eris:X\n", key) + urn + ours},
		{"unsigned", body + nars, someHint(), body + urn + ours},
		{"URLs above the signature", sign(t, body+nars, key), hint{}, sign(t, body+nars, key) + ours},
		{"a URL without a size above the signature", sign(t, body+old, key), hint{}, sign(t, body+old, key) + strings.TrimSuffix(ours, "FileSize: 3328\n")},
		{"unknown fields", sign(t, body+"Above: 1\n", key) + "Below: 2\n" + nars, hint{}, sign(t, body+"Above: 1\n", key) + "Below: 2\n" + ours},
		{"signed by Nix", nix + "URL: nar/x.nar.xz\nCompression: xz\nFileHash: " + someHash + "\nFileSize: 9\nDeriver: d\nSig: k:x\nCA: c\n", hint{},
			nix + "Deriver: d\nSig: k:x\nCA: c\n" + nixOurs},
		{"signed by both", sign(t, nix, key) + "Sig: k:x\n" + nars, hint{}, sign(t, nix, key) + "Sig: k:x\n" + nixOurs},
	} {
		n, err := narinfo.Parse([]byte(c.in))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		p, err := storepath.Parse(n.StorePath)
		if err != nil {
			t.Fatal(err)
		}
		got := rewrite(n, p, 3328, c.h)
		if string(got) != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
		again, err := narinfo.Parse(got)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !bytes.Equal(again.SignedPart(), n.SignedPart()) || again.Fingerprint() != n.Fingerprint() {
			t.Errorf("%s: what signatures cover has changed", c.name)
		}
		if last := again.Nars[len(again.Nars)-1]; last.Compression != "none" || !strings.HasPrefix(last.URL, "nar/") {
			t.Errorf("%s: our nar is %+v", c.name, last)
		}
	}
}

// FuzzRewrite: whatever a server says, what comes out is a narinfo of the same
// item, under the same signatures, that offers one nar more than is signed.
func FuzzRewrite(f *testing.F) {
	body := "StorePath: " + guixItem + "\nNarHash: " + someHash + "\nNarSize: 3328\nReferences: \n"
	seeds := []string{
		body, sign(f, body, testKey(f, 1)), sign(f, body+"URL: x\nCompression: gzip\n", testKey(f, 1)) + "URL: y\nFileSize: 1\n",
		"Sig: a:b\n" + body + "ERIS: x\nERISFormat: y\nUnknown: Signature: z\n", "URL:\n" + body + "URL:\n", body + "ERISHint: a\n",
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := narinfo.Parse([]byte(text))
		if err != nil {
			return
		}
		p, err := storepath.Parse(n.StorePath)
		if err != nil {
			t.Fatal(err)
		}
		out, err := narinfo.Parse(rewrite(n, p, 3328, someHint()))
		if err != nil {
			if len(n.Nars) == narinfo.MaxNars || len(text) > narinfo.MaxSize-1024 {
				return // no room for ours
			}
			t.Fatal(err)
		}
		if !bytes.Equal(out.SignedPart(), n.SignedPart()) || out.Signature != n.Signature || out.Fingerprint() != n.Fingerprint() || len(out.Sigs) != len(n.Sigs) {
			t.Fatal("what signatures cover has changed")
		}
		if signed := count(n.SignedPart(), "URL"); len(out.Nars) != signed+1 {
			t.Fatalf("%d nars, %d of them signed", len(out.Nars), signed)
		}
	})
}
