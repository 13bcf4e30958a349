package realnix_test

import (
	"net/http"
	"os"
	"path"
	"reflect"
	"strings"
	"testing"

	"ersatz/guixsig"
	"ersatz/narinfo"
	"ersatz/nixsig"
)

// TestLive has Nix take items that are compressed while they are sent, in each
// way and from a narinfo with several, of which Nix takes the last.
func TestLive(t *testing.T) {
	w := start(t)
	for _, methods := range []string{"zstd:3", "gzip:3", "lzip:3", "none", "none zstd:3", "zstd:3 lzip:1 none"} {
		t.Run(methods, func(t *testing.T) {
			args := []string{w.keyFlag(), "--log-level=debug"}
			last := ""
			for m := range strings.FieldsSeq(methods) {
				args = append(args, "--compression="+m)
				last, _, _ = strings.Cut(m, ":")
			}
			s := w.publish(args...)
			m, err := w.copyTo(s, w.public)
			if err != nil {
				t.Fatal(err)
			}
			w.wantCopied(m)
			s.Stop()
			if got := methodsAsked(s.Log()); !reflect.DeepEqual(got, map[string]bool{last: true}) {
				t.Errorf("Nix asked for nars of %v, not %s:\n%s", got, last, s.Log())
			}
		})
	}
}

// TestLog has Nix show the log of a build that it has not done.
func TestLog(t *testing.T) {
	w := start(t)
	s := w.publish(w.keyFlag())
	m := w.machine()
	out, err := m.Run(w.ctx, "nix", "log", "--store", s.URL, w.run("nix-store", "--query", "--deriver", w.item))
	if err != nil || !strings.Contains(out, "building the item") {
		t.Errorf("log %q, %v", out, err)
	}
}

// methodsAsked returns the methods of the nars in a server's log of requests.
func methodsAsked(log string) map[string]bool {
	asked := map[string]bool{}
	for line := range strings.Lines(log) {
		_, rest, ok := strings.Cut(line, " path=/nar/")
		if !ok {
			continue
		}
		rest, _, _ = strings.Cut(rest, " ")
		method, _, ok := strings.Cut(rest, "/")
		if !ok {
			method = "none"
		}
		asked[method] = true
	}
	return asked
}

// TestRealise has nix-store substitute, with signatures required, from what a
// server says of itself.
func TestRealise(t *testing.T) {
	w := start(t)
	s := w.publish(w.keyFlag())
	if _, info := w.get(s.URL + "/nix-cache-info"); info != "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n" {
		t.Errorf("nix-cache-info:\n%s", info)
	}
	if _, key := w.get(s.URL + "/nix-key.pub"); strings.TrimSpace(key) != w.public {
		t.Errorf("key %s", key)
	}
	if status, _ := w.get(s.URL + "/signing-key.pub"); status != http.StatusNotFound {
		t.Errorf("a key for Guix: status %d", status)
	}
	status, text := w.get(narinfoURL(s, w.item))
	drv := path.Base(w.run("nix-store", "--query", "--deriver", w.item))
	for _, want := range []string{"\nDeriver: " + drv + "\n", "\nSig: cache.example-1:", " " + path.Base(w.item), path.Base(w.dep)} {
		if status != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("no %q in the narinfo:\n%s", want, text)
		}
	}
	if strings.Contains(text, "Signature:") {
		t.Errorf("signed for Guix:\n%s", text)
	}
	m := w.machine()
	for key, want := range map[string]bool{strings.Replace(w.public, ":", "x:", 1): false, w.public: true} {
		_, err := m.Run(w.ctx, "nix-store", "--realise", w.item, "--option", "substituters", s.URL, "--option", "trusted-public-keys", key)
		if got := err == nil && m.Valid(w.ctx, w.item); got != want {
			t.Errorf("with key %s: installed %t, %v", key, got, err)
		}
		if want {
			w.wantCopied(m)
			break
		}
	}
}

