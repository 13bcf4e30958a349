package bake

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"ersatz/internal/block/narindex"
	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/internal/storedb"
	"ersatz/internal/torrent"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// checkTorrent fails the test unless the magnet link of a baked item and the
// torrent that is kept are those of its blocks.
func (s *site) checkTorrent(c *Cache, info storedb.Info) {
	s.t.Helper()
	content, err := c.index.Open(s.t.Context(), info.Path.Hash)
	if err != nil {
		s.t.Fatal(err)
	}
	defer content.Close()
	b := torrent.NewBuilder()
	for place := range content.Len() {
		_, block, err := content.Block(s.t.Context(), place)
		if err != nil {
			s.t.Fatal(err)
		}
		b.Write(block)
	}
	want := b.Finish(content.ReadCap().Root)
	signed, err := s.read(info.Path.Hash).VerifyGuix(s.acl())
	if err != nil {
		s.t.Fatal(err)
	}
	m, err := torrent.ParseMagnet(signed.ERISMagnet)
	if err != nil || m.Hash != want.Hash() || m.Name != want.Name || !slices.Equal(m.Trackers, c.o.Trackers) {
		s.t.Errorf("%s: magnet link %q: %v", info.Path, signed.ERISMagnet, err)
	}
	if kept, err := content.KeptTorrent(); err != nil || kept.Hash() != want.Hash() {
		s.t.Errorf("%s: kept torrent: %v", info.Path, err)
	}
	for _, x := range s.listed(c.Library()) {
		if x.ReadCap == content.ReadCap() && x.Magnet != signed.ERISMagnet {
			s.t.Errorf("%s: the library has the magnet link %q", info.Path, x.Magnet)
		}
	}
}

// TestTorrents: what is baked or adopted has a torrent, of small blocks and of
// large ones, with internal nodes and without.
func TestTorrents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.torrent = true
		o := Options{Trackers: []string{"http://t.example/announce", "udp://t.example:6969"},
			Methods: []compress.Method{{Name: "gzip", Level: 1}, {Name: "zstd", Level: 1}}}
		items := []storedb.Info{
			s.add("small", nil, []byte("x")), s.add("less", nil, random(1, 10_000)),
			s.add("large", nil, random(2, 3_000_000)), s.add("adopted", nil, random(3, 300_000)),
			s.add("file.gz", nil, random(4, 70_000)),
		}
		s.old(items[3], s.key, "zstd")
		c := s.open(o)
		s.run(c, func() {
			for _, i := range items {
				if err := c.Bake(i.Path); err != nil {
					t.Error(err)
				}
			}
		})
		for _, i := range items {
			s.check(c, i)
		}
		s.close(c)
		if faults := s.fsck(FsckOptions{}); faults != "" {
			t.Errorf("faults:\n%s", faults)
		}
		c = s.open(o)
		for _, i := range items {
			if err := c.remove(t.Context(), i.Path.Hash, i.Path.Base()); err != nil {
				t.Error(err)
			}
		}
		s.close(c)
		if left, err := filepath.Glob(filepath.Join(s.cache, narindex.TorrentDir, "*")); err != nil || len(left) != 0 {
			t.Errorf("left %v, %v", left, err)
		}
	})
}

// TestNoTorrents: nothing is signed of torrents unless that is wanted, and can be
// believed.
func TestNoTorrents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		info := s.add("item", nil, random(1, 50_000))
		s.bake(Options{Trackers: []string{"http://t.example/"}}, info.Path)
		other := s.add("other", nil, random(2, 50_000))
		s.key, s.nix = nil, newNixKey(t, "n-1", 1)
		s.bake(Options{Torrents: true}, other.Path)
		for _, i := range []storedb.Info{info, other} {
			if n := s.read(i.Path.Hash); n.ERIS == "" || n.ERISMagnet != "" {
				t.Errorf("%s", n.Text())
			}
		}
		if left, err := os.ReadDir(filepath.Join(s.cache, narindex.TorrentDir)); err != nil || len(left) != 0 {
			t.Errorf("torrents: %v, %v", left, err)
		}
		for _, trackers := range [][]string{{"ftp://t.example"}, {"t.example"}, {"http://a", "http://a"}, make([]string, 99)} {
			if c, err := Open(s.cache, s.db, s.signer(), Options{Trackers: trackers}); err == nil {
				t.Errorf("%q: taken", trackers)
				s.close(c)
			}
		}
	})
}

