package guixsig_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"ersatz/guixsig"
)

// order is the group's order, big-endian.
const order = "1000000000000000000000000000000014DEF9DEA2F79CD65812631A5CF5D3ED"

// testKey is a key and its public point in hexadecimal.
func testKey(t testing.TB) (*guixsig.PrivateKey, string) {
	t.Helper()
	k, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{9}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k, strings.TrimPrefix(k.Public().String(), "ed25519:")
}

// text writes a signature of any parts.
func text(digest, r, s, q string) []byte {
	return fmt.Appendf(nil, "(signature (data (flags rfc6979) (hash sha256 #%s#)) (sig-val (ecdsa (r #%s#) (s #%s#))) (public-key (ecc (curve Ed25519) (q #%s#))))", digest, r, s, q)
}

// numbers returns r and s of a signature, in hexadecimal of 64 digits.
func numbers(t testing.TB, sig guixsig.Signature) (r, s string) {
	t.Helper()
	line := strings.Join(strings.Fields(string(sig.Text())), " ")
	_, rest, ok := strings.Cut(line, "(r #")
	r, rest, ok2 := strings.Cut(rest, "#) (s #")
	s, _, ok3 := strings.Cut(rest, "#)")
	if !ok || !ok2 || !ok3 {
		t.Fatalf("no numbers in %s", line)
	}
	return fmt.Sprintf("%064s", r), fmt.Sprintf("%064s", s)
}

// plus adds the group's order to a number.
func plus(t testing.TB, number string) string {
	t.Helper()
	a, err := hex.DecodeString(number)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(order)
	if err != nil {
		t.Fatal(err)
	}
	carry := 0
	for i := len(a) - 1; i >= 0; i-- {
		carry += int(a[i]) + int(b[i])
		a[i] = byte(carry)
		carry >>= 8
	}
	return hex.EncodeToString(a)
}

