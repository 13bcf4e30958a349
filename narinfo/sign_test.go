package narinfo_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"ersatz/guixsig"
	"ersatz/narinfo"
)

func TestSignRefuses(t *testing.T) {
	key := newKey(t)
	for name, c := range map[string]struct{ body, host string }{
		"signed already":     {signed(t, body, key), "host"},
		"no newline":         {strings.TrimSuffix(body, "\n"), "host"},
		"empty":              {"", "host"},
		"semicolon in host":  {body, "a;b"},
		"newline in host":    {body, "a\nURL: x"},
		"marker in a field":  {body + "X: Signature: y\n", "host"},
		"marker as a suffix": {body + "MySignature: y\n", "host"},
	} {
		if b, err := narinfo.SignGuix([]byte(c.body), key, c.host); err == nil {
			t.Errorf("%s: signed as\n%s", name, b)
		}
	}
	in := []byte(body)
	out, err := narinfo.SignGuix(in, key, "")
	if err != nil || !bytes.HasPrefix(out, in) || bytes.Count(out, []byte("\n")) != bytes.Count(in, []byte("\n"))+1 {
		t.Errorf("%v:\n%s", err, out)
	}
}

// TestLimits: what a hostile server can make of one narinfo.
func TestLimits(t *testing.T) {
	if _, err := narinfo.Parse([]byte(body + strings.Repeat("X: y\n", narinfo.MaxSize/5))); !errors.Is(err, narinfo.ErrMalformed) {
		t.Errorf("a text beyond the limit: %v", err)
	}
	many := strings.Repeat(place, narinfo.MaxNars)
	if n := parse(t, []byte(body+many)); len(n.Nars) != narinfo.MaxNars {
		t.Errorf("%d nars", len(n.Nars))
	}
	if _, err := narinfo.Parse([]byte(body + many + place)); !errors.Is(err, narinfo.ErrMalformed) {
		t.Errorf("more nars than the limit: %v", err)
	}
	// An error does not repeat what may be a megabyte.
	_, err := narinfo.Parse([]byte(body + strings.Repeat("x", 100_000) + "\n"))
	if err == nil || len(err.Error()) > 300 {
		t.Errorf("error of %d bytes", len(fmt.Sprint(err)))
	}
}

// TestSignedDoesNotShare: what verification returned stays as it was.
func TestSignedDoesNotShare(t *testing.T) {
	key := newKey(t)
	text := []byte(signed(t, strings.Replace(body, "References: ", "References: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1-x", 1), key))
	n := parse(t, text)
	s, err := n.VerifyGuix(guixsig.ACL{}.Add(key.Public()))
	if err != nil {
		t.Fatal(err)
	}
	clear(text)
	n.References[0] = "changed"
	if s.References[0] != "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1-x" || !strings.HasPrefix(string(n.Text()), "StorePath") {
		t.Errorf("%v, %s", s.References, n.Text())
	}
}

// FuzzSignVerify signs any body that is a narinfo and verifies it; then
// changes one byte above the signature, which is never accepted, or below,
// which does not change what is believed.
func FuzzSignVerify(f *testing.F) {
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		f.Fatal(err)
	}
	trusted := guixsig.ACL{}.Add(key.Public())
	seeds := []string{
		body, body + "X: y\n", "StorePath: " + item + "\nNarHash: " + hash + "\nReferences:\n",
		"References: \n" + strings.Replace(body, "References: \n", "", 1), body + place, body + "Sig: a:b\n", strings.Replace(body, "References: \n", "", 1),
	}
	for i, s := range seeds {
		f.Add([]byte(s), uint16(i*31), byte(1))
		f.Add([]byte(s), uint16(i*57+1000), byte(0x20))
	}
	f.Fuzz(func(t *testing.T, in []byte, at uint16, flip byte) {
		n, err := narinfo.Parse(in)
		if err != nil || n.Signature != "" {
			return
		}
		out, err := narinfo.SignGuix(in, key, "host")
		if err != nil || len(out) > narinfo.MaxSize {
			return
		}
		text := append(out, place...)
		if len(n.Nars)+1 > narinfo.MaxNars {
			return
		}
		n, err = narinfo.Parse(text)
		if err != nil {
			t.Fatalf("%v in what was signed:\n%s", err, text)
		}
		s, err := n.VerifyGuix(trusted)
		if err != nil && !errors.Is(err, narinfo.ErrUnsigned) {
			t.Fatalf("%v:\n%s", err, text)
		}
		if err != nil {
			return // no References
		}
		if s.StorePath.String() != n.StorePath || s.NarHash != n.NarHash || s.HasNarSize != n.HasNarSize || s.NarSize != n.NarSize || !s.Agrees(n) {
			t.Fatalf("%+v of\n%s", s, text)
		}
		i := int(at) % len(text)
		text[i] ^= flip
		m, err := narinfo.Parse(text)
		if err != nil || flip == 0 {
			return
		}
		s2, err := m.VerifyGuix(trusted)
		if err == nil && i < len(in) {
			t.Fatalf("byte %d changed and accepted:\n%s", i, text)
		}
		if err == nil && (s2.StorePath != s.StorePath || s2.NarHash != s.NarHash || s2.NarSize != s.NarSize || s2.ERIS != s.ERIS || s2.ERISMagnet != s.ERISMagnet) {
			t.Fatalf("byte %d below the signature changes what is believed:\n%s", i, text)
		}
	})
}
