package bake

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"ersatz/internal/block/narindex"
	"ersatz/internal/compress"
	"ersatz/internal/folder"
	"ersatz/internal/storedb"
)

// Each fault is found and named, repair removes or mends it, and what was
// removed can be baked again.
func TestFsck(t *testing.T) {
	remove := func(s *site, name string) {
		if err := os.Remove(filepath.Join(s.cache, name)); err != nil {
			s.t.Fatal(err)
		}
	}
	put := func(s *site, name, content string) {
		if err := os.WriteFile(filepath.Join(s.cache, name), []byte(content), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name  string
		spoil func(s *site, info storedb.Info)
		want  string // in a line of the report
		kept  bool   // repair mends the entry
	}{
		{"nothing", func(*site, storedb.Info) {}, "", true},
		{"narinfo is no narinfo", func(s *site, i storedb.Info) { put(s, i.Path.Hash+suffix, "x") }, "malformed", false},
		{"narinfo empty", func(s *site, i storedb.Info) { put(s, i.Path.Hash+suffix, "") }, "malformed", false},
		{"narinfo changed", func(s *site, i storedb.Info) {
			s.edit(i.Path.Hash+suffix, "NarSize: ", "NarSize: 1")
		}, "changed after it was signed", false},
		{"narinfo by another key", func(s *site, i storedb.Info) {
			text, err := Signer{Guix: newKey(s.t, 9)}.Narinfo(i, Encoded{}, nil)
			if err != nil {
				s.t.Fatal(err)
			}
			put(s, i.Path.Hash+suffix, string(text))
		}, "not in the ACL", false},
		{"narinfo of another item", func(s *site, i storedb.Info) {
			other := s.add("other", nil, []byte("other"))
			s.bake(Options{}, other.Path)
			text, err := os.ReadFile(filepath.Join(s.cache, other.Path.Hash+suffix))
			if err != nil {
				s.t.Fatal(err)
			}
			put(s, i.Path.Hash+suffix, string(text))
		}, "of another store path", false},
		{"URL", func(s *site, i storedb.Info) { s.edit(i.Path.Hash+suffix, "URL: nar/zstd", "URL: nar/gzip") }, "is not where", false},
		{"FileSize", func(s *site, i storedb.Info) { s.edit(i.Path.Hash+suffix, "FileSize: ", "FileSize: 1") }, "bytes, not 1", false},
		{"no URL", func(s *site, i storedb.Info) {
			n, _ := s.narinfo(i.Path.Hash)
			text, _, _ := strings.Cut(string(n.Text()), "URL:")
			put(s, i.Path.Hash+suffix, text)
		}, "no URL", false},
		{"nar", func(s *site, i storedb.Info) { s.spoil("nar/zstd/" + i.Path.Base()) }, "nar/zstd/", false},
		{"nar missing", func(s *site, i storedb.Info) { remove(s, "nar/zstd/"+i.Path.Base()) }, "the nar is missing", false},
		{"nar empty", func(s *site, i storedb.Info) { put(s, "nar/zstd/"+i.Path.Base(), "") }, "nar/zstd/", false},
		{"nar of the same content", func(s *site, i storedb.Info) {
			// Padded by a frame that decoders skip, and FileSize with it.
			name := "nar/zstd/" + i.Path.Base()
			n, _ := s.narinfo(i.Path.Hash)
			text, err := os.ReadFile(filepath.Join(s.cache, name))
			if err != nil {
				s.t.Fatal(err)
			}
			put(s, name, string(text)+"\x50\x2a\x4d\x18\x00\x00\x00\x00")
			s.edit(i.Path.Hash+suffix, "FileSize: "+utoa(n.Nars[0].FileSize), "FileSize: "+utoa(n.Nars[0].FileSize+8))
		}, "encodes to urn:eris:", false},
		{"tree file", func(s *site, i storedb.Info) { s.spoil(narindex.TreeDir + "/" + i.Path.Base()) }, "index.sqlite: " + "", true},
		{"tree file missing", func(s *site, i storedb.Info) { remove(s, narindex.TreeDir+"/"+i.Path.Base()) }, "no such file", true},
		{"index missing", func(s *site, i storedb.Info) { remove(s, narindex.File) }, "index.sqlite", true},
		{"index of another nar", func(s *site, i storedb.Info) {
			c := s.open(Options{})
			defer s.close(c)
			w, err := c.index.NewWriter(i.Path)
			if err != nil {
				s.t.Fatal(err)
			}
			rc, err := encodeFile(s.t.Context(), c.path("nar/zstd/"+i.Path.Base()), w)
			if err != nil {
				s.t.Fatal(err)
			}
			fi, err := os.Stat(c.path("nar/zstd/" + i.Path.Base()))
			if err == nil {
				err = w.Commit(s.t.Context(), rc, fi.Size(), "nar/gzip/x")
			}
			if err != nil {
				s.t.Fatal(err)
			}
		}, "blocks are made from nar/gzip/x", true},
		{"no narinfo", func(s *site, i storedb.Info) { remove(s, i.Path.Hash+suffix) }, "nar without a narinfo", false},
		{"temporary file", func(s *site, i storedb.Info) { put(s, "nar/zstd/.tmp-1", "x") }, "temporary file", true},
		{"tree file of nobody", func(s *site, i storedb.Info) {
			put(s, narindex.TreeDir+"/"+strings.Repeat("1", 32)+"-x", "x")
		}, "not indexed", true},
		{"torrent of nobody", func(s *site, i storedb.Info) {
			put(s, narindex.TorrentDir+"/"+strings.Repeat("1", 32)+"-x", "x")
		}, "torrent of an item that is not indexed", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				info := s.add("item", nil, random(1, 100<<10))
				s.bake(Options{}, info.Path)
				if faults := s.fsck(FsckOptions{}); faults != "" {
					t.Fatalf("before:\n%s", faults)
				}
				tt.spoil(s, info)
				faults := s.fsck(FsckOptions{})
				if !strings.Contains(faults, tt.want) || (faults == "") != (tt.want == "") || strings.Contains(faults, "true") {
					t.Errorf("found %q, want %q", faults, tt.want)
				}
				faults = s.fsck(FsckOptions{Repair: true})
				if !strings.Contains(faults, tt.want) && tt.name != "index missing" || strings.Contains(faults, "false") {
					t.Errorf("repaired %q", faults)
				}
				if faults := s.fsck(FsckOptions{}); faults != "" {
					t.Errorf("after repair:\n%s", faults)
				}
				c := s.open(Options{})
				if c.has(info.Path.Hash) != tt.kept {
					t.Errorf("kept: %v", !tt.kept)
				}
				s.close(c)
				s.bake(Options{}, info.Path)
				c = s.open(Options{})
				defer s.close(c)
				s.check(c, info)
				if faults := s.fsck(FsckOptions{}); faults != "" {
					t.Errorf("after baking again:\n%s", faults)
				}
			})
		})
	}
}

