package sexp_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"ersatz/sexp"
)

// key is what libgcrypt prints of a public key, with its space after each
// opening token.
const key = "(public-key \n (ecc \n  (curve Ed25519)\n  (q #3D8DC0F0C659177273514BE623E5104B6675F21A06C992DE36E91AFF18BB1482#)\n  )\n )\n"

var (
	q       = must(hex.DecodeString("3D8DC0F0C659177273514BE623E5104B6675F21A06C992DE36E91AFF18BB1482"))
	keyNode = sexp.List(sexp.Atom("public-key"), sexp.List(sexp.Atom("ecc"),
		sexp.List(sexp.Atom("curve"), sexp.Atom("Ed25519")), sexp.List(sexp.Atom("q"), sexp.Bytes(q))))
)

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// TestSpellings reads one key in every form that libgcrypt takes.
func TestSpellings(t *testing.T) {
	for name, text := range map[string]string{
		"advanced":  key,
		"one line":  "(public-key(ecc(curve Ed25519)(q #" + hex.EncodeToString(q) + "#)))",
		"base64":    "(public-key (ecc (curve \"Ed25519\") (q |" + base64.StdEncoding.EncodeToString(q) + "|)))",
		"canonical": fmt.Sprintf("(10:public-key(3:ecc(5:curve7:Ed25519)(1:q32:%s)))", q),
		"broken up": strings.ReplaceAll(strings.ReplaceAll(key, "C0F0", " C0\n\tF0 "), "(", "\r\n( "),
		"escapes":   "(\"public\\x2dkey\" (\"e\\143c\" (curve \"Ed\\\n25519\") (q #" + hex.EncodeToString(q) + "#)))",
	} {
		n, err := sexp.Parse([]byte(text))
		if err != nil || !n.Equal(keyNode) {
			t.Errorf("%s: %s, %v", name, n.Advanced(), err)
		}
		if got := n.Advanced(); string(got) != key {
			t.Errorf("%s: printed as %q", name, got)
		}
	}
}

func TestAtoms(t *testing.T) {
	for text, want := range map[string]string{
		`a-./_:*+=9`: "a-./_:*+=9", `""`: "", "##": "", "||": "", "0:": "", "#00ff#": "\x00\xff", "# 0 0 #": "\x00", "|AA==|": "\x00",
		`"\b\t\v\n\f\r\"\'\\"`: "\b\t\v\n\f\r\"'\\", `"\101\x42"`: "AB", "\"a\\\nb\"": "ab", "3:a b": "a b", "2:()": "()",
	} {
		n, err := sexp.Parse([]byte(text))
		if err != nil || n.IsList() || string(n.Atom) != want {
			t.Errorf("%s: %q, %v", text, n.Atom, err)
		}
	}
	for atom, want := range map[string]string{
		"token": "token", "": `""`, "two words": `"two words"`, "9": `"9"`, `a"b\`: `"a\"b\\"`, "\n": "#0A#", "é": "#C3A9#", "\x7f": "#7F#",
	} {
		if got := string(sexp.Atom(atom).Advanced()); got != want {
			t.Errorf("%q is printed as %s, want %s", atom, got, want)
		}
	}
}

func TestRefused(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "space": " \n", "open": "(a", "closed twice": "(a))", "two": "(a) (b)", "only close": ")",
		"string without end": `"a`, "escape at the end": `"a\`, "unknown escape": `"\q"`, "octal beyond a byte": `"\777"`,
		"hexadecimal without end": "#00", "odd digits": "#0#", "no digits": "#0g#", "base64": "|A|", "base64 without end": "|AAAA",
		"length beyond the text": "9:abc", "leading zero": "03:abc", "huge length": "99999999999:a", "negative length": "-1:a (",
		"number": "12", "nul": "a\x00", "not ASCII": "é", "brackets": "[a]", "too deep": strings.Repeat("(", sexp.MaxDepth+1) + strings.Repeat(")", sexp.MaxDepth+1),
		"too long": strings.Repeat(" ", sexp.MaxSize) + "a",
	} {
		if n, err := sexp.Parse([]byte(text)); err == nil {
			t.Errorf("%s: read as %s", name, n.Advanced())
		}
	}
	if _, err := sexp.Parse([]byte(strings.Repeat("(", sexp.MaxDepth) + strings.Repeat(")", sexp.MaxDepth))); err != nil {
		t.Errorf("as deep as is allowed: %v", err)
	}
}

func TestFind(t *testing.T) {
	n, err := sexp.Parse([]byte("(a (b 1:x) (b y) c (d e f) (g (h i)) ((j) k) (l))"))
	if err != nil {
		t.Fatal(err)
	}
	if b, ok := n.Find("b"); !ok || b.Head() != "b" || n.Head() != "a" {
		t.Errorf("find b: %s, %v", b.Advanced(), ok)
	}
	for head, want := range map[string]string{"b": "x", "a": "-", "c": "-", "d": "-", "g": "-", "j": "-", "l": "-", "": "-"} {
		got, ok := n.Value(head)
		if !ok {
			got = []byte("-")
		}
		if string(got) != want {
			t.Errorf("value of %q: %q", head, got)
		}
	}
	if sexp.List(sexp.Atom("a")).Equal(sexp.Atom("a")) || sexp.List().Equal(sexp.Node{}) || keyNode.Equal(n) {
		t.Error("different nodes are equal")
	}
}

// What is printed is read as the same value, and printed the same again. The
// text may have been spelt otherwise.
func FuzzParse(f *testing.F) {
	seeds := []string{
		key, "()", "(())", "(a (b) c)", "((a) b (c))", `"a\"\\\x00"`, "#0a#", "|AA==|", "3:a\nb", "(0: ##)", `("" a)`, "(a\t\"b c\")",
		"(acl (entry (public-key (rsa (n #01#) (e #03#))) (tag (guix import))))", strings.Repeat("(", 70), "(1:(1:)1:\")",
	}
	if len(seeds) != 15 {
		f.Fatalf("%d seeds", len(seeds))
	}
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n, err := sexp.Parse(text)
		if err != nil {
			return
		}
		printed := n.Advanced()
		again, err := sexp.Parse(printed)
		if err != nil || !again.Equal(n) {
			t.Fatalf("%q is printed as %q, which is read as %s, %v", text, printed, again.Advanced(), err)
		}
		if !bytes.Equal(again.Advanced(), printed) {
			t.Fatalf("%q is printed as %q", printed, again.Advanced())
		}
	})
}