// TestHostileSignatures: r and s lie between 1 and the order less one, and
// have no second value that verifies but for leading zeros, which libgcrypt
// takes too.
func TestHostileSignatures(t *testing.T) {
	key, q := testKey(t)
	sum := sha256.Sum256([]byte("text"))
	digest := hex.EncodeToString(sum[:])
	r, s := numbers(t, key.Sign(sum))
	other := sha256.Sum256([]byte("another text"))
	r2, s2 := numbers(t, key.Sign(other))
	for _, c := range []struct {
		name, r, s string
		parses, ok bool
	}{
		{"as signed", r, s, true, true},
		{"leading zeros", "0000" + r, "00" + s, true, true},
		{"r zero", "00", s, false, false},
		{"s zero", r, "00", false, false},
		{"both zero", "", "", false, false},
		{"r is the order", order, s, false, false},
		{"s is the order", r, order, false, false},
		{"r plus the order", plus(t, r), s, false, false},
		{"s plus the order", r, plus(t, s), false, false},
		{"r of 33 bytes", "01" + r, s, false, false},
		{"s of 33 bytes", r, "01" + s, false, false},
		{"r is one", "01", s, true, false},
		{"s is one", r, "01", true, false},
		{"swapped", s, r, true, false},
		{"another text's", r2, s2, true, false},
		{"mixed", r, s2, true, false},
	} {
		sig, err := guixsig.ParseSignature(text(digest, c.r, c.s, q))
		if (err == nil) != c.parses {
			t.Errorf("%s: parsing gives %v", c.name, err)
		}
		if err != nil {
			continue
		}
		if err := sig.Verify(); (err == nil) != c.ok || err != nil && !errors.Is(err, guixsig.ErrBadSignature) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// A hash that is cut, or longer, is not the hash.
	for _, d := range []string{"", digest[:62], digest + "00", "00" + digest} {
		sig, err := guixsig.ParseSignature(text(d, r, s, q))
		if err != nil {
			t.Fatalf("%s: %v", d, err)
		}
		if err := sig.Verify(); !errors.Is(err, guixsig.ErrBadSignature) {
			t.Errorf("hash of %d digits: %v", len(d), err)
		}
	}
}

// TestHostileKeys: points off the curve, of low order, or spelt otherwise.
func TestHostileKeys(t *testing.T) {
	_, q := testKey(t)
	zeros := strings.Repeat("00", 31)
	for name, q := range map[string]string{
		"empty": "", "short": q[2:], "long": q + "00", "prefixed": "40" + q,
		"neutral point":             "01" + zeros,
		"neutral point, other sign": "01" + zeros[2:] + "80",
		"order 2":                   "EC" + strings.Repeat("FF", 30) + "7F",
		"order 4":                   "00" + zeros,
		"order 4, other sign":       zeros + "80",
		"order 8":                   "26E8958FC2B227B045C3F489F2EF98F0D5DFAC05D3C63339B13802886D53FC05",
		"order 8, other":            "C7176A703D4DD84FBA3C0B760D10670F2A2053FA2C39CCC64EC7FD7792AC037A",
		"y is p, spelt as zero":     "ED" + strings.Repeat("FF", 30) + "7F",
		"y is p and 3":              "F0" + strings.Repeat("FF", 30) + "7F",
		"off the curve":             "02" + zeros,
	} {
		if k, err := guixsig.ParsePublicKey([]byte("(public-key (ecc (curve Ed25519) (q #" + q + "#)))")); err == nil {
			t.Errorf("%s: %s", name, k)
		}
		if _, err := guixsig.ParseSignature(text(strings.Repeat("00", 32), "01", "01", q)); err == nil {
			t.Errorf("%s: in a signature", name)
		}
	}
	for name, text := range map[string]string{
		"no S-expression":  "(public-key",
		"private":          "(private-key (ecc (curve Ed25519) (q #" + q + "#)))",
		"atom":             "public-key",
		"no parameters":    "(public-key)",
		"atom inside":      "(public-key ecc)",
		"two":              "(public-key (ecc (curve Ed25519) (q #" + q + "#)) (ecc))",
		"no q":             "(public-key (ecc (curve Ed25519)))",
		"q is a list":      "(public-key (ecc (curve Ed25519) (q (q))))",
		"q has two values": "(public-key (ecc (curve Ed25519) (q #" + q + "# x)))",
	} {
		if k, err := guixsig.ParsePublicKey([]byte(text)); err == nil {
			t.Errorf("%s: %s", name, k)
		}
	}
}

// TestOtherAlgorithms: an ACL may hold keys that are not verified with.
func TestOtherAlgorithms(t *testing.T) {
	const rsa = "(public-key (rsa (n #00C5#) (e #010001#)))"
	k, err := guixsig.ParsePublicKey([]byte(rsa))
	if err != nil || k.String() != "rsa key" {
		t.Fatalf("%s, %v", k, err)
	}
	acl, err := guixsig.ParseACL([]byte("(acl (entry " + rsa + " (tag (guix import))))"))
	if err != nil || !acl.Authorizes(k) {
		t.Fatalf("%v", err)
	}
	sig, err := guixsig.ParseSignature([]byte("(signature (data (flags pkcs1) (hash sha256 #" + strings.Repeat("00", 32) + "#)) (sig-val (rsa (s #01#))) " + rsa + ")"))
	if err != nil {
		t.Fatal(err)
	}
	if err := sig.Verify(); !errors.Is(err, guixsig.ErrBadSignature) {
		t.Errorf("an RSA signature: %v", err)
	}
	if k.Equal(guixsig.PublicKey{}) || (guixsig.PublicKey{}).String() != "no key" {
		t.Error("the zero key is a key")
	}
	// Another curve is another algorithm.
	c, err := guixsig.ParsePublicKey([]byte(`(public-key (ecc (curve "NIST P-256") (q #04#)))`))
	if err != nil || c.String() != "ecc key" {
		t.Errorf("%s, %v", c, err)
	}
}

func TestMalformedSignatures(t *testing.T) {
	key, _ := testKey(t)
	good := string(key.Sign(sha256.Sum256(nil)).Text())
	for name, bad := range map[string]string{
		"empty": "", "atom": "signature", "cut": good[:len(good)/2], "trailing": good + "x", "key": string(key.Public().Text()),
		"no data": strings.Replace(good, "(data", "(date", 1), "no hash": strings.Replace(good, "(hash", "(hush", 1),
		"no key": strings.Replace(good, "(public-key", "(pubic-key", 1), "no numbers": strings.Replace(good, "(sig-val", "(sig-vol", 1),
		"hash without name": strings.Replace(good, "(hash sha256", "(hash", 1), "no r": strings.Replace(good, "(r ", "(x ", 1),
		"long": strings.Replace(good, "(flags", strings.Repeat(" ", 32<<10)+"(flags", 1),
	} {
		if _, err := guixsig.ParseSignature([]byte(bad)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestPrivateKeys(t *testing.T) {
	key, q := testKey(t)
	again, err := guixsig.ParsePrivateKey(key.Text())
	if err != nil || !again.Public().Equal(key.Public()) {
		t.Fatal(err)
	}
	d := hex.EncodeToString(append([]byte{0x49}, append(bytes.Repeat([]byte{9}, 30), 0x08)...))
	private := func(curve, q, d string) string {
		return fmt.Sprintf("(private-key (ecc (curve %s) (q #%s#) (d #%s#)))", curve, q, d)
	}
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"as it is":      {private("Ed25519", q, d), true},
		"leading zeros": {private("Ed25519", q, "0000"+d), true},
		"another d":     {private("Ed25519", q, "01"), false},
		"d is zero":     {private("Ed25519", q, "00"), false},
		"d is missing":  {private("Ed25519", q, ""), false},
		"long d":        {private("Ed25519", q, "01"+d), false},
		"no q":          {"(private-key (ecc (curve Ed25519) (d #" + d + "#)))", false},
		"another curve": {private("secp256k1", q, d), false},
		"public":        {string(key.Public().Text()), false},
		"RSA":           {"(private-key (rsa (n #01#)))", false},
		"cut":           {"(private-key", false},
	} {
		if k, err := guixsig.ParsePrivateKey([]byte(c.text)); (err == nil) != c.ok || c.ok && !bytes.Equal(k.Text(), key.Text()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := guixsig.GenerateKey(strings.NewReader("short")); err == nil {
		t.Error("a key of 5 random bytes")
	}
}

// TestACL has the rules of Guix: structure counts, not spelling, and one
// entry that is no import makes the whole list an error.
func TestACL(t *testing.T) {
	key, q := testKey(t)
	entry := "(entry (public-key (ecc (curve Ed25519) (q #" + q + "#))) (tag (guix import)))"
	for name, c := range map[string]struct {
		text string
		keys int // -1: an error
	}{
		"empty":              {"(acl)", 0},
		"one":                {"(acl " + entry + ")", 1},
		"spelt otherwise":    {"(3:acl(entry(public-key(ecc(curve |RWQyNTUxOQ==|)(q #" + strings.ToLower(q) + "#)))(tag(guix import))))", 1},
		"twice":              {"(acl " + entry + entry + ")", 2},
		"no list":            {"acl", -1},
		"no acl":             {"(alc " + entry + ")", -1},
		"atom inside":        {"(acl entry)", -1},
		"another tag":        {"(acl " + entry + strings.Replace(entry, "import", "export", 1) + ")", -1},
		"no tag":             {"(acl (entry (public-key (ecc (curve Ed25519) (q #" + q + "#)))))", -1},
		"two tags":           {"(acl " + strings.Replace(entry, "(tag", "(tag (guix import)) (tag", 1) + ")", -1},
		"no key":             {"(acl (entry (tag (guix import)) (tag (guix import))))", -1},
		"bad key":            {"(acl " + strings.Replace(entry, q, "00", 1) + ")", -1},
		"cut":                {"(acl " + entry, -1},
		"something after it": {"(acl) (acl)", -1},
	} {
		acl, err := guixsig.ParseACL([]byte(c.text))
		if (err != nil) != (c.keys < 0) || err == nil && len(acl.Keys()) != c.keys {
			t.Errorf("%s: %d keys, %v", name, len(acl.Keys()), err)
		}
		if acl.Authorizes(key.Public()) != (c.keys > 0) {
			t.Errorf("%s: authorizes %v", name, c.keys <= 0)
		}
		if acl.Authorizes(guixsig.PublicKey{}) {
			t.Errorf("%s: authorizes no key", name)
		}
	}
	var none guixsig.ACL
	one := none.Add(key.Public())
	if none.Authorizes(key.Public()) || !one.Authorizes(key.Public()) || len(one.Add(key.Public()).Keys()) != 1 {
		t.Error("Add changes its receiver, or adds twice")
	}
	// Lists that grow from one stay apart.
	other, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{5}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	third, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{6}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	a, b := one.Add(other.Public()), one.Add(third.Public())
	if a.Authorizes(third.Public()) || b.Authorizes(other.Public()) {
		t.Error("two lists share their keys")
	}
	if keys := a.Keys(); !slices.ContainsFunc(keys, key.Public().Equal) {
		t.Error("Keys lacks a key")
	}
}
