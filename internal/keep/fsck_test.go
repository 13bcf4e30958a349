package keep

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"ersatz/internal/block/narindex"
	"ersatz/internal/folder"
)

// Each kind of damage is named, and repaired.
func TestFsck(t *testing.T) {
	x, other := makeThing(t, 0, 100_000), makeThing(t, 1, 50_000)
	base := x.Path.Base()
	nar, record, tree := narName("zstd", base), infoDir+"/"+x.Path.Hash, narindex.TreeDir+"/"+base
	write := func(dir, name string) error {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), []byte("content"), 0o644)
	}
	for _, tt := range []struct {
		name   string
		do     func(dir string) error
		want   string // in the one line
		stays  bool   // the item is kept
		beside bool   // and seen beside a process only when it is old
	}{
		{"nar", func(dir string) error { damage(t, filepath.Join(dir, nar), 5000); return nil }, nar + ":", false, false},
		{"long nar", func(dir string) error { return os.Truncate(filepath.Join(dir, nar), 200_000) }, nar + ":", false, false},
		{"no nar", func(dir string) error { return os.Remove(filepath.Join(dir, nar)) }, "the nar is missing", false, false},
		{"record", func(dir string) error { return os.Truncate(filepath.Join(dir, record), 30) }, record + ": malformed record", false, false},
		{"another's record", func(dir string) error {
			return os.Rename(filepath.Join(dir, infoDir, other.Path.Hash), filepath.Join(dir, record))
		}, record + ": malformed record: it is of " + other.Path.String(), false, false},
		{"tree", func(dir string) error { damage(t, filepath.Join(dir, tree), 100); return nil }, narindex.File + ": " + base, true, false},
		{"no tree", func(dir string) error { return os.Remove(filepath.Join(dir, tree)) }, narindex.File + ": " + base, true, false},
		{"no record", func(dir string) error { return os.Remove(filepath.Join(dir, record)) }, "", false, true},
		{"stray nar", func(dir string) error { return write(dir, narName("xz", base)) }, "nar of no item", true, true},
		{"stray tree", func(dir string) error { return write(dir, narindex.TreeDir+"/"+makeThing(t, 9, 1).Path.Base()) }, "not indexed", true, true},
		{"stray torrent", func(dir string) error { return write(dir, narindex.TorrentDir+"/"+makeThing(t, 9, 1).Path.Base()) }, "torrent of an item", true, true},
		{"torrent", func(dir string) error { return spoilTorrent(t, dir, x) }, "not the torrent of the blocks", true, false},
		{"no torrent", func(dir string) error { return write(dir, narindex.TorrentDir+"/"+base) }, "malformed", true, false},
		{"temporary", func(dir string) error { return write(dir, infoDir+"/.tmp-1") }, "temporary file", true, true},
		{"part", func(dir string) error { return write(dir, partsDir+"/"+string(BlocksID(x.ReadCap))+"/about") }, "malformed record", true, true},
		{"half a part", func(dir string) error { return write(dir, partsDir+"/"+string(BlocksID(x.ReadCap))+"/content") }, "about:", true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, Options{})
			put(t, s, x)
			put(t, s, other)
			if err := tt.do(dir); err != nil {
				t.Fatal(err)
			}
			if f := faults(t, dir, CheckOptions{}); tt.beside && f != "" && tt.name != "no record" {
				t.Errorf("work in progress is a fault: %s", f)
			}
			later := func() time.Time { return time.Now().Add(2 * time.Hour) }
			if f := faults(t, dir, CheckOptions{Now: later}); !strings.Contains(f, tt.want) || f == "" {
				t.Errorf("beside the store: %q", f)
			}
			err := Fsck(t.Context(), dir, CheckOptions{Repair: true}, func(folder.Fault) {})
			if !errors.Is(err, ErrLocked) {
				t.Errorf("repair beside the store: %v", err)
			}
			closing(t, s)
			if f := faults(t, dir, CheckOptions{Repair: true}); !strings.Contains(f, tt.want) || f == "" {
				t.Errorf("repair: %q", f)
			}
			if f := faults(t, dir, CheckOptions{}); f != "" {
				t.Errorf("afterwards: %s", f)
			}
			s = open(t, dir, Options{})
			defer closing(t, s)
			if tt.stays {
				kept(t, s, x)
				if n := served(t, s.Blocks(nil), x); n != len(x.nodes) {
					t.Errorf("%d blocks of %d", n, len(x.nodes))
				}
			} else if _, err := s.Get(x.Path.Hash); !errors.Is(err, ErrNone) {
				t.Errorf("still there: %v", err)
			}
			if tt.name != "another's record" {
				kept(t, s, other)
			}
		})
	}
}

