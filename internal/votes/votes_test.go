package votes

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"ersatz/guixsig"
	"ersatz/nixsig"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func guixKey(t testing.TB, n byte) *guixsig.PrivateKey {
	t.Helper()
	k, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	must(t, err)
	return k
}

func nixKey(t testing.TB, name string, n byte) nixsig.SecretKey {
	t.Helper()
	k, err := nixsig.GenerateKey(name, bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	must(t, err)
	return k
}

// policy reads "require need of" and the keys.
func policy(t testing.TB, need int, keys ...fmt.Stringer) Policy {
	t.Helper()
	text := fmt.Sprintf("require %d of\n", need)
	for _, k := range keys {
		text += k.String() + "\n"
	}
	p, err := Parse([]byte(text))
	must(t, err)
	return p
}

func TestParse(t *testing.T) {
	one, two := guixKey(t, 1).Public(), guixKey(t, 2).Public()
	three := nixKey(t, "three-1", 3).Public()
	text := fmt.Sprintf("# Two of these.\n\n  require 2 of # them\n%s berlin\t# and more\r\n%s\n%s other\n", one, strings.ToLower(two.String()), three)
	p, err := Parse([]byte(text))
	must(t, err)
	if need, of := p.Size(); need != 2 || of != 3 {
		t.Errorf("%d of %d", need, of)
	}
	acl, nix := p.Keys()
	if len(acl.Keys()) != 2 || !acl.Authorizes(one) || !acl.Authorizes(two) || len(nix) != 1 || nix[0].String() != three.String() {
		t.Errorf("keys %v, %v", acl.Keys(), nix)
	}
	want := fmt.Sprintf("require 2 of\n%s berlin\n%s\n%s other\n", one, two, three)
	if p.String() != want {
		t.Errorf("printed %q, want %q", p.String(), want)
	}
	if _, err := Parse(bytes.TrimSuffix([]byte(text), []byte("\n"))); err != nil {
		t.Errorf("without the last newline: %v", err)
	}
}

// TestListedTwice: one key is one of the n, however it is written, and so two
// of two cannot be had from it.
func TestListedTwice(t *testing.T) {
	one, k := guixKey(t, 1).Public().String(), nixKey(t, "a", 3).Public().String()
	_, text, _ := strings.Cut(k, ":")
	point, err := base64.StdEncoding.DecodeString(text)
	must(t, err)
	for _, again := range [][2]string{
		{one, one + " renamed"}, {one, strings.Replace(strings.ToLower(one), "ED", "ed", 1)},
		{k, k}, {k, "b:" + text}, {k, fmt.Sprintf("ed25519:%X", point)},
	} {
		lines := again[0] + "\n" + again[1] + "\n"
		p, err := Parse([]byte("require 1 of\n" + lines))
		must(t, err)
		if _, of := p.Size(); of != 1 {
			t.Errorf("%q: %d keys", lines, of)
		}
		if _, err := Parse([]byte("require 2 of\n" + lines)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: two of one key: %v", lines, err)
		}
	}
}

func TestMalformed(t *testing.T) {
	key := guixKey(t, 1).Public().String()
	many := "require 1 of\n"
	for n := range maxVoters + 1 {
		many += guixKey(t, byte(n+1)).Public().String() + "\n"
	}
	for name, c := range map[string]struct{ text, want string }{
		"empty":           {"", `no "require K of"`},
		"comment":         {"# require 1 of\n", `no "require K of"`},
		"keys alone":      {key + "\n", `line 1: not "require K of"`},
		"no keys":         {"require 1 of\n", "1 of 0 keys"},
		"too many needed": {"require 2 of\n" + key + "\n", "2 of 1 keys can never agree"},
		"none needed":     {"require 0 of\n" + key + "\n", `"0" is no number`},
		"fewer":           {"require -1 of\n" + key + "\n", `"-1" is no number`},
		"spelling":        {"require +1 of\n" + key + "\n", `"+1" is no number`},
		"huge":            {"require 99999999999999999999 of\n" + key + "\n", "is no number"},
		"twice":           {"require 1 of\nrequire 1 of\n" + key + "\n", "line 2: not a key"},
		"short key":       {"require 1 of\ned25519:00\n", "line 2: neither"},
		"no point":        {"require 1 of\ned25519:" + strings.Repeat("FF", 32) + "\n", "not a point"},
		"low order":       {"require 1 of\ned25519:01" + strings.Repeat("00", 31) + "\n", "low order"},
		"expression":      {"require 1 of\n(public-key)\n", "neither"},
		"two names":       {"require 1 of\n" + key + " a b\n", "name of one word"},
		"control":         {"require 1 of\n" + key + " \x1b[2J\n", "cannot be shown"},
		"not UTF-8":       {"require 1 of\n" + key + " \xff\n", "cannot be shown"},
		"long name":       {"require 1 of\n" + key + " " + strings.Repeat("x", 81) + "\n", "too long"},
		"many":            {many, "more than 64 keys"},
		"every fault":     {"require 1 of\nx\ny\n" + key + "\n", "line 3"},
		"too long":        {strings.Repeat("#\n", maxFile), "65536 bytes"},
	} {
		p, err := Parse([]byte(c.text))
		if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.want) || !reflect.DeepEqual(p, Policy{}) {
			t.Errorf("%s: %v, %v, want %q", name, p, err, c.want)
		}
	}
}

// TestDocumented reads the example of docs/votes.md.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/votes.md")
	must(t, err)
	_, text, _ := strings.Cut(string(page), "```\n")
	text, _, _ = strings.Cut(text, "```\n")
	p, err := Parse([]byte(text))
	must(t, err)
	if need, of := p.Size(); need != 2 || of != 3 {
		t.Errorf("%d of %d", need, of)
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "votes")
	if _, err := Load(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	want := policy(t, 1, guixKey(t, 1).Public())
	must(t, os.WriteFile(file, []byte(want.String()), 0o644))
	if p, err := Load(file); err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("%v, %v", p, err)
	}
	for _, text := range []string{"(acl)", strings.Repeat("#", maxFile+1)} {
		must(t, os.WriteFile(file, []byte(text), 0o644))
		if _, err := Load(file); !errors.Is(err, ErrMalformed) || !strings.HasPrefix(err.Error(), file+": ") {
			t.Errorf("%.10q: %v", text, err)
		}
	}
	if _, err := Load(t.TempDir()); err == nil {
		t.Error("a folder is a policy")
	}
}

// FuzzParse: what is accepted has sense, and is read again from its print.
func FuzzParse(f *testing.F) {
	one, two := guixKey(f, 1).Public().String(), nixKey(f, "two-1", 2).Public().String()
	for _, text := range []string{
		"", "require 1 of\n" + one + "\n", "require 2 of\n" + one + " name\n" + two + "\n",
		"# c\r\nrequire 1 of # c\n\n" + one + "\n" + one + " again\n", "require 1 of\n" + two + " two-1\n",
		"require 1 of\nx:AAAA\n", "require 3 of\n" + one + "\n", one,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if need, of := p.Size(); need < 1 || need > of {
			t.Fatalf("%d of %d", need, of)
		}
		again, err := Parse([]byte(p.String()))
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Fatalf("%q is printed as %q, which is %v, %v", text, p, again, err)
		}
	})
}
