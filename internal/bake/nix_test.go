package bake

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"ersatz/internal/folder"
	"ersatz/narinfo"
	"ersatz/nixsig"
	"ersatz/storepath"
)

func newNixKey(t testing.TB, name string, seed byte) *nixsig.SecretKey {
	t.Helper()
	key, err := nixsig.GenerateKey(name, bytes.NewReader(bytes.Repeat([]byte{seed}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return &key
}

// read returns a narinfo of the cache, not verified. It counts as no request.
func (s *site) read(hash string) *narinfo.Narinfo {
	s.t.Helper()
	text, err := folder.Read(filepath.Join(s.cache, hash+suffix), narinfo.MaxSize)
	if err != nil {
		s.t.Fatal(err)
	}
	n, err := narinfo.Parse(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func TestSigner(t *testing.T) {
	s := newSite(t)
	info := s.add("item", nil, []byte("x"))
	nix := newNixKey(t, "n-1", 1)
	nars := []narinfo.Nar{{URL: "nar/x", Compression: "none", FileSize: 1}}
	for name, c := range map[string]struct {
		signer     Signer
		lines      string // those that are not of the body
		mass       bool
		guix, nixs int // keys
	}{
		"Guix": {Signer{Guix: s.key, Host: "h"}, "Signature URL Compression FileSize", false, 1, 0},
		"Nix":  {Signer{Nix: nix}, "Sig URL Compression FileSize", true, 0, 1},
		"both": {Signer{Guix: s.key, Nix: nix}, "Signature Sig URL Compression FileSize", true, 1, 1},
	} {
		text, err := c.signer.Narinfo(info, Encoded{Format: "f", URN: "urn:eris:X"}, nars)
		if err != nil {
			t.Fatal(err)
		}
		_, below, _ := strings.Cut(string(text), "ERIS: urn:eris:X\n")
		var names []string
		for line := range strings.Lines(below) {
			field, _, _ := strings.Cut(line, ":")
			names = append(names, field)
		}
		if got := strings.Join(names, " "); got != c.lines {
			t.Errorf("%s: lines %s", name, got)
		}
		n, err := narinfo.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		keys := c.signer.Keys()
		if len(keys.Guix.Keys()) != c.guix || len(keys.Nix) != c.nixs {
			t.Errorf("%s: keys %+v", name, keys)
		}
		if signed, err := keys.verify(n); err != nil || signed.StorePath != info.Path {
			t.Errorf("%s: %v", name, err)
		}
		if got := strings.Contains(string(c.signer.CacheInfo("/x")), "WantMassQuery: 1"); got != c.mass {
			t.Errorf("%s: mass queries %t", name, got)
		}
		// What one kind of keys wants is not had from the other.
		both := Signer{Guix: s.key, Nix: nix}.Keys()
		if _, err := both.verify(n); (err == nil) != (name == "both") {
			t.Errorf("%s: by both kinds of keys: %v", name, err)
		}
	}
	if err := (Signer{Host: "h"}).Validate(); err == nil {
		t.Error("a signer without a key")
	}
	if _, err := (Keys{}).verify(s.anyNarinfo(info.Path)); !errors.Is(err, narinfo.ErrUnauthorized) {
		t.Errorf("without keys: %v", err)
	}
}

// anyNarinfo returns a narinfo of an item with both signatures.
func (s *site) anyNarinfo(p storepath.Path) *narinfo.Narinfo {
	s.t.Helper()
	info, err := s.db.Info(s.t.Context(), p)
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := Signer{Guix: s.key, Nix: newNixKey(s.t, "n-1", 1)}.Narinfo(info, Encoded{}, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	n, err := narinfo.Parse(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// TestNixOnly bakes, checks and repairs a cache that is signed for Nix alone.
func TestNixOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		guix := s.key
		s.key, s.nix = nil, newNixKey(t, "n-1", 1)
		info, other := s.add("item", nil, random(1, 100_000)), s.add("other", nil, []byte("x"))
		s.bake(Options{}, info.Path, other.Path)
		n := s.read(info.Path.Hash)
		if n.Signature != "" || n.ERIS == "" {
			t.Errorf("%s", n.Text())
		}
		if got, err := os.ReadFile(filepath.Join(s.cache, NixKeyFile)); err != nil || string(got) != s.nix.Public().String()+"\n" {
			t.Errorf("key %q, %v", got, err)
		}
		if folder.Exists(filepath.Join(s.cache, KeyFile)) {
			t.Error("there is a key of Guix")
		}
		if got := s.fsck(FsckOptions{}); got != "" {
			t.Errorf("faults:\n%s", got)
		}
		// The URN is not signed, but must be that of the nar.
		for _, to := range []string{s.read(other.Path.Hash).ERIS, "urn:eris:B4", ""} {
			s.edit(info.Path.Hash+suffix, "ERIS: "+n.ERIS, "ERIS: "+to)
			if got := s.fsck(FsckOptions{Repair: true}); strings.Count(got, "\n") != 1 || !strings.Contains(got, "eris") {
				t.Errorf("with URN %q:\n%s", to, got)
			}
			s.bake(Options{}, info.Path)
		}
		s.edit(info.Path.Hash+suffix, "NarSize: ", "NarSize: 1")
		if got := s.fsck(FsckOptions{Repair: true}); !strings.Contains(got, "bad signature") {
			t.Errorf("size changed:\n%s", got)
		}
		s.bake(Options{}, info.Path)
		if got := s.fsck(FsckOptions{}); got != "" {
			t.Errorf("faults:\n%s", got)
		}
		s.nix = newNixKey(t, "n-2", 1)
		if got := s.fsck(FsckOptions{}); strings.Count(got, "trusted key") != 2 {
			t.Errorf("by another key:\n%s", got)
		}
		// With a key of Guix instead, the file of that of Nix goes.
		s.key, s.nix = guix, nil
		s.close(s.open(Options{}))
		if folder.Exists(filepath.Join(s.cache, NixKeyFile)) || !folder.Exists(filepath.Join(s.cache, KeyFile)) {
			t.Errorf("keys of another time: %v", s.names())
		}
		if got := s.fsck(FsckOptions{}); strings.Count(got, "no Signature") != 2 {
			t.Errorf("without Guix's:\n%s", got)
		}
	})
}

// TestSignLater: what was baked without a key of Nix gets its Sig line from the
// next process that has one, and nothing else changes.
func TestSignLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		info, old, forged := s.add("item", nil, []byte("x")), s.add("old", nil, []byte("y")), s.add("forged", nil, []byte("z"))
		key := s.key
		s.key = newKey(t, 9)
		s.bake(Options{}, old.Path)
		s.key = key
		s.bake(Options{}, info.Path, forged.Path)
		s.edit(forged.Path.Hash+suffix, "NarSize: ", "NarSize: 1")
		name := filepath.Join(s.cache, info.Path.Hash+suffix)
		asked := unix.NsecToTimespec(s.now.Add(-40 * 24 * time.Hour).UnixNano())
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{asked, asked}, 0); err != nil {
			t.Fatal(err)
		}
		before := string(s.read(info.Path.Hash).Text())
		for i, nix := range []*nixsig.SecretKey{newNixKey(t, "n-1", 1), newNixKey(t, "n-1", 1), newNixKey(t, "n-1", 2)} {
			s.nix = nix
			s.bake(Options{})
			n := s.read(info.Path.Hash)
			var without strings.Builder
			for line := range strings.Lines(string(n.Text())) {
				if !strings.HasPrefix(line, "Sig: ") {
					without.WriteString(line)
				}
			}
			if without.String() != before || len(n.Sigs) != 1+i/2 {
				t.Errorf("%d Sigs:\n%s", len(n.Sigs), n.Text())
			}
			if _, err := s.signer().Keys().verify(n); err != nil {
				t.Error(err)
			}
			if got, err := folder.AccessTime(name); err != nil || got.UnixNano() != unix.TimespecToNsec(asked) {
				t.Errorf("asked for at %v, %v", got, err)
			}
			for _, other := range []string{old.Path.Hash, forged.Path.Hash} {
				if n := s.read(other); len(n.Sigs) != 0 {
					t.Errorf("signed:\n%s", n.Text())
				}
			}
		}
		if got := s.log.String(); strings.Count(got, "signed for Nix") != 2 {
			t.Errorf("log:\n%s", got)
		}
		if got := s.fsck(FsckOptions{}); strings.Count(got, "no Sig") != 2 || strings.Contains(got, info.Path.Hash) {
			t.Errorf("faults:\n%s", got)
		}
	})
}