// spoilTorrent keeps a torrent of an item that has a wrong hash in it.
func spoilTorrent(t *testing.T, dir string, x *thing) error {
	t.Helper()
	index, err := narindex.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer index.Close()
	content, err := index.Open(t.Context(), x.Path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	i, err := content.Torrent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := content.CheckTorrent(t.Context()); err != nil {
		t.Errorf("one that is good: %v", err)
	}
	i.Pieces[0] ^= 1
	return content.KeepTorrent(i)
}

// Reading everything counts as no request.
func TestFsckQuiet(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	x := makeThing(t, 0, 1000)
	x.Asked = false
	put(t, s, x)
	closing(t, s)
	done := 0
	if err := Fsck(t.Context(), dir, CheckOptions{Progress: func(int, int) { done++ }}, func(f folder.Fault) { t.Error(f) }); err != nil || done != 1 {
		t.Error(done, err)
	}
	s = open(t, dir, Options{})
	defer closing(t, s)
	if i, err := s.Get(x.Path.Hash); err != nil || i.Asked {
		t.Errorf("%+v, %v", i, err)
	}
	if !IsState(dir) || IsState(t.TempDir()) {
		t.Error("a state folder is not told from others")
	}
}

func TestGC(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, Options{Now: c.now})
	var things []*thing
	for i := range byte(5) {
		things = append(things, makeThing(t, i, 1_000_000))
		put(t, s, things[i])
		c.add(time.Minute)
	}
	stale := part(t, s, makeThing(t, 8, 100_000))
	closing(t, stale)
	if _, err := GC(t.Context(), dir, GCOptions{}, func(folder.Fault) {}); !errors.Is(err, ErrLocked) {
		t.Errorf("beside the store: %v", err)
	}
	closing(t, s)
	gc := func(o GCOptions, want Freed) {
		t.Helper()
		o.Now = c.now
		lines := 0
		f, err := GC(t.Context(), dir, o, func(f folder.Fault) {
			if lines++; !f.Repaired {
				t.Error(f)
			}
		})
		if err != nil || lines != want.Broken || f.Broken != want.Broken || f.Items != want.Items || f.Parts != want.Parts {
			t.Errorf("%+v, %d lines, %v", f, lines, err)
		}
		if u := f.Left; o.Quota > 0 && u > o.Quota || f.Bytes < int64(f.Items+f.Broken)*900_000 {
			t.Errorf("%+v", f)
		}
	}
	gc(GCOptions{}, Freed{})
	damage(t, filepath.Join(dir, narName("zstd", things[4].Path.Base())), 5000)
	gc(GCOptions{}, Freed{Broken: 1})
	c.add(31 * 24 * time.Hour)
	gc(GCOptions{Quota: 100 << 20}, Freed{Parts: 1})
	gc(GCOptions{Quota: 2_500_000}, Freed{Items: 2})
	s = open(t, dir, Options{})
	defer closing(t, s)
	kept(t, s, things[2])
	kept(t, s, things[3])
	if u := s.Usage(); u.Items != 2 || u.Parts != 0 {
		t.Errorf("%+v", u)
	}
	if _, err := GC(t.Context(), filepath.Join(dir, "no"), GCOptions{}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// To check one more item takes no memory that grows with the size of groups of
// blocks.
func TestFsckAllocates(t *testing.T) {
	dir := memory(t)
	s := open(t, dir, Options{})
	fsck := func(n byte) float64 {
		for k := range n {
			if _, err := s.Get(makeThing(t, k, 4000).Path.Hash); err != nil {
				put(t, s, makeThing(t, k, 4000))
			}
		}
		var before, after runtime.MemStats
		faults(t, dir, CheckOptions{}) // fills pools
		runtime.ReadMemStats(&before)
		if f := faults(t, dir, CheckOptions{}); f != "" {
			t.Error(f)
		}
		runtime.ReadMemStats(&after)
		return float64(after.TotalAlloc - before.TotalAlloc)
	}
	few, many := fsck(2), fsck(22)
	closing(t, s)
	if each := (many - few) / 20; each > 330<<10 { // with a group for each it is 410
		t.Errorf("%.0f bytes for each item", each)
	}
}