func utoa(n uint64) string { return compress.Method{Name: "x", Level: int(n)}.String()[2:] }

func (s *site) edit(name, old, new string) {
	s.t.Helper()
	file := filepath.Join(s.cache, name)
	text, err := os.ReadFile(file)
	if err == nil && !strings.Contains(string(text), old) {
		err = errors.New("has no " + old)
	}
	if err == nil {
		err = os.WriteFile(file, []byte(strings.Replace(string(text), old, new, 1)), 0o644)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// Beside a process that has the folder, files in the making are no faults, and
// reading a narinfo is no request for it.
func TestFsckBeside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		info := s.add("item", nil, random(1, 100<<10))
		s.bake(Options{}, info.Path)
		narinfo := filepath.Join(s.cache, info.Path.Hash+suffix)
		asked := s.now.Add(-time.Hour)
		if err := os.Chtimes(narinfo, asked, time.Time{}); err != nil {
			t.Fatal(err)
		}
		c := s.open(Options{})
		defer s.close(c)
		w, err := c.index.NewWriter(storePath(t, s.store, strings.Repeat("1", 32)+"-x"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(c.path("nar/zstd/"+strings.Repeat("2", 32)+"-x"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		now := func() time.Time { return s.now.Add(folder.YoungFor / 2) }
		if faults := s.fsck(FsckOptions{Now: now, Repair: true}); faults != "" {
			t.Errorf("fsck:\n%s", faults)
		}
		later := s.fsck(FsckOptions{})
		if !strings.Contains(later, "temporary file") || !strings.Contains(later, "without a narinfo") {
			t.Errorf("later:\n%s", later)
		}
		if got, err := folder.AccessTime(narinfo); err != nil || !got.Equal(asked) {
			t.Errorf("access time %v, want %v; %v", got, asked, err)
		}
		if err := w.Abort(); err != nil {
			t.Error(err)
		}
	})
}

// What root makes anew is publish's, which runs as another: an index, and a
// folder that an older program did not make.
func TestFsckGivesIndex(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.bake(Options{}, s.add("item", nil, random(1, 100<<10)).Path)
		if err := os.RemoveAll(filepath.Join(s.cache, narindex.Dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(s.cache, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		s.fsck(FsckOptions{Repair: true})
		for _, name := range []string{narindex.Dir, narindex.TreeDir, narindex.File} {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(s.cache, name), &st); err != nil || st.Uid != 12345 {
				t.Errorf("%s belongs to %d, %v", name, st.Uid, err)
			}
		}
		torrents := filepath.Join(s.cache, narindex.TorrentDir)
		if err := os.Remove(torrents); err != nil {
			t.Fatal(err)
		}
		if faults := s.fsck(FsckOptions{}); faults != "" {
			t.Errorf("fsck:\n%s", faults)
		}
		var st unix.Stat_t
		if err := unix.Stat(torrents, &st); err != nil || st.Uid != 12345 {
			t.Errorf("%s belongs to %d, %v", torrents, st.Uid, err)
		}
	})
}

func TestFsckStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		info := s.add("item", nil, random(1, 100<<10))
		if err := Fsck(t.Context(), s.cache, s.signer().Keys(), FsckOptions{}, nil); err == nil {
			t.Error("a folder that is not there was checked")
		}
		s.bake(Options{}, info.Path)
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		o := FsckOptions{Progress: func(done, total int) { calls += done + 10*total }}
		if err := Fsck(ctx, s.cache, s.signer().Keys(), o, nil); err != nil || calls != 11 {
			t.Errorf("progress %d, %v", calls, err)
		}
		cancel()
		if err := Fsck(ctx, s.cache, Keys{}, FsckOptions{}, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if err := Fsck(t.Context(), s.cache, s.signer().Keys(), FsckOptions{NarPath: "../x"}, nil); err == nil {
			t.Error("a path of nars outside was taken")
		}
		// The wrong path is no reason to remove all entries.
		o = FsckOptions{NarPath: "other", Repair: true}
		if err := Fsck(t.Context(), s.cache, s.signer().Keys(), o, func(f Fault) { t.Error(f) }); err == nil {
			t.Error("another path of nars was taken")
		}
	})
}
