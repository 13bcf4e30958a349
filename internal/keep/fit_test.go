package keep

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFit: no more is kept than the disk has place for, and what there is stays.
func TestFit(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	x := makeThing(t, 0, 100_000)
	put(t, s, x)
	closing(t, s)

	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Skip(err)
	}
	var log bytes.Buffer
	o := Options{Quota: math.MaxInt64 - 1, Log: slog.New(slog.NewTextHandler(&log, nil))}
	s = open(t, dir, o)
	defer func() { closing(t, s) }()
	u, disk := s.Usage(), int64(st.Blocks)*st.Bsize
	if u.Quota <= u.Total() || u.Quota > disk-spare(disk) {
		t.Errorf("%+v, on a disk of %d", u, disk)
	}
	if !strings.Contains(log.String(), `msg="the disk has less place than the quota says" state=`+dir) {
		t.Errorf("log: %s", &log)
	}
	kept(t, s, x)

	// A quota that the disk has stays as it is, and so does none.
	for _, quota := range []int64{u.Total() + 1, math.MaxInt64} {
		closing(t, s)
		log.Reset()
		o.Quota = quota
		s = open(t, dir, o)
		if got := s.Usage().Quota; got != quota || log.Len() > 0 {
			t.Errorf("quota %d, want %d: %s", got, quota, &log)
		}
	}
}

func TestSpare(t *testing.T) {
	for disk, want := range map[int64]int64{0: 0, 20 << 20: 1 << 20, 1 << 40: 64 << 20} {
		if got := spare(disk); got != want {
			t.Errorf("of %d: %d, want %d", disk, got, want)
		}
	}
}

// TestParseDisk: what says nothing of its size, or more than there can be, lowers no
// quota, and blocks are counted by their own unit.
func TestParseDisk(t *testing.T) {
	for _, x := range []struct {
		fs   unix.Statfs_t
		want disk
	}{
		{unix.Statfs_t{Bsize: 512}, disk{}},
		{unix.Statfs_t{Bsize: 4096, Blocks: 10, Bavail: 3}, disk{40960, 12288}},
		{unix.Statfs_t{Bsize: 1 << 20, Frsize: 4096, Blocks: 10, Bavail: 3}, disk{40960, 12288}},
		{unix.Statfs_t{Bsize: 4096, Blocks: math.MaxUint64, Bavail: math.MaxInt64 / 4096 * 2}, disk{1 << 60, 1 << 60}},
	} {
		if got := parseDisk(&x.fs); got != x.want {
			t.Errorf("%+v: %+v, want %+v", x.fs, got, x.want)
		}
	}
	s := open(t, t.TempDir(), Options{})
	defer closing(t, s)
	s.disk = func() disk { return disk{} }
	if s.fit(); s.Usage().Quota != DefaultQuota {
		t.Errorf("a disk that does not say: %+v", s.Usage())
	}
}

// TestFitAgain: a disk that was full when the node started can be used when it has
// place again, and only then.
func TestFitAgain(t *testing.T) {
	c := newClock()
	s := open(t, t.TempDir(), Options{Now: c.now})
	defer closing(t, s)
	free := int64(0)
	s.disk = func() disk { return disk{1 << 30, free} }
	s.fit()
	x := makeThing(t, 0, 500_000)
	commit := func() error {
		c.add(fitEvery)
		p := part(t, s, x)
		defer closing(t, p)
		fill(t, p, x)
		_, err := p.Commit(t.Context(), x.Item, x.tree)
		return err
	}
	if err := commit(); !errors.Is(err, ErrQuota) {
		t.Errorf("on a full disk: %v", err)
	}
	free = 1 << 30
	if err := commit(); err != nil {
		t.Fatal(err)
	}
	kept(t, s, x)
	if u := s.Usage(); u.Quota < 900<<20 || u.Quota >= DefaultQuota {
		t.Errorf("%+v", u)
	}
	free = 100 << 30
	c.add(fitEvery)
	if s.exceeds(1 << 30) {
		t.Error("the quota is lower than what the disk has")
	}
	if u := s.Usage(); u.Quota != DefaultQuota {
		t.Errorf("%+v", u)
	}
}

// TestFitUnsettled: what the catalog does not know yet takes its place on the disk all
// the same, and is not evicted for that.
func TestFitUnsettled(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	s := open(t, dir, Options{Now: c.now})
	things := []*thing{makeThing(t, 0, 500_000), makeThing(t, 1, 500_000), makeThing(t, 2, 500_000)}
	for _, x := range things {
		put(t, s, x)
	}
	closing(t, s)
	for _, name := range catalogFiles() {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	c.add(time.Hour)
	s = unsettled(t, dir, Options{Now: c.now})
	defer closing(t, s)
	size := int64(1 << 30)
	s.disk = func() disk { return disk{size, spare(size) + 600_000} }
	s.fit()
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, x := range things {
		kept(t, s, x)
	}
}