// TestBaked bakes the closure of a profile, serves it after the store has lost
// it, and checks the cache.
func TestBaked(t *testing.T) {
	w := start(t)
	const profile = "/nix/var/nix/profiles/test"
	w.run("nix-env", "--profile", profile, "--set", w.item)
	cache := w.Path("/cache")
	s := w.publish(w.keyFlag(), "--cache="+cache, "--compression=zstd:3", "--compression=lzip:1", "--bake-roots="+profile)
	other, err := narinfo.Parse([]byte(w.baked(s, w.dep)))
	w.check(err)
	text := w.baked(s, w.item)
	key, err := nixsig.ParsePublicKey(w.public)
	w.check(err)
	n, err := narinfo.Parse([]byte(text))
	w.check(err)
	if signed, err := n.VerifyNix([]nixsig.PublicKey{key}); err != nil || signed.StorePath.String() != w.item {
		t.Errorf("%+v, %v", signed, err)
	}
	want, err := w.Hash(w.ctx, w.item)
	w.check(err)
	w.run("sh", "-c", "rm "+profile+"*")
	w.run("nix-collect-garbage", "--delete-old")
	if w.Valid(w.ctx, w.item) {
		t.Fatal("not collected")
	}
	m, err := w.copyTo(s, w.public)
	if err != nil {
		t.Fatal(err)
	}
	w.wantCopied(m)
	if got, err := m.Hash(w.ctx, w.item); err != nil || got != want {
		t.Errorf("%s instead of %s, %v", got, want, err)
	}
	// The blocks of the URN are the nar too.
	w.run("sh", "-ec", `"$0" decode --from "$1" "$2" >nar.zst; zstd -dq nar.zst`, w.program, s.URL, n.ERIS)
	if got := narinfo.FormatHash(n.NarHash); "sha256:"+w.run("nix-hash", "--flat", "--base32", "--type", "sha256", "nar") != got {
		t.Errorf("%s does not decode to %s", n.ERIS, got)
	}
	s.Stop()

	w.run(w.program, "fsck", cache)
	w.run("nix-store", "--generate-binary-cache-key", "other-1", w.Path("/other.sec"), w.Path("/other.pub"))
	if out, err := w.Run(w.ctx, w.program, "fsck", "--nix-public-key", w.Path("/other.pub"), cache); err == nil || strings.Count(out, "trusted key") != 2 {
		t.Errorf("fsck with another key: %v\n%s", err, out)
	}
	file := cache + "/" + path.Base(w.item)[:32] + ".narinfo"
	w.check(os.WriteFile(file, []byte(strings.Replace(text, n.ERIS, other.ERIS, 1)), 0o644))
	if out, err := w.Run(w.ctx, w.program, "fsck", cache); err == nil || !strings.Contains(out, "encodes to "+n.ERIS+", not "+other.ERIS) {
		t.Errorf("fsck of a changed URN, which Nix's signature does not cover: %v\n%s", err, out)
	}
}

// TestRefused: what another key has signed, or none, is refused by Nix.
func TestRefused(t *testing.T) {
	w := start(t)
	w.run("nix-store", "--generate-binary-cache-key", "cache.example-1", w.Path("/other.sec"), w.Path("/other.pub"))
	w.run(w.program, "keygen", w.Path("/guix"))
	guix := []string{"--public-key=" + w.Path("/guix/signing-key.pub"), "--private-key=" + w.Path("/guix/signing-key.sec")}
	for name, args := range map[string][]string{
		"another key of that name": {"--nix-key=" + w.Path("/other.sec")},
		"signed for Guix alone":    guix,
	} {
		t.Run(name, func(t *testing.T) {
			s := w.publish(args...)
			m, err := w.copyTo(s, w.public)
			w.wantRefused(m, err)
			s.Stop()
		})
	}
}

// TestBothDialects: one narinfo with both signatures, live and baked, is
// accepted by Nix and holds by Guix's rules.
func TestBothDialects(t *testing.T) {
	w := start(t)
	w.run(w.program, "keygen", w.Path("/guix"))
	cache := w.Path("/cache")
	s := w.publish(w.keyFlag(), "--cache="+cache, "--compression=zstd:3",
		"--public-key="+w.Path("/guix/signing-key.pub"), "--private-key="+w.Path("/guix/signing-key.sec"))
	text, err := os.ReadFile(w.Path("/guix/signing-key.pub"))
	w.check(err)
	key, err := guixsig.ParsePublicKey(text)
	w.check(err)
	for _, p := range []string{w.dep, w.item} {
		w.get(narinfoURL(s, p)) // live, and the reason to bake
		n, err := narinfo.Parse([]byte(w.baked(s, p)))
		w.check(err)
		if signed, err := n.VerifyGuix(guixsig.ACL{}.Add(key)); err != nil || signed.ERIS == "" {
			t.Errorf("%s: %+v, %v", p, signed, err)
		}
	}
	m, err := w.copyTo(s, w.public)
	if err != nil {
		t.Fatal(err)
	}
	w.wantCopied(m)
	w.run(w.program, "fsck", cache)
}

// TestKeygen: a key that ersatz has made is one to Nix, which signs with it as
// ersatz does.
func TestKeygen(t *testing.T) {
	w := start(t)
	w.public = w.run(w.program, "keygen", "--nix", "made.example-1", w.Path("/made"))
	secret := w.Path("/made/nix-key.sec")
	w.run("nix", "store", "sign", "--key-file", secret, "--recursive", w.item)
	info := w.run("nix", "path-info", "--sigs", w.item)
	s := w.publish("--nix-key=" + secret)
	_, text := w.get(narinfoURL(s, w.item))
	n, err := narinfo.Parse([]byte(text))
	w.check(err)
	if len(n.Sigs) != 1 || !strings.Contains(info, n.Sigs[0]) {
		t.Errorf("Nix signs %q, ersatz %q", info, n.Sigs)
	}
	m, err := w.copyTo(s, w.public)
	if err != nil {
		t.Fatal(err)
	}
	w.wantCopied(m)
}
