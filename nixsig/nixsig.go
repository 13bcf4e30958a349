// Package nixsig makes and checks the signatures of Nix binary caches: Ed25519
// over a fingerprint, written NAME:BASE64 (Nix manual, "Verifying Build
// Reproducibility"; Nix, libutil/signature/local-keys.cc).
package nixsig

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrBadSignature means that a signature is not by the key of that name.
var ErrBadSignature = errors.New("nixsig: bad signature")

// ErrUnknownKey means that a signature names another key.
var ErrUnknownKey = errors.New("nixsig: signature by another key")

// PublicKey verifies.
type PublicKey struct {
	Name string
	key  ed25519.PublicKey
}

// SecretKey signs.
type SecretKey struct {
	Name string
	key  ed25519.PrivateKey
}

// split reads NAME:BASE64 in its one spelling.
func split(what, s string, size int) (name string, b []byte, err error) {
	name, text, ok := strings.Cut(s, ":")
	if !ok || name == "" {
		return "", nil, fmt.Errorf("nixsig: %s is not NAME:BASE64", what)
	}
	b, err = base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || base64.StdEncoding.EncodeToString(b) != text {
		return "", nil, fmt.Errorf("nixsig: %s %q is not in canonical Base64", what, name)
	}
	if len(b) != size {
		return "", nil, fmt.Errorf("nixsig: %s %q has %d bytes, not %d", what, name, len(b), size)
	}
	return name, b, nil
}

// ParsePublicKey reads a key as in trusted-public-keys.
func ParsePublicKey(s string) (PublicKey, error) {
	name, b, err := split("public key", s, ed25519.PublicKeySize)
	return PublicKey{name, b}, err
}

// ParseSecretKey reads a key as in a file of `nix key generate-secret`.
func ParseSecretKey(s string) (SecretKey, error) {
	name, b, err := split("secret key", s, ed25519.PrivateKeySize)
	if err != nil {
		return SecretKey{}, err
	}
	// Its second half is the public key. With another one there, two
	// signatures give the key away.
	if !bytes.Equal(ed25519.NewKeyFromSeed(b[:ed25519.SeedSize]), b) {
		return SecretKey{}, fmt.Errorf("nixsig: secret key %q: its halves do not belong together", name)
	}
	return SecretKey{name, b}, nil
}

// GenerateKey makes a key from 32 bytes of rand.
func GenerateKey(name string, rand io.Reader) (SecretKey, error) {
	if name == "" || strings.ContainsAny(name, ": \t\r\n") {
		return SecretKey{}, fmt.Errorf("nixsig: key name %q is empty or has a colon or space", name)
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return SecretKey{}, fmt.Errorf("nixsig: generating a key: %w", err)
	}
	return SecretKey{name, ed25519.NewKeyFromSeed(seed)}, nil
}

// Public returns the public key.
func (k SecretKey) Public() PublicKey {
	return PublicKey{k.Name, k.key.Public().(ed25519.PublicKey)}
}

// Text returns what ParseSecretKey reads. It is secret.
func (k SecretKey) Text() string { return k.Name + ":" + base64.StdEncoding.EncodeToString(k.key) }

// String returns what ParsePublicKey reads.
func (k PublicKey) String() string { return k.Name + ":" + base64.StdEncoding.EncodeToString(k.key) }

// Sign returns the signature of a fingerprint, the value of a Sig line.
func (k SecretKey) Sign(fingerprint string) string {
	return k.Name + ":" + base64.StdEncoding.EncodeToString(ed25519.Sign(k.key, []byte(fingerprint)))
}

// Verify checks a signature of a fingerprint. The error matches ErrUnknownKey
// if the signature names another key, ErrBadSignature if it does not fit.
func (k PublicKey) Verify(fingerprint, sig string) error {
	name, b, err := split("signature", sig, ed25519.SignatureSize)
	switch {
	case err != nil:
		return err
	case name != k.Name:
		return fmt.Errorf("%w, %q", ErrUnknownKey, name)
	case !ed25519.Verify(k.key, []byte(fingerprint), b):
		return fmt.Errorf("%w by %q", ErrBadSignature, name)
	}
	return nil
}
