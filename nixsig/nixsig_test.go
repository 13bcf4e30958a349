package nixsig_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"ersatz/nixsig"
)

// A throw-away key of nix key generate-secret 2.8.0, and what nix store sign
// made of it for a path with a reference.
const (
	secret      = "cache.example-1:Hpv5vL8ph/yBIS/TmravarVhxBlVF307KZHMOmdPpUwG3DlLMC4mLV8irHSCofS9PUVh18KmNBBOIg6eZLxUbg=="
	public      = "cache.example-1:Btw5SzAuJi1fIqx0gqH0vT1FYdfCpjQQTiIOnmS8VG4="
	fingerprint = "1;/nix/store/prxr9d1n6aqy9hdkd7qfz26xffq7xfjs-a;sha256:0dvpcwcw3ialxni9px5zfvy70v6kpzdfjbs7wpqxs8yb2x8ks5py;168;/nix/store/w320iz5b4848q2l7a7x8mw2vymm22ddg-b"
	signature   = "cache.example-1:oWDovB7LYpNBZ8CWwqJHgNC70ldHYb2SWBzP3eQABKT+V4Y+NfjWHetZQrW8lGP9ESA0MZ1pvCJ5A3exispXDQ=="
)

func TestNix(t *testing.T) {
	k, err := nixsig.ParseSecretKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	if k.Text() != secret || k.Public().String() != public {
		t.Errorf("printed as %s, %s", k.Text(), k.Public())
	}
	if got := k.Sign(fingerprint); got != signature {
		t.Errorf("signature %s, Nix makes %s", got, signature)
	}
	p, err := nixsig.ParsePublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Verify(fingerprint, signature); err != nil {
		t.Error(err)
	}
}

func TestRefusedSignatures(t *testing.T) {
	p, err := nixsig.ParsePublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	zero := "cache.example-1:" + strings.Repeat("A", 86) + "=="
	for name, c := range map[string]struct {
		text, sig string
		want      error
	}{
		"another text": {fingerprint + "x", signature, nixsig.ErrBadSignature},
		"changed":      {fingerprint, strings.Replace(signature, "oWD", "oWE", 1), nixsig.ErrBadSignature},
		"zeros":        {fingerprint, zero, nixsig.ErrBadSignature},
		"another name": {fingerprint, "cache.example-2" + signature[15:], nixsig.ErrUnknownKey},
	} {
		if err := p.Verify(c.text, c.sig); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for name, sig := range map[string]string{
		"empty": "", "no name": signature[15:], "no colon": "abc", "not Base64": "cache.example-1:!" + signature[17:],
		"no padding": strings.TrimRight(signature, "="), "newline within": signature[:40] + "\n" + signature[40:], "newline after": signature + "\n",
		"spare bits": strings.TrimSuffix(signature, "Q==") + "R==", "short": "cache.example-1:AAAA", "a key": public,
	} {
		err := p.Verify(fingerprint, sig)
		if err == nil || errors.Is(err, nixsig.ErrBadSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeys(t *testing.T) {
	seed := bytes.Repeat([]byte{7}, ed25519.SeedSize)
	k, err := nixsig.GenerateKey("name", bytes.NewReader(seed))
	if err != nil {
		t.Fatal(err)
	}
	again, err := nixsig.ParseSecretKey(k.Text())
	if err != nil || again.Sign("x") != k.Sign("x") {
		t.Errorf("%v", err)
	}
	if err := again.Public().Verify("x", k.Sign("x")); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"", "a:b", "a\n", "a b"} {
		if _, err := nixsig.GenerateKey(name, bytes.NewReader(seed)); err == nil {
			t.Errorf("name %q", name)
		}
	}
	broken := errors.New("broken")
	if _, err := nixsig.GenerateKey("name", iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("no randomness: %v", err)
	}
	// The second half of a secret key is its public key.
	mixed := secret[:len(secret)-20] + "A" + secret[len(secret)-19:]
	if _, err := nixsig.ParseSecretKey(mixed); err == nil {
		t.Error("a secret key with another's public half")
	}
}

func FuzzParse(f *testing.F) {
	seeds := []string{secret, public, signature, "", ":", "a:", ":AAAA", "a:b:" + public[16:], public + "=", strings.ToLower(public), "x:" + strings.Repeat("A", 43) + "="}
	if len(seeds) != 11 {
		f.Fatalf("%d seeds", len(seeds))
	}
	for _, s := range seeds {
		f.Add(s, fingerprint)
	}
	f.Fuzz(func(t *testing.T, s, text string) {
		if k, err := nixsig.ParseSecretKey(s); err == nil {
			if k.Text() != s {
				t.Fatalf("two spellings of one key: %q", s)
			}
			if err := k.Public().Verify(text, k.Sign(text)); err != nil {
				t.Fatal(err)
			}
		}
		k, err := nixsig.ParsePublicKey(s)
		if err != nil {
			return
		}
		if k.String() != s {
			t.Fatalf("two spellings of one key: %q and %q", s, k)
		}
		if err := k.Verify(text, s); err == nil {
			t.Fatal("a key verifies as a signature")
		}
	})
}
