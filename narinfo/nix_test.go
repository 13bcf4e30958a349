package narinfo_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/narinfo"
	"ersatz/nixsig"
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
		{"unsigned", text[:strings.Index(text, "Sig: ")], []nixsig.PublicKey{key}, narinfo.ErrUnsigned},
	} {
		name, err := parse(t, []byte(c.text)).VerifyNix(c.keys)
		if !errors.Is(err, c.want) || err == nil && name != key.Name {
			t.Errorf("%s: %q, %v; want %v", c.name, name, err, c.want)
		}
	}
	// Guix's rules know nothing of Sig lines.
	if _, err := n.VerifyGuix(acl(t)); !errors.Is(err, narinfo.ErrUnsigned) {
		t.Errorf("as Guix: %v", err)
	}
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
