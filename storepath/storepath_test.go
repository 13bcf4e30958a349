package storepath_test

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"strings"
	"testing"

	"ersatz/nixbase32"
	"ersatz/storepath"
)

const hash = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb2"

func TestParse(t *testing.T) {
	p, err := storepath.Parse("/gnu/store/" + hash + "-ersatz-small-1.0")
	want := storepath.Path{Dir: storepath.Guix, Hash: hash, Name: "ersatz-small-1.0"}
	if err != nil || p != want || p.Base() != hash+"-ersatz-small-1.0" {
		t.Fatalf("%+v, %v", p, err)
	}
	if p.String() != "/gnu/store/"+hash+"-ersatz-small-1.0" {
		t.Errorf("printed as %s", p)
	}
	for _, name := range []string{"a", "-", "a+b-c._?=D9", strings.Repeat("x", 211)} {
		if _, err := storepath.ParseBase("/s", hash+"-"+name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, s := range map[string]string{
		"empty": "", "only a folder": "/gnu/store", "relative": hash + "-x", "relative folder": "gnu/store/" + hash + "-x",
		"root": "/" + hash + "-x", "folder not clean": "/gnu//store/" + hash + "-x", "dots": "/gnu/../store/" + hash + "-x",
		"folder ends in a slash": "/gnu/store//" + hash + "-x", "inside an item": "/gnu/store/" + hash + "-x/bin/x",
		"trailing slash": "/gnu/store/" + hash + "-x/", "no dash": "/gnu/store/" + hash, "no name": "/gnu/store/" + hash + "-",
		"short hash": "/gnu/store/" + hash[1:] + "-x", "long hash": "/gnu/store/0" + hash + "-x", "no digit": "/gnu/store/e" + hash[1:] + "-x",
		"upper case hash": "/gnu/store/" + strings.ToUpper(hash) + "-x", "dot first": "/gnu/store/" + hash + "-.x", "dots only": "/gnu/store/" + hash + "-..",
		"slash": "/gnu/store/" + hash + "-a\\b", "space": "/gnu/store/" + hash + "-a b", "nul": "/gnu/store/" + hash + "-a\x00",
		"nul in the folder": "/gnu\x00/" + hash + "-a", "newline": "/gnu/store/" + hash + "-a\n", "not ASCII": "/gnu/store/" + hash + "-é",
		"too long": "/gnu/store/" + hash + "-" + strings.Repeat("x", 212),
	} {
		if p, err := storepath.Parse(s); err == nil {
			t.Errorf("%s: %q is read as %+v", name, s, p)
		}
	}
}

func sum[T [20]byte | [32]byte | [64]byte](f func([]byte) T, s string) []byte {
	b := f([]byte(s))
	out := make([]byte, 0, 64)
	for i := range len(b) {
		out = append(out, b[i])
	}
	return out
}

// TestNix has what nix-store --print-fixed-path 2.8.0 prints for hashes of
// "abc".
func TestNix(t *testing.T) {
	for _, c := range []struct {
		dir       string
		recursive bool
		algo      string
		hash      []byte
		want      string
	}{
		{"/nix/store", false, "sha256", sum(sha256.Sum256, "abc"), "bjinwz2x63v1qnjlqx106vck7290kk46"},
		{"/nix/store", true, "sha256", sum(sha256.Sum256, "abc"), "adrn2zdyqyrakl1pgcs76k5v7arnafy9"},
		{"/nix/store", true, "sha1", sum(sha1.Sum, "abc"), "vn5cac5j1qh0gmfnkamyqg05577cxn88"},
		{"/nix/store", false, "sha1", sum(sha1.Sum, "abc"), "a9mpafad9bd3b27db1z0xj619d10id65"},
		{"/nix/store", false, "sha512", sum(sha512.Sum512, "abc"), "f560lcxca8mzlcwx5ynr5dg2qk15qldk"},
		{"/gnu/store", true, "sha256", sum(sha256.Sum256, "abc"), "ny5nkd6j4fgm3f6cvcbl36sj27v4ycz0"},
	} {
		p, err := storepath.FixedOutput(c.dir, "name-1.0", c.recursive, c.algo, c.hash)
		if err != nil || p.String() != c.dir+"/"+c.want+"-name-1.0" {
			t.Errorf("%s, recursive %v: %s, %v; want %s", c.algo, c.recursive, p, err, c.want)
		}
	}
	// builtins.toFile "b" "x", and "a" which refers to it.
	b, err := storepath.Make(storepath.Nix, "text", "sha256:"+hex.EncodeToString(sum(sha256.Sum256, "x")), "b")
	if err != nil || b.Base() != "w320iz5b4848q2l7a7x8mw2vymm22ddg-b" {
		t.Errorf("text: %s, %v", b, err)
	}
	a, err := storepath.Make(storepath.Nix, "text:"+b.String(), "sha256:"+hex.EncodeToString(sum(sha256.Sum256, "ref "+b.String())), "a")
	if err != nil || a.Base() != "prxr9d1n6aqy9hdkd7qfz26xffq7xfjs-a" {
		t.Errorf("text with a reference: %s, %v", a, err)
	}
}

// TestGuix has an item that Guix 1.5.0 added to its store, and its NarHash.
func TestGuix(t *testing.T) {
	h, err := nixbase32.Decode("18cl4j6d6mr843h7aqx7fql968wyh4jksil330drj1wbgzxm25rk")
	if err != nil {
		t.Fatal(err)
	}
	p, err := storepath.Source(storepath.Guix, "ersatz-many", [32]byte(h), nil)
	if err != nil || p.String() != "/gnu/store/wr396f0gqnlw7xshn71nkhnyb8ndvlvz-ersatz-many" {
		t.Errorf("%s, %v", p, err)
	}
	one, err := storepath.Source(storepath.Guix, "x", [32]byte(h), []storepath.Path{p, {Dir: storepath.Guix, Hash: hash, Name: "y"}})
	if err != nil {
		t.Fatal(err)
	}
	two, err := storepath.Source(storepath.Guix, "x", [32]byte(h), []storepath.Path{{Dir: storepath.Guix, Hash: hash, Name: "y"}, p})
	if err != nil || one != two || one.Hash == p.Hash {
		t.Errorf("the order of references counts: %s, %s, %v", one, two, err)
	}
	if _, err := storepath.Make(storepath.Guix, "source", "sha256:00", ".bad"); err == nil {
		t.Error("a name that no item can have")
	}
}

func FuzzParse(f *testing.F) {
	seeds := []string{
		"/gnu/store/" + hash + "-x", "/nix/store/" + hash + "-a+b", "/s/" + hash + "-.", "/" + hash + "-x", "//" + hash + "-x",
		"/gnu/store/" + hash + "-", hash + "-x", "/./" + hash + "-x", "/a/" + hash + "-x/" + hash + "-y", "",
	}
	if len(seeds) != 10 {
		f.Fatalf("%d seeds", len(seeds))
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := storepath.Parse(s)
		if err != nil {
			return
		}
		if p.String() != s {
			t.Fatalf("%q is printed as %q", s, p)
		}
		if !storepath.ValidHash(p.Hash) || !storepath.ValidName(p.Name) || strings.ContainsAny(p.Base(), "/\x00\n ") {
			t.Fatalf("%q: %+v", s, p)
		}
		if q, err := storepath.ParseBase(p.Dir, p.Base()); err != nil || q != p {
			t.Fatalf("%q: %+v, %v", s, q, err)
		}
	})
}
