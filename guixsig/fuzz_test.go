package guixsig_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"ersatz/guixsig"
)

// seeds are all texts of testdata, and some that are refused.
func seeds(f *testing.F) {
	f.Helper()
	names := []string{
		"acl", "signature.sexp", "signing-key.pub", "signing-key.sec",
		"key0.pub", "key1.pub", "key2.pub", "key3.pub", "key0.sec", "key1.sec", "key2.sec", "key3.sec",
	}
	for _, name := range names {
		b := read(f, name)
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Add([]byte("(acl)"))
	f.Add([]byte("(public-key (rsa (n #01#)))"))
	f.Add(text(strings.Repeat("00", 32), "01", order, strings.Repeat("00", 32)))
}

// What is printed is read as the same value, and printed the same again:
// S-expressions have several spellings.
func FuzzParseKey(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		if k, err := guixsig.ParsePublicKey(in); err == nil {
			again, err := guixsig.ParsePublicKey(k.Text())
			if err != nil || !again.Equal(k) || again.String() != k.String() || !bytes.Equal(again.Text(), k.Text()) {
				t.Fatalf("%q is printed as %q: %v", in, k.Text(), err)
			}
		}
		if k, err := guixsig.ParsePrivateKey(in); err == nil {
			again, err := guixsig.ParsePrivateKey(k.Text())
			if err != nil || !bytes.Equal(again.Text(), k.Text()) {
				t.Fatalf("%q is printed otherwise: %v", in, err)
			}
			if err := k.Sign(sha256.Sum256(in)).Verify(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzParseACL(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		a, err := guixsig.ParseACL(in)
		if err != nil {
			return
		}
		again, err := guixsig.ParseACL(a.Text())
		if err != nil || len(again.Keys()) != len(a.Keys()) || !bytes.Equal(again.Text(), a.Text()) {
			t.Fatalf("%q is printed as %q: %v", in, a.Text(), err)
		}
		for _, k := range a.Keys() {
			if !again.Authorizes(k) {
				t.Fatalf("%s is lost", k)
			}
		}
	})
}

// No text verifies under a key of ours that was not signed with it.
func FuzzParseSignature(f *testing.F) {
	seeds(f)
	key, _ := testKey(f)
	real := key.Sign(sha256.Sum256([]byte("text")))
	f.Add(real.Text())
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := guixsig.ParseSignature(in)
		if err != nil {
			return
		}
		again, err := guixsig.ParseSignature(s.Text())
		if err != nil || !bytes.Equal(again.Text(), s.Text()) || !again.Key().Equal(s.Key()) || !bytes.Equal(again.Digest(), s.Digest()) {
			t.Fatalf("%q is printed as %q: %v", in, s.Text(), err)
		}
		if (s.Verify() == nil) != (again.Verify() == nil) {
			t.Fatal("verifies in one spelling only")
		}
		if s.Key().Equal(key.Public()) && s.Verify() == nil && !bytes.Equal(s.Digest(), real.Digest()) {
			t.Fatalf("forged: %q", in)
		}
	})
}

// FuzzSign signs and verifies with any key and digest, and with a digest that
// differs in one bit.
func FuzzSign(f *testing.F) {
	for _, s := range []string{"", "a", "\xff\xff", strings.Repeat("\x00", 32)} {
		f.Add([]byte(s), []byte("text"), uint8(0))
		f.Add([]byte("key"), []byte(s), uint8(255))
	}
	f.Fuzz(func(t *testing.T, random, msg []byte, bit uint8) {
		seed := sha256.Sum256(random)
		k, err := guixsig.GenerateKey(bytes.NewReader(seed[:]))
		if err != nil {
			t.Fatal(err)
		}
		digest := sha256.Sum256(msg)
		s := k.Sign(digest)
		parsed, err := guixsig.ParseSignature(s.Text())
		if err != nil || parsed.Verify() != nil || !bytes.Equal(k.Sign(digest).Text(), s.Text()) {
			t.Fatalf("%s: %v", s.Text(), err)
		}
		// The curve's order takes the first 253 bits of a digest.
		if bit >= 253 {
			return
		}
		changed := digest
		changed[bit/8] ^= 0x80 >> (bit % 8)
		r, n := numbers(t, s)
		forged, err := guixsig.ParseSignature(text(hexOf(changed), r, n, strings.TrimPrefix(k.Public().String(), "ed25519:")))
		if err != nil {
			t.Fatal(err)
		}
		if forged.Verify() == nil {
			t.Fatalf("verifies with bit %d changed", bit)
		}
	})
}

func hexOf(b [32]byte) string { return hex.EncodeToString(b[:]) }
