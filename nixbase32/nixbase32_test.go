package nixbase32_test

import (
	"bytes"
	"encoding/hex"
	"os/exec"
	"strings"
	"testing"

	"ersatz/nixbase32"
)

// vectors were printed by nix-hash --to-base32 2.8.0: hashes of "", "abc" and
// "hello world" by SHA-256, then of "abc" by SHA-1, MD5 and SHA-512.
var vectors = []struct{ typ, hex, text string }{
	{"sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73"},
	{"sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s"},
	{"sha256", "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9", "1sfdxziarxw8j3p80lvswgpq9i7smdyxmmsj5sjhhgjdjfwjfkdr"},
	{"sha1", "a9993e364706816aba3e25717850c26c9cd0d89d", "kpcd173cq987hw957sx6m0868wv3x6d9"},
	{"md5", "900150983cd24fb0d6963f7d28e17f72", "3jgzhjhz9zjvbb0kyj7jc500ch"},
	{"sha512", "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f", "2gs8k559z4rlahfx0y688s49m2vvszylcikrfinm30ly9rak69236nkam5ydvly1ai7xac99vxfc4ii84hawjbk876blyk1jfhkbbyx"},
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		b, err := hex.DecodeString(v.hex)
		if err != nil {
			t.Fatal(err)
		}
		if got := nixbase32.Encode(b); got != v.text {
			t.Errorf("%s is encoded as %s, want %s", v.hex, got, v.text)
		}
		if got, err := nixbase32.Decode(v.text); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s is decoded as %x, %v", v.text, got, err)
		}
		if !nixbase32.Valid(v.text) || nixbase32.EncodedLen(len(b)) != len(v.text) {
			t.Errorf("%s: valid %v, length %d", v.text, nixbase32.Valid(v.text), nixbase32.EncodedLen(len(b)))
		}
	}
}

// TestNix compares with the installed nix-hash.
func TestNix(t *testing.T) {
	if _, err := exec.LookPath("nix-hash"); err != nil {
		t.Skip("nix-hash is not installed")
	}
	for i := range 8 {
		b := bytes.Repeat([]byte{byte(i * 37), byte(i), 0xff}, 11)[:32]
		out, err := exec.Command("nix-hash", "--type", "sha256", "--to-base32", hex.EncodeToString(b)).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := nixbase32.Encode(b); got != strings.TrimSpace(string(out)) {
			t.Errorf("%x is %s, Nix prints %s", b, got, out)
		}
	}
}

// Every length comes back, and no other text stands for the same bytes.
func TestLengths(t *testing.T) {
	for n := range 70 {
		b := bytes.Repeat([]byte{0xa5}, n)
		s := nixbase32.Encode(b)
		if got, err := nixbase32.Decode(s); err != nil || !bytes.Equal(got, b) || len(s) != nixbase32.EncodedLen(n) {
			t.Errorf("%d bytes: %q, back %x, %v", n, s, got, err)
		}
	}
}

func TestRefused(t *testing.T) {
	good := vectors[0].text
	for name, s := range map[string]string{
		"upper case":        strings.ToUpper(good),
		"letter e":          "e" + good[1:],
		"letter o":          good[:5] + "o" + good[6:],
		"space":             good[:51] + " ",
		"newline after":     good + "\n",
		"one less":          good[1:],
		"bits beyond":       "2" + good[1:], // 52 digits have 4 bits to spare
		"most bits beyond":  "z" + good[1:],
		"length of nothing": "0",
		"not ASCII":         good[:50] + "é",
	} {
		if b, err := nixbase32.Decode(s); err == nil {
			t.Errorf("%s: %q is decoded as %x", name, s, b)
		}
	}
}

func FuzzDecode(f *testing.F) {
	seeds := []string{"", "0", "00", "z0", "7z", "00000000", strings.Repeat("z", 52), strings.Repeat("0", 32), "\x00\xff"}
	for _, v := range vectors {
		seeds = append(seeds, v.text, strings.ToUpper(v.text), v.text[1:])
	}
	if len(seeds) != 9+3*6 {
		f.Fatalf("%d seeds", len(seeds))
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := nixbase32.Decode(s)
		if err == nil && nixbase32.Encode(b) != s {
			t.Fatalf("two spellings of one hash: %q", s)
		}
		if err == nil && !nixbase32.Valid(s) {
			t.Fatalf("%q is decoded and not valid", s)
		}
		// What the text's own bytes are encoded as comes back.
		if back, err := nixbase32.Decode(nixbase32.Encode([]byte(s))); err != nil || string(back) != s {
			t.Fatalf("%q comes back as %q, %v", s, back, err)
		}
	})
}
