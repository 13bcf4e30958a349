package bake

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"ersatz/guixsig"
	"ersatz/internal/compress"
	"ersatz/internal/storedb"
	"ersatz/nar"
	"ersatz/narinfo"
)

// old puts an item into the cache folder as `guix publish --cache` does.
func (s *site) old(info storedb.Info, key *guixsig.PrivateKey, methods ...string) {
	s.t.Helper()
	put := func(name string, content []byte) {
		file := filepath.Join(s.cache, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	base := info.Path.Base()
	var nars []narinfo.Nar
	for _, m := range methods {
		var b bytes.Buffer
		w, err := compress.NewWriter(&b, compress.Method{Name: m, Level: min(len(m)-4+1, 1)}) // none has level 0
		if m == "none" {
			w, err = compress.NewWriter(&b, compress.None)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := nar.Dump(w, info.Path.String()); err != nil {
			s.t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			s.t.Fatal(err)
		}
		put(oldNar(m, base), b.Bytes())
		nars = append(nars, narinfo.Nar{URL: "nar/" + m + "/" + base, Compression: m, FileSize: uint64(b.Len())})
	}
	text, err := Signer{Guix: key, Host: "old"}.Narinfo(info, Encoded{}, nars)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range methods {
		put(m+"/"+base+suffix, text)
	}
	put(oldHashes+"/"+info.Path.Hash, []byte(info.Path.String()))
}

func TestAdopt(t *testing.T) {
	for _, tt := range []struct {
		name    string
		valid   bool // the store still has the item
		methods []string
		spoil   func(s *site, info storedb.Info)
		want    string // compressions of the new narinfo; "" for none
		format  string
	}{
		{"valid", true, []string{"zstd"}, nil, "zstd", "+zstd"},
		{"collected", false, []string{"zstd"}, nil, "zstd", "+zstd"},
		{"two", false, []string{"lzip", "zstd"}, nil, "zstd lzip", "+zstd"},
		{"other methods", true, []string{"gzip", "none"}, nil, "gzip none", "+gzip"},
		{"first broken", false, []string{"zstd", "lzip"}, func(s *site, info storedb.Info) {
			s.spoil(oldNar("zstd", info.Path.Base()))
		}, "lzip", "+lzip"},
		{"broken, valid", true, []string{"zstd"}, func(s *site, info storedb.Info) {
			s.spoil(oldNar("zstd", info.Path.Base()))
		}, "zstd", "+zstd-1"},
		{"broken, collected", false, []string{"zstd"}, func(s *site, info storedb.Info) {
			s.spoil(oldNar("zstd", info.Path.Base()))
		}, "", ""},
		{"longer", false, []string{"none"}, func(s *site, info storedb.Info) {
			file := filepath.Join(s.cache, oldNar("none", info.Path.Base()))
			text, err := os.ReadFile(file)
			if err = errors.Join(err, os.WriteFile(file, append(text, 0), 0o644)); err != nil {
				s.t.Fatal(err)
			}
		}, "", ""},
		{"leftover", false, []string{"zstd"}, func(s *site, info storedb.Info) {
			file := filepath.Join(s.cache, "nar/zstd", info.Path.Base())
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o644)); err != nil {
				s.t.Fatal(err)
			}
		}, "zstd", "+zstd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				info := s.add("item", nil, random(1, 200<<10))
				s.old(info, s.key, tt.methods...)
				if tt.spoil != nil {
					tt.spoil(s, info)
				}
				before := map[string][]byte{}
				for _, name := range s.names() {
					text, err := os.ReadFile(filepath.Join(s.cache, name))
					if err != nil {
						t.Fatal(err)
					}
					before[name] = text
				}
				if !tt.valid {
					s.collect(info.Path)
				}
				c := s.open(Options{})
				defer s.close(c)
				p, ok := c.Adoptable(t.Context(), info.Path.Hash)
				if !ok || p != info.Path {
					t.Fatalf("adoptable: %s, %v\n%s", p, ok, s.log)
				}
				s.run(c, func() {
					if err := c.Bake(p); err != nil {
						t.Error(err)
					}
				})
				if tt.want == "" {
					if c.has(p.Hash) {
						t.Error("adopted")
					}
					if err := c.Bake(p); !errors.Is(err, ErrFailed) {
						t.Errorf("again: %v", err)
					}
				} else {
					s.check(c, info)
					n, signed := s.narinfo(p.Hash)
					var got []string
					for _, one := range n.Nars {
						got = append(got, one.Compression)
					}
					if strings.Join(got, " ") != tt.want || signed.ERISFormat != "application/x-nix-archive"+tt.format {
						t.Errorf("compressions %s, format %s", got, signed.ERISFormat)
					}
				}
				if tt.format == "+zstd" {
					a, errA := os.Stat(c.path(oldNar("zstd", p.Base())))
					b, errB := os.Stat(c.path("nar/zstd/" + p.Base()))
					if errA != nil || errB != nil || !os.SameFile(a, b) {
						t.Errorf("not linked: %v, %v", errA, errB)
					}
				}
				for name, want := range before {
					if strings.HasPrefix(name, "nar/") {
						continue
					}
					if got, err := os.ReadFile(filepath.Join(s.cache, name)); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s has changed: %v", name, err)
					}
				}
				if faults := s.fsck(FsckOptions{}); faults != "" {
					t.Errorf("fsck:\n%s", faults)
				}
			})
		})
	}
}

// spoil changes a byte in the middle of a file of the cache.
func (s *site) spoil(name string) {
	s.t.Helper()
	file := filepath.Join(s.cache, name)
	b, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(file, b, 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func TestNotAdoptable(t *testing.T) {
	s := newSite(t)
	good := s.add("good", nil, []byte("x"))
	foreign := s.add("foreign", nil, []byte("x"))
	changed := s.add("changed", nil, []byte("x"))
	gone := s.add("gone", nil, []byte("x"))
	outside := s.add("outside", nil, []byte("x"))
	other := s.add("other", nil, []byte("y"))
	s.old(good, s.key, "zstd")
	s.old(foreign, newKey(t, 8), "zstd")
	for _, info := range []storedb.Info{changed, gone, outside, other} {
		s.old(info, s.key, "zstd")
	}
	edit := func(name, old, new string) {
		file := filepath.Join(s.cache, name)
		text, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, bytes.Replace(text, []byte(old), []byte(new), 1), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	edit("zstd/"+changed.Path.Base()+suffix, fmt.Sprint("NarSize: ", changed.NarSize), "NarSize: 9")
	edit(oldHashes+"/"+outside.Path.Hash, s.store, "/elsewhere")
	// A valid narinfo of another item.
	text, err := os.ReadFile(filepath.Join(s.cache, "zstd", good.Path.Base()+suffix))
	if err == nil {
		err = os.WriteFile(filepath.Join(s.cache, "zstd", other.Path.Base()+suffix), text, 0o644)
	}
	if err = errors.Join(err, os.Remove(filepath.Join(s.cache, oldNar("zstd", gone.Path.Base())))); err != nil {
		t.Fatal(err)
	}
	c := s.open(Options{})
	defer s.close(c)
	if p, ok := c.Adoptable(t.Context(), good.Path.Hash); !ok || p != good.Path {
		t.Errorf("good: %v", ok)
	}
	for _, hash := range []string{
		foreign.Path.Hash, changed.Path.Hash, gone.Path.Hash, outside.Path.Hash, other.Path.Hash, strings.Repeat("0", 32), "../../etc", "",
	} {
		if p, ok := c.Adoptable(t.Context(), hash); ok {
			t.Errorf("%q: adoptable as %s", hash, p)
		}
	}
}
