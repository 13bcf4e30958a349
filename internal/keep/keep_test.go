package keep

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/compress"
)

// What is committed is there, with its blocks, also for the next process.
func TestItems(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	things := []*thing{makeThing(t, 0, 100), makeThing(t, 1, 16<<10), makeThing(t, 2, 3<<20)}
	for _, x := range things {
		if _, err := s.Get(x.Path.Hash); !errors.Is(err, ErrNone) {
			t.Errorf("before: %v", err)
		}
		i := put(t, s, x)
		if i.ReadCap != x.ReadCap || !i.Signed || !i.Asked || i.Size != int64(len(x.file)) {
			t.Errorf("%+v", i)
		}
	}
	for range 2 {
		for _, x := range things {
			kept(t, s, x)
			if i, err := s.ByNarHash(x.NarHash); err != nil || i.Path != x.Path || i.ReadCap != x.ReadCap || !i.Signed {
				t.Errorf("%+v, %v", i, err)
			}
			b := s.Blocks(nil)
			if n := served(t, b, x); n != len(x.nodes) {
				t.Errorf("%d blocks of %d", n, len(x.nodes))
			}
			if h, ok := b.Have(x.NarHash); !ok || h.Part || h.ReadCap != x.ReadCap || h.Format != x.Format {
				t.Errorf("%+v, %v", h, ok)
			}
		}
		if u := s.Usage(); u.Items != 3 || u.Parts != 0 || u.PartBytes != 0 || u.ItemBytes < 3<<20 || u.ItemBytes > 4<<20 || u.IndexBytes == 0 {
			t.Errorf("%+v", u)
		}
		if f := faults(t, dir, CheckOptions{}); f != "" {
			t.Error(f)
		}
		closing(t, s)
		s = open(t, dir, Options{})
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	x := things[1]
	f, err := s.Open(x.Path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Remove(t.Context(), x.Path.Hash); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, x.file) {
		t.Errorf("an open file: %v", err)
	}
	closing(t, f)
	_, err1 := s.Get(x.Path.Hash)
	_, err2 := s.Open(x.Path.Hash)
	_, err3 := s.ByNarHash(x.NarHash)
	for _, err := range []error{err1, err2, err3} {
		if !errors.Is(err, ErrNone) {
			t.Error(err)
		}
	}
	for _, name := range files(t, dir) {
		if strings.Contains(name, x.Path.Hash) {
			t.Errorf("%s is left", name)
		}
	}
	closing(t, s)
}

// A nar without a tree is encoded, and its signed capability compared.
func TestCommitEncodes(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	x := makeThing(t, 0, 100_000)
	for _, signed := range []bool{false, true} {
		item := x.Item
		if !signed {
			item.ReadCap.Root[0] ^= 1
		}
		a := About{Item: item, ETag: `"a"`, FileSize: int64(len(x.file))}
		p, err := s.Part(NarID(a), a)
		if err != nil {
			t.Fatal(err)
		}
		for c := range slices.Chunk(x.file, 30_000) {
			if _, err := p.Append(c); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := p.Commit(t.Context(), item, nil); err == nil {
			t.Error("committed before it was finished")
		}
		p.Finish(p.Size())
		i, err := p.Commit(t.Context(), item, nil)
		if err != nil || i.ReadCap != x.ReadCap || i.Signed != signed {
			t.Errorf("%v: %+v, %v", signed, i, err)
		}
		if _, err := p.Commit(t.Context(), item, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("committed twice: %v", err)
		}
		closing(t, p)
		if n := served(t, s.Blocks(nil), x); n != len(x.nodes) {
			t.Errorf("%d blocks of %d", n, len(x.nodes))
		}
	}
	// In another compression, in place of the first.
	y := &thing{nar: x.nar, file: x.nar, blocks: map[eris.Ref][]byte{}}
	y.encode(t, eris.Size32KiB, x.Path, compress.None)
	put(t, s, y)
	kept(t, s, y)
	if f := faults(t, s.dir, CheckOptions{}); f != "" {
		t.Error(f)
	}
}

// Of what allow refuses, nothing is served or said.
func TestAllow(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	a, b, c := makeThing(t, 0, 50_000), makeThing(t, 1, 50_000), makeThing(t, 2, 90_000)
	put(t, s, a)
	put(t, s, b)
	p := part(t, s, c)
	defer closing(t, p)
	fill(t, p, c)
	asked := 0
	blocks := s.Blocks(func(i Item) bool { asked++; return i.Path == a.Path && string(i.Narinfo) == string(a.Narinfo) })
	for range 2 {
		if n := served(t, blocks, a); n != len(a.nodes) {
			t.Errorf("%d blocks of %d", n, len(a.nodes))
		}
		for _, x := range []*thing{b, c} {
			if n := served(t, blocks, x); n != 0 {
				t.Errorf("%d blocks of what is not shared", n)
			}
			if _, ok := blocks.Have(x.NarHash); ok {
				t.Error("said to be there")
			}
		}
	}
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
	if _, ok := s.Blocks(nil).Have([32]byte{1}); ok {
		t.Error("nothing is said to be there")
	}
}

// The least recently used goes first, before it what nobody asked for in time,
// and nothing that is open.
func TestEviction(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	o := Options{Quota: 4_500_000, Now: c.now}
	s := open(t, dir, o)
	const size = 1_000_000
	var things []*thing
	for i := range byte(7) {
		x := makeThing(t, i, size)
		x.Asked = i != 2 // 2 is fetched ahead
		things = append(things, x)
	}
	there := func() (got string) {
		for i, x := range things {
			if _, err := s.Get(x.Path.Hash); err == nil {
				got += string(rune('0' + i))
			}
		}
		return got
	}
	step := func(want string) {
		t.Helper()
		if got := there(); got != want {
			t.Errorf("kept %s, want %s", got, want)
		}
		if u := s.Usage(); u.Total() > u.Quota {
			t.Errorf("%+v", u)
		}
		c.add(2 * time.Hour)
	}
	for i := range 4 {
		put(t, s, things[i])
		c.add(time.Minute)
	}
	c.add(2 * time.Hour)
	kept(t, s, things[0])
	step("0123")
	// Nobody asked for 2 in time; 1 is the oldest.
	put(t, s, things[4])
	step("0134")
	// The times outlive the process.
	closing(t, s)
	s = open(t, dir, o)
	defer func() { closing(t, s) }()
	f, err := s.Open(things[1].Path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	if i, err := s.Get(things[0].Path.Hash); err != nil || !i.Asked || c.now().Sub(i.Used) < time.Hour {
		t.Errorf("%+v, %v", i, err)
	}
	put(t, s, things[5])
	step("0145") // 3 came before 0 was asked for
	if _, err := s.Open(things[0].Path.Hash); err != nil {
		t.Fatal(err) // stays open
	}
	g, err := s.Open(things[4].Path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	if n := served(t, s.Blocks(nil), things[5]); n == 0 {
		t.Error("nothing is served")
	}
	put(t, s, things[6])
	if got := there(); got != "01456" && got != "0145" {
		t.Errorf("kept %s", got)
	}
	// What was in use goes when it no longer is.
	c.add(time.Hour)
	closing(t, f)
	closing(t, g)
	if u := s.Usage(); u.Total() > u.Quota {
		t.Errorf("%+v", u)
	}
	if f := faults(t, dir, CheckOptions{}); f != "" {
		t.Error(f)
	}
}

// What may be evicted is not sorted anew for each block that comes, and what was
// used since it was sorted stays all the same.
func TestEvictionInARow(t *testing.T) {
	c := newClock()
	s := open(t, t.TempDir(), Options{Quota: 4_900_000, Now: c.now})
	defer closing(t, s)
	var things []*thing
	add := func() {
		x := makeThing(t, byte(len(things)), 1_000_000)
		things = append(things, x)
		c.add(time.Second)
		put(t, s, x)
	}
	want := func(want ...int) {
		t.Helper()
		var got []int
		for i, x := range things {
			if _, err := s.Get(x.Path.Hash); err == nil {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("kept %d, want %d", got, want)
		}
	}
	for range 5 {
		add()
	}
	want(1, 2, 3, 4)
	listed := s.listed
	c.add(time.Second)
	kept(t, s, things[1])
	add()
	want(1, 3, 4, 5)
	add()
	want(1, 4, 5, 6)
	if !s.listed.Equal(listed) {
		t.Error("sorted anew")
	}
	add()
	want(1, 5, 6, 7) // 4 came before 1 was asked for
	add()
	want(5, 6, 7, 8)
	if s.listed.Equal(listed) {
		t.Error("never sorted anew")
	}
}

// A smaller quota holds from the start.
func TestSmallerQuota(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, Options{Now: c.now})
	for i := range byte(3) {
		put(t, s, makeThing(t, i, 500_000))
		c.add(time.Minute)
	}
	closing(t, s)
	s = open(t, dir, Options{Now: c.now, Quota: 800_000})
	defer closing(t, s)
	if u := s.Usage(); u.Items != 1 || u.Total() > u.Quota {
		t.Errorf("%+v", u)
	}
	kept(t, s, makeThing(t, 2, 500_000))
}

// An item that is larger than the quota is served through and not kept, and
// drives nothing else out.
func TestTooLarge(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{Quota: 1 << 20})
	defer closing(t, s)
	small, x := makeThing(t, 0, 300_000), makeThing(t, 1, 2<<20)
	put(t, s, small)
	for _, commit := range []bool{true, false} {
		p := part(t, s, x)
		r := p.Reader(t.Context())
		fill(t, p, x)
		if commit {
			if _, err := p.Commit(t.Context(), x.Item, x.tree); !errors.Is(err, ErrQuota) {
				t.Error(err)
			}
		}
		closing(t, p)
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, x.file) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		closing(t, r)
		if u := s.Usage(); u.Items != 1 || u.Parts != 0 || u.PartBytes != 0 {
			t.Errorf("%+v", u)
		}
	}
	kept(t, s, small)
	if names, err := os.ReadDir(filepath.Join(dir, partsDir)); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
}

// Open removes what is not whole, and what belongs to nothing.
func TestOpenSweeps(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	var things []*thing
	for i := range byte(5) {
		things = append(things, makeThing(t, i, 50_000))
		put(t, s, things[i])
	}
	p := part(t, s, makeThing(t, 9, 100))
	closing(t, p)
	closing(t, s)
	record := func(i int) string { return filepath.Join(dir, infoDir, things[i].Path.Hash) }
	nar := func(i int) string { return filepath.Join(dir, narName("zstd", things[i].Path.Base())) }
	for _, err := range []error{
		os.Remove(record(0)),
		os.Remove(nar(1)),
		os.Truncate(nar(2), 1000),
		os.Truncate(record(3), 100),
		os.WriteFile(filepath.Join(dir, infoDir, ".tmp-1"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, partsDir, string(p.id), ".tmp-1"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, narDir, "xz", things[4].Path.Base()), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "sources.json"), nil, 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir, Options{})
	if u := s.Usage(); u.Items != 1 || u.Parts != 1 {
		t.Errorf("%+v", u)
	}
	kept(t, s, things[4])
	closing(t, s)
	want := []string{
		"eris/tree/" + things[4].Path.Base(), "nar/zstd/" + things[4].Path.Base(), "narinfo/" + things[4].Path.Hash,
		"parts/" + string(p.id) + "/about", "parts/" + string(p.id) + "/content", "parts/" + string(p.id) + "/nodes", "sources.json",
	}
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("left %q", got)
	}
	if f := faults(t, dir, CheckOptions{}); f != "" {
		t.Error(f)
	}
}

// Two items with one nar are told apart.
func TestSameNar(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	a, b := makeThing(t, 0, 50_000), makeThing(t, 1, 100)
	b.nar, b.file, b.nodes = a.nar, a.file, nil
	b.encode(t, eris.Size32KiB, b.Path, compress.Method{Name: "zstd", Level: 1})
	put(t, s, a)
	put(t, s, b)
	kept(t, s, a)
	kept(t, s, b)
	if err := s.Remove(t.Context(), a.Path.Hash); err != nil {
		t.Fatal(err)
	}
	if i, err := s.ByNarHash(sha256.Sum256(a.nar)); err != nil || i.Path != b.Path {
		t.Errorf("%+v, %v", i, err)
	}
	if n := served(t, s.Blocks(nil), a); n != len(a.nodes) {
		t.Errorf("%d blocks of %d", n, len(a.nodes))
	}
}

// An item that has the nar of another one is kept as one of its own.
func TestAlso(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	x := makeThing(t, 0, 100_000)
	y := x.twin(t, 1)
	y.Server = "http://other.example"
	put(t, s, x)
	f, err := s.Open(x.Path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Also(t.Context(), x.Item); err == nil {
		t.Error("an item beside itself")
	}
	for range 2 { // the second time in place of the first
		if err := f.Also(t.Context(), Item{Path: y.Path, Server: y.Server, Narinfo: y.Narinfo}); err != nil {
			t.Fatal(err)
		}
		if i, err := s.Get(y.Path.Hash); err != nil || i.Signed || i.Asked || i.ReadCap != x.ReadCap {
			t.Errorf("%+v, %v", i, err)
		}
		kept(t, s, y)
	}
	closing(t, f)
	if err := s.Remove(t.Context(), x.Path.Hash); err != nil {
		t.Fatal(err)
	}
	kept(t, s, y)
	if n := served(t, s.Blocks(nil), y); n != len(y.nodes) {
		t.Errorf("%d blocks of %d", n, len(y.nodes))
	}
	if f := faults(t, dir, CheckOptions{}); f != "" {
		t.Error(f)
	}
	closing(t, s)
	s = open(t, dir, Options{})
	defer closing(t, s)
	kept(t, s, y)
}
