package keep

import (
	"bytes"
	"log/slog"
	"math"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFit: no more is kept than the disk has place for, and what there is stays.
func TestFit(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	x := makeThing(t, 0, 100_000)
	put(t, s, x)
	closing(t, s)

	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Skip(err)
	}
	var log bytes.Buffer
	o := Options{Quota: math.MaxInt64 - 1, Log: slog.New(slog.NewTextHandler(&log, nil))}
	s = open(t, dir, o)
	defer func() { closing(t, s) }()
	u, disk := s.Usage(), int64(fs.Blocks)*fs.Bsize
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
