package guixsig

import (
	"bytes"
	"crypto/sha256"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// scalars returns some that are special and some by chance.
func scalars(t testing.TB, rnd *rand.ChaCha8, chance int) []*edwards25519.Scalar {
	t.Helper()
	zero, one := make([]byte, keySize), make([]byte, keySize)
	one[keySize-1] = 1
	all := []*edwards25519.Scalar{scalarBE(zero), scalarBE(one), edwards25519.NewScalar().Negate(scalarBE(one))}
	// Windows that are all the same: those at which a digit becomes negative.
	for _, digit := range []int64{1, 31, 32, 33, 63} {
		x := new(big.Int)
		for range windows - 1 {
			x.Add(x.Lsh(x, windowBits), big.NewInt(digit))
		}
		all = append(all, scalarBE(x.Mod(x, order()).Bytes()))
	}
	b := make([]byte, keySize)
	for range chance {
		rnd.Read(b)
		all = append(all, scalarBE(b))
	}
	return all
}

// points returns some of the group, one of them with a part of low order.
func points(t testing.TB, rnd *rand.ChaCha8) []*edwards25519.Point {
	t.Helper()
	low, err := new(edwards25519.Point).SetBytes(make([]byte, keySize)) // y = 0: order 4
	if err != nil {
		t.Fatal(err)
	}
	var all []*edwards25519.Point
	for _, s := range scalars(t, rnd, 2)[1:] {
		all = append(all, new(edwards25519.Point).ScalarBaseMult(s))
	}
	return append(all, new(edwards25519.Point).Add(all[0], low), low)
}

// TestTable compares multiples by tables with those of the library.
func TestTable(t *testing.T) {
	rnd := rand.NewChaCha8([32]byte{1})
	all := scalars(t, rnd, 8)
	for i, q := range points(t, rnd) {
		tab := newTable(q)
		for j, u := range all {
			u1 := all[(i+j)%len(all)]
			want := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(u, q, u1)
			p := new(sum).zero()
			baseTable().addMultiple(p, u1)
			tab.addMultiple(p, u)
			got, err := new(edwards25519.Point).SetExtendedCoordinates(&p.x, &p.y, &p.z, &p.t)
			if err != nil || got.Equal(want) != 1 {
				t.Fatalf("point %d by number %d: another point, %v", i, j, err)
			}
		}
	}
}

func TestInverse(t *testing.T) {
	for i, s := range scalars(t, rand.NewChaCha8([32]byte{2}), 20)[1:] {
		if inverse(s).Equal(edwards25519.NewScalar().Invert(s)) != 1 {
			t.Errorf("number %d has another inverse", i)
		}
	}
}

// element returns a number as an element of the field.
func element(t testing.TB, x *big.Int) *field.Element {
	t.Helper()
	le := x.FillBytes(make([]byte, keySize))
	slices.Reverse(le)
	e, err := new(field.Element).SetBytes(le)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestAbscissa has coordinates at each end of each multiple of the order, and
// by chance.
func TestAbscissa(t *testing.T) {
	prime := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	numbers := []*big.Int{big.NewInt(1), new(big.Int).Sub(prime, big.NewInt(1))}
	for k := range int64(8) {
		for d := int64(-2); d <= 2; d++ {
			x := new(big.Int).Mul(order(), big.NewInt(k))
			if x.Add(x, big.NewInt(d)); x.Sign() > 0 && x.Cmp(prime) < 0 {
				numbers = append(numbers, x)
			}
		}
	}
	rnd := rand.NewChaCha8([32]byte{3})
	b := make([]byte, keySize)
	for range 50 {
		rnd.Read(b)
		x := new(big.Int).SetBytes(b)
		numbers = append(numbers, x.Mod(x, prime))
	}
	for _, x := range numbers {
		rnd.Read(b)
		z := element(t, new(big.Int).Mod(new(big.Int).SetBytes(b), prime))
		xz := new(field.Element).Multiply(element(t, x), z)
		r := new(big.Int).Mod(x, order())
		if r.Sign() > 0 && !isAbscissa(scalarBE(r.Bytes()), xz, z) {
			t.Errorf("%x is not %x modulo the order", x, r)
		}
		for _, d := range []int64{-1, 1, 19} {
			other := new(big.Int).Add(r, big.NewInt(d))
			if other.Mod(other, order()).Sign() > 0 && isAbscissa(scalarBE(other.Bytes()), xz, z) {
				t.Errorf("%x is %x modulo the order", x, other)
			}
		}
	}
	// The greatest number is never taken beyond the prime.
	r := new(big.Int).Sub(order(), big.NewInt(1))
	wrapped := new(big.Int).Add(r, new(big.Int).Mul(order(), big.NewInt(7)))
	if wrapped.Cmp(prime) < 0 || isAbscissa(scalarBE(r.Bytes()), element(t, wrapped.Mod(wrapped, prime)), new(field.Element).One()) {
		t.Error("a number was taken beyond the prime")
	}
}

// TestManyVerifications: all ways of verifying agree, on right and on wrong ones.
func TestManyVerifications(t *testing.T) {
	key, err := GenerateKey(bytes.NewReader(bytes.Repeat([]byte{4}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	acl := ACL{}.Add(key.Public())
	for i := range 3 * tableAfter {
		sig, err := acl.ParseSignature(key.Sign(sha256.Sum256([]byte{byte(i)})).Text())
		if err != nil {
			t.Fatal(err)
		}
		if err := sig.Verify(); err != nil {
			t.Errorf("signature %d: %v", i, err)
		}
		sig.digest[5] ^= 1
		if sig.Verify() == nil {
			t.Errorf("signature %d is over another digest too", i)
		}
		sig.digest[5] ^= 1
		if sig.r, sig.s = sig.s, sig.r; sig.Verify() == nil {
			t.Errorf("signature %d verifies with its numbers swapped", i)
		}
	}
	if acl.keys[0].ecdsa.table == nil {
		t.Error("there is no table")
	}
}

// TestVerifyAllocs: one of many verifications costs little memory.
func TestVerifyAllocs(t *testing.T) {
	key, err := GenerateKey(bytes.NewReader(bytes.Repeat([]byte{4}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	acl := ACL{}.Add(key.Public())
	text := key.Sign(sha256.Sum256([]byte("x"))).Text()
	got := testing.AllocsPerRun(100, func() {
		sig, err := acl.ParseSignature(text)
		if err == nil {
			err = sig.Verify()
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	if got > 36 {
		t.Errorf("%v allocations to read and verify a signature", got)
	}
}

func BenchmarkVerify(b *testing.B) {
	key, err := GenerateKey(bytes.NewReader(bytes.Repeat([]byte{4}, 32)))
	if err != nil {
		b.Fatal(err)
	}
	text := key.Sign(sha256.Sum256([]byte("x"))).Text()
	for name, acl := range map[string]ACL{"of a known key": ACL{}.Add(key.Public()), "of an unknown key": {}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sig, err := acl.ParseSignature(text)
				if err == nil {
					err = sig.Verify()
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
