package narinfo_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/guixsig"
	"ersatz/narinfo"
	"ersatz/nixsig"
	"ersatz/storepath"
)

func nixKey(t *testing.T, s string) nixsig.PublicKey {
	t.Helper()
	k, err := nixsig.ParsePublicKey(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// otherKey is a key that has signed nothing.
func otherKey(t *testing.T, name string) nixsig.SecretKey {
	t.Helper()
	k, err := nixsig.GenerateKey(name, bytes.NewReader(bytes.Repeat([]byte{3}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The NarHash of testdata/nix/text.narinfo in other spellings.
const (
	hexHash = "fe163d5117cb23ddf1e5472fe9dabfd36c70fc76bff49ba2ed54c5c119677737"
	b64Hash = "/hY9URfLI93x5Ucv6dq/02xw/Ha/9Jui7VTFwRlndzc="
)

// TestNixNarinfo reads and verifies what Nix 2.8.0 has written into a binary
// cache.
func TestNixNarinfo(t *testing.T) {
	text := string(read(t, "nix/text.narinfo"))
	key := nixKey(t, string(read(t, "nix/key.pub")))
	n := parse(t, []byte(text))
	if len(n.Nars) != 1 || n.Nars[0].Compression != "xz" || n.Nars[0].FileSize != 172 || len(n.Unknown) != 1 || n.Unknown[0].Name != "CA" {
		t.Errorf("%+v", n)
	}
	if !bytes.Equal(n.Text(), []byte(text)) {
		t.Error("the text is not kept")
	}
	other := otherKey(t, "other")
	stranger := otherKey(t, key.Name) // of the same name
	for _, c := range []struct {
		name, text string
		keys       []nixsig.PublicKey
		want       error
	}{
		{"as written", text, []nixsig.PublicKey{other.Public(), key}, nil},
		{"no keys", text, nil, narinfo.ErrUnauthorized},
		{"another key", text, []nixsig.PublicKey{other.Public()}, narinfo.ErrUnauthorized},
		{"another key of that name", text, []nixsig.PublicKey{stranger.Public()}, nixsig.ErrBadSignature},
		{"two of that name", text, []nixsig.PublicKey{stranger.Public(), key}, nil},
		{"size changed", strings.Replace(text, "NarSize: 168", "NarSize: 169", 1), []nixsig.PublicKey{key}, nixsig.ErrBadSignature},
		{"reference dropped", strings.Replace(text, "References: w320iz5b4848q2l7a7x8mw2vymm22ddg-b", "References: ", 1), []nixsig.PublicKey{key}, nixsig.ErrBadSignature},
		{"URL changed", strings.Replace(text, "URL: nar/1", "URL: nar/2", 1), []nixsig.PublicKey{key}, nil},
		{"a bad Sig before it", strings.Replace(text, "Sig: ", "Sig: nonsense\nSig: ", 1), []nixsig.PublicKey{key}, nil},
		{"NarHash in hexadecimal", strings.Replace(text, "0dvpcwcw3ialxni9px5zfvy70v6kpzdfjbs7wpqxs8yb2x8ks5py", hexHash, 1), []nixsig.PublicKey{key}, nil},
		{"NarHash in Base64", strings.Replace(text, "sha256:0dvpcwcw3ialxni9px5zfvy70v6kpzdfjbs7wpqxs8yb2x8ks5py", "sha256-"+b64Hash, 1), []nixsig.PublicKey{key}, nil},
		{"a reference twice", strings.Replace(text, "ddg-b\n", "ddg-b w320iz5b4848q2l7a7x8mw2vymm22ddg-b\n", 1), []nixsig.PublicKey{key}, nil},
		{"another path", strings.Replace(text, "fjs-a", "fjs-b", 1), []nixsig.PublicKey{key}, nixsig.ErrBadSignature},
		{"another store", strings.Replace(text, "/nix/store", "/gnu/store", 1), []nixsig.PublicKey{key}, nixsig.ErrBadSignature},
		{"no size", strings.Replace(text, "NarSize: 168\n", "", 1), []nixsig.PublicKey{key}, narinfo.ErrUnsigned},
		{"unsigned", text[:strings.Index(text, "Sig: ")], []nixsig.PublicKey{key}, narinfo.ErrUnsigned},
	} {
		s, err := parse(t, []byte(c.text)).VerifyNix(c.keys)
		if !errors.Is(err, c.want) || err == nil && s.NixKey.String() != key.String() {
			t.Errorf("%s: %q, %v; want %v", c.name, s.NixKey.Name, err, c.want)
		}
	}
	// Guix's rules know nothing of Sig lines.
	if _, err := n.VerifyGuix(acl(t)); !errors.Is(err, narinfo.ErrUnsigned) {
		t.Errorf("as Guix: %v", err)
	}
}

// TestNixCovers: what Nix's signature does not cover is not in what
// verification returns, wherever it stands.
func TestNixCovers(t *testing.T) {
	key := nixKey(t, string(read(t, "nix/key.pub")))
	text := strings.Replace(string(read(t, "nix/text.narinfo")), "Sig: ", "Deriver: x.drv\nERISFormat: f\nERIS: urn:eris:X\nERISMagnet: magnet:X\nSig: ", 1)
	n := parse(t, []byte(text))
	s, err := n.VerifyNix([]nixsig.PublicKey{key})
	if err != nil {
		t.Fatal(err)
	}
	if s.Deriver != "" || s.ERIS != "" || s.ERISFormat != "" || s.ERISMagnet != "" || s.Host != "" {
		t.Errorf("covered: %+v", s)
	}
	if s.StorePath.String() != n.StorePath || s.NarHash != n.NarHash || !s.HasNarSize || s.NarSize != 168 || !s.Agrees(n) {
		t.Errorf("signed %+v", s)
	}
	n.References[0] = "changed"
	if s.References[0] != "w320iz5b4848q2l7a7x8mw2vymm22ddg-b" {
		t.Error("the references are shared")
	}
}

// TestSigLimit: each Sig line costs whoever verifies, so their number is
// bounded.
func TestSigLimit(t *testing.T) {
	text := string(read(t, "nix/text.narinfo"))
	many := strings.Repeat("Sig: x:y\n", narinfo.MaxSigs-1)
	if n := parse(t, []byte(text+many)); len(n.Sigs) != narinfo.MaxSigs {
		t.Errorf("%d Sigs", len(n.Sigs))
	}
	if _, err := narinfo.Parse([]byte(text + many + "Sig: x:y\n")); !errors.Is(err, narinfo.ErrMalformed) {
		t.Errorf("more Sigs than the limit: %v", err)
	}
}

// TestBothDialects signs one text for both, in either order.
func TestBothDialects(t *testing.T) {
	key, nix := newKey(t), otherKey(t, "both-1")
	f := narinfo.Fields{
		StorePath: storepath.Path{Dir: storepath.Nix, Hash: strings.Repeat("a", 32), Name: "x"}, NarHash: [32]byte{1}, NarSize: 7,
		References: []string{strings.Repeat("c", 32) + "-c", strings.Repeat("b", 32) + "-b"}, ERISFormat: "f", ERIS: "urn:eris:X", ERISMagnet: "magnet:X",
	}
	below, err := narinfo.SignGuix(f.Body(), key, "host")
	if err != nil {
		t.Fatal(err)
	}
	below = append(below, f.SignNix(nix)...)
	above, err := narinfo.SignGuix(append(f.Body(), f.SignNix(nix)...), key, "host")
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string][]byte{"below": below, "above": above} {
		n := parse(t, text)
		byGuix, err := n.VerifyGuix(guixsig.ACL{}.Add(key.Public()))
		if err != nil || byGuix.ERIS != f.ERIS || byGuix.ERISMagnet != f.ERISMagnet {
			t.Errorf("Sig %s the Signature: %+v, %v", where, byGuix, err)
		}
		byNix, err := n.VerifyNix([]nixsig.PublicKey{nix.Public()})
		if err != nil || byNix.ERIS != "" || byNix.ERISMagnet != "" || byNix.StorePath != f.StorePath || !byNix.SameReferences(byGuix) {
			t.Errorf("Sig %s the Signature: %+v, %v", where, byNix, err)
		}
	}
}

// FuzzVerifyNix changes one byte of a narinfo that Nix has signed: what is
// accepted says the same in all that a signature covers, and what is not
// covered is not there.
func FuzzVerifyNix(f *testing.F) {
	text := read(f, "nix/text.narinfo")
	key, err := nixsig.ParsePublicKey(strings.TrimSpace(string(read(f, "nix/key.pub"))))
	if err != nil {
		f.Fatal(err)
	}
	n, err := narinfo.Parse(text)
	if err != nil {
		f.Fatal(err)
	}
	want, err := n.VerifyNix([]nixsig.PublicKey{key})
	if err != nil {
		f.Fatal(err)
	}
	for i, more := range []string{"", "Sig: a:b\n", "ERIS: x\nERISFormat: y\nERISMagnet: z\n", "Deriver: x\nX: y\n", "URL: a\n"} {
		f.Add([]byte(more), uint16(i*97), byte(1))
		f.Add([]byte(more), uint16(i*31+400), byte(0x20))
	}
	f.Fuzz(func(t *testing.T, more []byte, at uint16, flip byte) {
		in := append(bytes.Clone(text), more...)
		in[int(at)%len(in)] ^= flip
		n, err := narinfo.Parse(in)
		if err != nil {
			return
		}
		s, err := n.VerifyNix([]nixsig.PublicKey{key})
		if err != nil {
			return
		}
		if s.StorePath != want.StorePath || s.NarHash != want.NarHash || s.NarSize != want.NarSize || !s.SameReferences(want) {
			t.Fatalf("accepted as %+v:\n%s", s, in)
		}
		if s.ERIS != "" || s.ERISFormat != "" || s.ERISMagnet != "" || s.Deriver != "" || s.NixKey.Name != key.Name {
			t.Fatalf("covered: %+v:\n%s", s, in)
		}
	})
}

// nix runs a command of Nix on a store of the test's own, without a network.
func nix(t *testing.T, home, store string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "HOME="+home, "NIX_REMOTE="+store,
		"NIX_CONFIG=experimental-features = nix-command\nsubstituters =\nsandbox = false\nbuild-users-group =")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// TestNixProgram has the installed Nix sign, and verify what is signed here.
func TestNixProgram(t *testing.T) {
	if _, err := exec.LookPath("nix"); err != nil {
		t.Skip("nix is not installed")
	}
	dir := t.TempDir()
	store := filepath.Join(dir, "root")
	run := func(args ...string) string { return nix(t, dir, store, args...) }

	secret := run("nix", "key", "generate-secret", "--key-name", "test-1")
	key, err := nixsig.ParseSecretKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sec"), []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	path := strings.Trim(run("nix-instantiate", "--eval", "--read-write-mode", "-E",
		`builtins.toFile "a" "ref ${builtins.toFile "b" "x"}"`), "\"\n")
	run("nix", "store", "sign", "-k", filepath.Join(dir, "sec"), path)
	cache := filepath.Join(dir, "cache")
	run("nix", "copy", "--to", "file://"+cache+"?compression=none", path)

	file := filepath.Join(cache, filepath.Base(path)[:32]+".narinfo")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := parse(t, text)
	if len(n.Sigs) != 1 || key.Sign(n.Fingerprint()) != n.Sigs[0] {
		t.Errorf("signature %s, Nix made %v", key.Sign(n.Fingerprint()), n.Sigs)
	}
	if _, err := n.VerifyNix([]nixsig.PublicKey{key.Public()}); err != nil {
		t.Error(err)
	}

	// Without the CA field, which would do for Nix, signed here with a new key.
	ours := otherKey(t, "ours")
	body, _, _ := strings.Cut(string(text), "Sig: ")
	verify := func(sig string) error {
		if err := os.WriteFile(file, []byte(body+"Sig: "+sig+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, ".cache")); err != nil { // Nix's own
			t.Fatal(err)
		}
		cmd := exec.Command("nix", "store", "verify", "--store", "file://"+cache, "--trusted-public-keys", ours.Public().String(), path)
		cmd.Env = append(os.Environ(), "HOME="+dir, "NIX_CONFIG=experimental-features = nix-command\nsubstituters =")
		return cmd.Run()
	}
	if err := verify(ours.Sign(n.Fingerprint())); err != nil {
		t.Errorf("Nix does not verify what was signed here: %v", err)
	}
	if err := verify(ours.Sign(n.Fingerprint() + ",")); err == nil {
		t.Error("Nix verifies anything: this test is worth nothing")
	}
}