// TestMagnetLater: what was baked without a torrent, or with other trackers, gets
// a magnet link from the next process that is to make them, and nothing else
// changes.
func TestMagnetLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.nix = newNixKey(t, "n-1", 1)
		info, old, broken := s.add("item", nil, random(1, 700_000)), s.add("old", nil, []byte("y")), s.add("broken", nil, []byte("z"))
		key := s.key
		s.key = newKey(t, 9)
		s.bake(Options{}, old.Path)
		s.key = key
		s.bake(Options{}, info.Path, broken.Path)
		if err := os.Remove(filepath.Join(s.cache, narindex.TreeDir, broken.Path.Base())); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(s.cache, info.Path.Hash+suffix)
		asked := unix.NsecToTimespec(s.now.Add(-40 * 24 * time.Hour).UnixNano())
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{asked, asked}, 0); err != nil {
			t.Fatal(err)
		}
		strip := func(n *narinfo.Narinfo) (text string) {
			for line := range strings.Lines(string(n.Text())) {
				if !strings.HasPrefix(line, "ERISMagnet: ") && !strings.HasPrefix(line, "Signature: ") {
					text += line
				}
			}
			return text
		}
		before := strip(s.read(info.Path.Hash))
		for i, trackers := range [][]string{nil, nil, {"http://t.example/"}} {
			c := s.open(Options{Torrents: true, Trackers: trackers})
			changed := c.Library().Changed()
			s.run(c, func() {})
			s.checkTorrent(c, info)
			select {
			case <-changed:
			default:
				if i != 1 {
					t.Error("nobody was told that there is a magnet link")
				}
			}
			s.close(c)
			n := s.read(info.Path.Hash)
			if strip(n) != before || strings.Index(string(n.Text()), "ERIS: ") > strings.Index(string(n.Text()), "ERISMagnet: ") {
				t.Errorf("%s", n.Text())
			}
			if _, err := s.signer().Keys().verify(n); err != nil {
				t.Error(err)
			}
			if got, err := folder.AccessTime(name); err != nil || got.UnixNano() != unix.TimespecToNsec(asked) {
				t.Errorf("asked for at %v, %v", got, err)
			}
			for _, other := range []string{old.Path.Hash, broken.Path.Hash} {
				if n := s.read(other); n.ERISMagnet != "" {
					t.Errorf("signed:\n%s", n.Text())
				}
			}
		}
		// A process that makes none leaves what there is.
		s.bake(Options{})
		if n := s.read(info.Path.Hash); n.ERISMagnet == "" {
			t.Errorf("%s", n.Text())
		}
		if got := s.log.String(); strings.Count(got, "magnet links of baked items signed or taken out") != 2 {
			t.Errorf("log:\n%s", got)
		}
	})
}

// TestMagnetOfRoots: what only a client has asked for gets no link, and what no
// root refers to any more loses it; nothing else of the narinfo changes.
func TestMagnetOfRoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.nix = newNixKey(t, "n-1", 1)
		first, second, private := s.add("first", nil, random(1, 300_000)), s.add("second", nil, random(2, 300_000)), s.add("private", nil, random(3, 300_000))
		s.bake(Options{}, first.Path) // by an earlier process
		before := string(s.read(first.Path.Hash).Text())
		o := Options{Torrents: true, Methods: fast, Now: func() time.Time { return s.now }}
		c, err := Open(s.cache, s.db, s.signer(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close(c)
		wantLinks := func(when string, of ...storedb.Info) {
			t.Helper()
			synctest.Wait()
			for _, i := range []storedb.Info{first, second, private} {
				link := s.read(i.Path.Hash).ERISMagnet
				if want := slices.ContainsFunc(of, func(w storedb.Info) bool { return w.Path == i.Path }); (link != "") != want {
					t.Errorf("%s: %s has the link %q", when, i.Path.Name, link)
				}
			}
		}
		s.run(c, func() {
			for _, i := range []storedb.Info{second, private} {
				if err := c.Bake(i.Path); err != nil {
					t.Error(err)
				}
			}
			wantLinks("before the roots are known")
			c.setAhead([]storepath.Path{first.Path, second.Path})
			wantLinks("at first", first, second)
			s.checkTorrent(c, first)
			changed := c.RootsLibrary().Changed()
			c.setAhead([]storepath.Path{second.Path})
			wantLinks("later", second)
			select {
			case <-changed:
			default:
				t.Error("nobody was told")
			}
			if got := string(s.read(first.Path.Hash).Text()); got != before {
				t.Errorf("now\n%s\nbefore\n%s", got, before)
			}
		})
		if faults := s.fsck(FsckOptions{}); faults != "" {
			t.Errorf("faults:\n%s", faults)
		}
	})
}

