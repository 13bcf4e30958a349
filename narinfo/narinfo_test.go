package narinfo_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/guixsig"
	"ersatz/narinfo"
	"ersatz/storepath"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parse(t *testing.T, text []byte) *narinfo.Narinfo {
	t.Helper()
	n, err := narinfo.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func acl(t *testing.T) guixsig.ACL {
	t.Helper()
	a, err := guixsig.ParseACL(read(t, "acl"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestRealNarinfos verifies narinfos that `guix publish` 1.5.0 has served.
func TestRealNarinfos(t *testing.T) {
	names, err := filepath.Glob("testdata/*-ersatz-*.narinfo")
	if err != nil || len(names) != 2 {
		t.Fatalf("%d narinfos, %v; want 2", len(names), err)
	}
	for _, name := range names {
		n := parse(t, read(t, filepath.Base(name)))
		s, err := n.VerifyGuix(acl(t))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if s.StorePath.String() != n.StorePath || s.NarHash != n.NarHash || !s.HasNarSize || s.NarSize != n.NarSize {
			t.Errorf("%s: signed %+v", name, s)
		}
		if len(n.Nars) != 2 || n.Nars[0].Compression != "zstd" || n.Nars[1].FileSize == 0 || s.Host != "vm" {
			t.Errorf("%s: nars %+v, host %q", name, n.Nars, s.Host)
		}
		fields := narinfo.Fields{
			StorePath: s.StorePath, NarHash: s.NarHash, NarSize: s.NarSize, References: s.References, Deriver: s.Deriver,
		}
		if !bytes.Equal(fields.Body(), n.SignedPart()) {
			t.Errorf("%s: printed as\n%s", name, fields.Body())
		}
		printed := append(append(fields.Body(), "Signature: "+n.Signature+"\n"...), narinfo.Locations(n.Nars)...)
		if !bytes.Equal(printed, n.Text()) {
			t.Errorf("%s: printed as\n%s", name, printed)
		}
	}
}

// TestProposal checks the two narinfos printed in Guix bug 52555, their
// wrapped lines joined: the second is signed as it stands, the first carries
// the second's signature.
func TestProposal(t *testing.T) {
	second := parse(t, read(t, "proposal-2.narinfo"))
	sig, host, err := second.ParsedSignature()
	if err != nil || host != "strawberry" {
		t.Fatal(host, err)
	}
	trusted := guixsig.ACL{}.Add(sig.Key())
	s, err := second.VerifyGuix(trusted)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(s.ERIS, "urn:erisx2:B4A") || s.ERISFormat != "application/x-nix-archive+zstd-19" {
		t.Errorf("signed ERIS %q, format %q", s.ERIS, s.ERISFormat)
	}
	if _, err := second.VerifyGuix(acl(t)); !errors.Is(err, narinfo.ErrUnauthorized) {
		t.Errorf("with an ACL without the key: %v", err)
	}
	if _, err := parse(t, read(t, "proposal-1.narinfo")).VerifyGuix(trusted); !errors.Is(err, narinfo.ErrChanged) {
		t.Errorf("the first narinfo: %v", err)
	}
}

func newKey(t *testing.T) *guixsig.PrivateKey {
	t.Helper()
	k, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signed(t *testing.T, body string, key *guixsig.PrivateKey) string {
	t.Helper()
	b, err := narinfo.SignGuix([]byte(body), key, "host")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const (
	hash  = "sha256:1hhr79fmi8vpq527nh2ssqzn1f7b4qp0i0z3a9x7zwrmxcsiz58l"
	item  = "/gnu/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2-ersatz-small-1.0"
	body  = "StorePath: " + item + "\nNarHash: " + hash + "\nNarSize: 3328\nReferences: \nERISFormat: f\nERIS: urn:eris:X\n"
	place = "URL: nar/zstd/x\nCompression: zstd\nFileSize: 393\n"
)

func TestVerify(t *testing.T) {
	key := newKey(t)
	trusted := guixsig.ACL{}.Add(key.Public())
	good := signed(t, body, key) + place
	for _, c := range []struct {
		name, text string
		want       error
	}{
		{"as signed", good, nil},
		{"URL changed", strings.Replace(good, "nar/zstd/x", "nar/zstd/y", 1), nil},
		{"ERIS changed", strings.Replace(good, "eris:X", "eris:Y", 1), narinfo.ErrChanged},
		{"size changed", strings.Replace(good, "3328", "3329", 1), narinfo.ErrChanged},
		{"unknown field added above", "X: y\n" + good, narinfo.ErrChanged},
		{"unknown field added below", good + "X: y\n", nil},
		{"unsigned", body + place, narinfo.ErrUnsigned},
		{"references below", signed(t, strings.Replace(body, "References: \n", "", 1), key) + "References: \n", narinfo.ErrUnsigned},
		{"no references", signed(t, strings.Replace(body, "References: \n", "", 1), key), narinfo.ErrUnsigned},
		{"signature marker in a field", "X: Signature:\n" + good, narinfo.ErrUnsigned},
		{"not base64", strings.Replace(good, "1;host;", "1;host;!", 1), narinfo.ErrUnsigned},
		{"another version", strings.Replace(good, "1;host;", "2;host;", 1), narinfo.ErrUnsigned},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse(t, []byte(c.text)).VerifyGuix(trusted)
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	if _, err := parse(t, []byte(good)).VerifyGuix(guixsig.ACL{}); !errors.Is(err, narinfo.ErrUnauthorized) {
		t.Errorf("an empty ACL: %v", err)
	}
}

// TestForged gives a narinfo a signature whose hash fits and whose numbers
// are another text's.
func TestForged(t *testing.T) {
	key := newKey(t)
	one := key.Sign(sha256.Sum256([]byte(body))).Text()
	two := key.Sign(sha256.Sum256([]byte("another"))).Text()
	cut := func(b []byte) (int, int) {
		return bytes.Index(b, []byte("(sig-val")), bytes.Index(b, []byte("(public-key"))
	}
	a1, e1 := cut(one)
	a2, e2 := cut(two)
	forged := string(one[:a1]) + string(two[a2:e2]) + string(one[e1:])
	sig, err := guixsig.ParseSignature([]byte(forged))
	if err != nil {
		t.Fatal(err)
	}
	if err := sig.Verify(); !errors.Is(err, guixsig.ErrBadSignature) {
		t.Error(err)
	}
}

// TestSignedOnly checks that what stands below the signature is not believed.
func TestSignedOnly(t *testing.T) {
	key := newKey(t)
	bare := "StorePath: " + item + "\nNarHash: " + hash + "\nReferences: \n"
	text := signed(t, bare, key) + "NarSize: 99\nDeriver: d\nERISFormat: f\nERIS: urn:eris:X\nERISMagnet: magnet:X\n" + place
	s, err := parse(t, []byte(text)).VerifyGuix(guixsig.ACL{}.Add(key.Public()))
	if err != nil {
		t.Fatal(err)
	}
	if s.HasNarSize || s.NarSize != 0 || s.Deriver != "" || s.ERIS != "" || s.ERISFormat != "" || s.ERISMagnet != "" {
		t.Errorf("believed: %+v", s)
	}
	// A torrent is of blocks: without a signed URN there is none.
	const urn, magnet = "ERISFormat: f\nERIS: urn:eris:X\n", "ERISMagnet: magnet:X\n"
	for _, tt := range []struct{ above, below, want string }{
		{urn + magnet, "", "magnet:X"}, {urn, magnet, ""}, {magnet, urn, ""},
	} {
		text := signed(t, bare+tt.above, key) + tt.below + place
		s, err := parse(t, []byte(text)).VerifyGuix(guixsig.ACL{}.Add(key.Public()))
		if err != nil || s.ERISMagnet != tt.want {
			t.Errorf("magnet link %q, want %q; %v", s.ERISMagnet, tt.want, err)
		}
	}
	other, err := storepath.Parse("/gnu/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1-openssl-1.0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Matches(other); !errors.Is(err, narinfo.ErrWrongPath) {
		t.Errorf("another path: %v", err)
	}
	if err := s.Matches(s.StorePath); err != nil {
		t.Error(err)
	}
}

func TestAgrees(t *testing.T) {
	key := newKey(t)
	s, err := parse(t, []byte(signed(t, body, key))).VerifyGuix(guixsig.ACL{}.Add(key.Public()))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		body: true,
		strings.Replace(body, "ERIS: urn:eris:X", "ERIS: urn:eris:Y", 1):                           true,
		strings.Replace(body, "3328", "3329", 1):                                                   false,
		strings.Replace(body, "b2-ersatz", "b3-ersatz", 1):                                         false,
		strings.Replace(body, "1hhr", "1hhs", 1):                                                   false,
		strings.Replace(body, "References: ", "References: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1-x", 1): false,
	} {
		if got := s.Agrees(parse(t, []byte(text))); got != want {
			t.Errorf("agrees %v with\n%s", got, text)
		}
	}
}

func TestMalformed(t *testing.T) {
	for name, text := range map[string]string{
		"empty":              "",
		"no newline":         strings.TrimSuffix(body, "\n"),
		"no StorePath":       strings.SplitN(body, "\n", 2)[1],
		"twice":              body + "NarSize: 3328\n",
		"magnet twice":       body + "ERISMagnet: a\nSignature: x\nERISMagnet: b\n",
		"ERIS twice":         body + "Signature: x\nERIS: urn:eris:Y\n",
		"negative size":      strings.Replace(body, "3328", "-1", 1),
		"leading zero":       strings.Replace(body, "3328", "03328", 1),
		"too large":          strings.Replace(body, "3328", "18446744073709551616", 1),
		"bad hash":           strings.Replace(body, "sha256:1", "sha256:e", 1),
		"bad reference":      strings.Replace(body, "References: ", "References: ../x", 1),
		"carriage return":    strings.ReplaceAll(body, "\n", "\r\n"),
		"no colon":           body + "nonsense\n",
		"size without URL":   body + "FileSize: 3\n",
		"relative StorePath": strings.Replace(body, "/gnu/store/", "", 1),
	} {
		if _, err := narinfo.Parse([]byte(text)); !errors.Is(err, narinfo.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := parse(t, []byte(strings.Replace(body, "3328", "18446744073709551615", 1))); n.NarSize != 1<<64-1 {
		t.Errorf("NarSize %d", n.NarSize)
	}
}

func FuzzParse(f *testing.F) {
	names, err := filepath.Glob("testdata/*narinfo")
	if err != nil || len(names) != 5 {
		f.Fatalf("%d seeds, %v; want 5", len(names), err)
	}
	for _, name := range names {
		f.Add(read(f, filepath.Base(name)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := narinfo.Parse(text)
		if err != nil {
			return
		}
		if !bytes.Equal(n.Text(), text) {
			t.Fatal("the text is not kept")
		}
		if _, err := n.VerifyGuix(guixsig.ACL{}); err == nil {
			t.Fatal("an empty ACL accepts it")
		}
		p, err := storepath.Parse(n.StorePath)
		if err != nil {
			t.Fatal(err)
		}
		fields := narinfo.Fields{
			StorePath: p, NarHash: n.NarHash, NarSize: n.NarSize, References: n.References,
			Deriver: n.Deriver, ERISFormat: n.ERISFormat, ERIS: n.ERIS, ERISMagnet: n.ERISMagnet,
		}
		m, err := narinfo.Parse(fields.Body())
		if err != nil {
			t.Fatalf("%v in what was printed:\n%s", err, fields.Body())
		}
		if m.StorePath != n.StorePath || m.NarHash != n.NarHash || m.NarSize != n.NarSize || m.Deriver != n.Deriver ||
			m.ERIS != n.ERIS || m.ERISMagnet != n.ERISMagnet || strings.Join(m.References, " ") != strings.Join(n.References, " ") {
			t.Fatalf("printed as\n%s", fields.Body())
		}
	})
}
