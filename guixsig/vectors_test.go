package guixsig_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/guixsig"
	"ersatz/sexp"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWorkedExample reproduces what Guix made, byte for byte.
func TestWorkedExample(t *testing.T) {
	key, err := guixsig.ParsePrivateKey(read(t, "signing-key.sec"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key.Text(), read(t, "signing-key.sec")) {
		t.Error("the private key is printed otherwise")
	}
	if !bytes.Equal(key.Public().Text(), read(t, "signing-key.pub")) {
		t.Error("the public key is printed otherwise")
	}
	sig := key.Sign(sha256.Sum256(read(t, "signed-part.bin")))
	want := read(t, "signature.sexp")
	if !bytes.Equal(sig.Text(), want) {
		t.Errorf("signature:\n%s\nwant:\n%s", sig.Text(), want)
	}
	parsed, err := guixsig.ParseSignature(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.Verify(); err != nil {
		t.Error(err)
	}
	acl, err := guixsig.ParseACL(read(t, "acl"))
	if err != nil {
		t.Fatal(err)
	}
	if len(acl.Keys()) != 3 || !acl.Authorizes(parsed.Key()) {
		t.Errorf("ACL of %d keys does not have %s", len(acl.Keys()), parsed.Key())
	}
	if !bytes.Equal(acl.Text(), read(t, "acl")) {
		t.Error("the ACL is printed otherwise")
	}
}

func TestVectors(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(string(read(t, "vectors.tsv"))), "\n")
	if len(lines) != 200 {
		t.Fatalf("%d vectors, want 200", len(lines))
	}
	for _, line := range lines {
		f := strings.Split(line, "\t")
		q, d, msg, r, s := f[0], f[1], f[2], f[4], f[5]
		key, err := guixsig.ParsePrivateKey([]byte("(private-key (ecc (curve Ed25519) (q #" + q + "#) (d #" + d + "#)))"))
		if err != nil {
			t.Fatalf("%s: %v", msg, err)
		}
		sig := key.Sign(sha256.Sum256([]byte(msg + "\n")))
		n, err := sexp.Parse(sig.Text())
		if err != nil {
			t.Fatal(err)
		}
		val, _ := n.Find("sig-val")
		ecdsa, _ := val.Find("ecdsa")
		for name, want := range map[string]string{"r": r, "s": s} {
			if got, _ := ecdsa.Value(name); hex.EncodeToString(got) != want {
				t.Errorf("%s: %s is %x, want %s", msg, name, got, want)
			}
		}
		parsed, err := guixsig.ParseSignature(sig.Text())
		if err != nil {
			t.Fatalf("%s: %v", msg, err)
		}
		if err := parsed.Verify(); err != nil {
			t.Errorf("%s: %v", msg, err)
		}
	}
}