// TestMagnetsOnFullDisk: the first item that a full disk keeps from its link is the
// last one that is read for it, until later.
func TestMagnetsOnFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		a, b := s.add("a", nil, random(1, 30_000)), s.add("b", nil, random(2, 30_000))
		s.bake(Options{}, a.Path, b.Path)
		c := s.open(Options{Torrents: true})
		defer s.close(c)
		var mu sync.Mutex
		tries, full := 0, true
		restore := durable.SetFaultForTest(func(op, name string) error {
			mu.Lock()
			defer mu.Unlock()
			if full && strings.Contains(name, narindex.TorrentDir+"/") {
				tries++
				return syscall.ENOSPC
			}
			return nil
		})
		defer restore()
		s.run(c, func() {
			synctest.Wait()
			mu.Lock()
			if tries != 1 {
				t.Errorf("%d tries", tries)
			}
			full = false
			mu.Unlock()
			time.Sleep(brokenFor + time.Second)
			synctest.Wait()
			s.checkTorrent(c, a)
			s.checkTorrent(c, b)
		})
		if log := s.log.String(); !strings.Contains(log, "not all magnet links") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// TestFsckTorrent: each fault of a torrent is found and named, and repair mends
// what can be made of the nar.
func TestFsckTorrent(t *testing.T) {
	put := func(s *site, name string, content []byte) {
		if err := os.WriteFile(filepath.Join(s.cache, name), content, 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	// with gives the narinfo another link, signed by the key of the cache, or none,
	// and a line below the signature.
	with := func(s *site, i storedb.Info, link, below string) {
		n := s.read(i.Path.Hash)
		line := "ERISMagnet: " + n.ERISMagnet + "\n"
		now := ""
		if link != "" {
			now = "ERISMagnet: " + link + "\n"
		}
		text, err := narinfo.SignGuix([]byte(strings.Replace(string(n.SignedPart()), line, now, 1)), s.key, "test")
		if err != nil {
			s.t.Fatal(err)
		}
		put(s, i.Path.Hash+suffix, slices.Concat(text, []byte(below), belowSignature(n)))
	}
	of := func(i storedb.Info) string { return narindex.TorrentDir + "/" + i.Path.Base() }
	for _, tt := range []struct {
		name  string
		spoil func(s *site, i, other storedb.Info)
		want  string
		kept  bool // repair mends the entry
	}{
		{"nothing", func(*site, storedb.Info, storedb.Info) {}, "", true},
		{"missing", func(s *site, i, _ storedb.Info) {
			if err := os.Remove(filepath.Join(s.cache, of(i))); err != nil {
				s.t.Fatal(err)
			}
		}, "no such file", true},
		{"no torrent", func(s *site, i, _ storedb.Info) { put(s, of(i), []byte("d")) }, "malformed", true},
		{"a hash", func(s *site, i, _ storedb.Info) {
			text, err := os.ReadFile(filepath.Join(s.cache, of(i)))
			if err != nil {
				s.t.Fatal(err)
			}
			text[len(text)-5]++
			put(s, of(i), text)
		}, "the torrent is not that of the blocks", true},
		{"another item's", func(s *site, i, other storedb.Info) {
			text, err := os.ReadFile(filepath.Join(s.cache, of(other)))
			if err != nil {
				s.t.Fatal(err)
			}
			put(s, of(i), text)
		}, "are not the blocks of", true},
		{"tree file too", func(s *site, i, _ storedb.Info) {
			put(s, narindex.TreeDir+"/"+i.Path.Base(), nil)
			put(s, of(i), nil)
		}, "index.sqlite", true},
		{"not named, and broken", func(s *site, i, _ storedb.Info) {
			with(s, i, "", "")
			put(s, of(i), nil)
		}, "malformed", true},
		{"another link", func(s *site, i, other storedb.Info) { with(s, i, s.read(other.Path.Hash).ERISMagnet, "") }, "of another torrent", false},
		{"no link", func(s *site, i, _ storedb.Info) { with(s, i, "magnet:?xt=urn:btih:1", "") }, "is no info hash", false},
		{"unsigned link", func(s *site, i, other storedb.Info) {
			with(s, i, "", "ERISMagnet: "+s.read(other.Path.Hash).ERISMagnet+"\n")
		}, "does not cover ERISMagnet", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				s.torrent = true
				info, other := s.add("item", nil, random(1, 270_000)), s.add("other", nil, random(2, 50_000))
				s.bake(Options{}, info.Path, other.Path)
				tt.spoil(s, info, other)
				for _, repair := range []bool{false, true} {
					faults := s.fsck(FsckOptions{Repair: repair})
					if !strings.Contains(faults, tt.want) || (faults == "") != (tt.want == "") || strings.Contains(faults, "true") != (repair && tt.want != "") {
						t.Errorf("repair %v: %q, want %q", repair, faults, tt.want)
					}
				}
				if faults := s.fsck(FsckOptions{}); faults != "" {
					t.Errorf("after repair:\n%s", faults)
				}
				if got := folder.Exists(filepath.Join(s.cache, info.Path.Hash+suffix)); got != tt.kept {
					t.Errorf("the entry is there: %v", got)
				}
				s.bake(Options{}, info.Path) // and is whole again
				c := s.open(Options{})
				s.check(c, info)
				s.close(c)
			})
		})
	}
}
