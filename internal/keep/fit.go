package keep

import (
	"log/slog"
	"math"
	"math/bits"
	"time"

	"golang.org/x/sys/unix"
)

// fitEvery is how often a quota that the disk does not have is compared with it again.
const fitEvery = time.Second

// spare is what a quota leaves free of a disk: a 20th, and 64 MiB at most. The
// catalog and the index need some of it to let items go.
func spare(disk int64) int64 { return min(disk/20, 64<<20) }

// disk is what a folder is on, in bytes. The zero disk does not say.
type disk struct{ size, free int64 }

func diskOf(dir string) disk {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return disk{}
	}
	return parseDisk(&fs)
}

// parseDisk reads what a file system says: some of FUSE have another unit than Bsize,
// and say nothing or the largest number if they do not know.
func parseDisk(fs *unix.Statfs_t) disk {
	unit := uint64(fs.Frsize)
	if unit == 0 {
		unit = uint64(fs.Bsize)
	}
	bytes := func(blocks uint64) int64 {
		const most = 1 << 60
		if high, low := bits.Mul64(blocks, unit); high == 0 && low < most {
			return int64(low)
		}
		return most
	}
	return disk{bytes(fs.Blocks), bytes(fs.Bavail)}
}

// fit lowers a quota that the disk does not have: before that much was kept the
// disk would be full, and nothing could be fetched any more. What it has again later
// counts again, see refit.
func (s *Store) fit() {
	d := s.disk()
	if s.want == math.MaxInt64 || d.size == 0 { // no quota, or a disk that does not say
		return
	}
	place := min(s.want, max(0, s.Usage().Total()+d.free-spare(d.size)))
	s.mu.Lock()
	before := s.quota
	s.quota = place
	s.mu.Unlock()
	switch {
	case place < s.want && before == s.want:
		s.log.Warn("the disk has less place than the quota says", slog.String("state", s.dir),
			slog.Int64("quota_bytes", s.want), slog.Int64("bytes", place))
	case place == s.want && before < s.want:
		s.log.Info("the disk has the place that the quota says", slog.String("state", s.dir), slog.Int64("quota_bytes", s.want))
	}
}

// refit is fit where the quota was lowered, for who would remove something for it or
// has something that is larger.
func (s *Store) refit() {
	now := s.now()
	s.mu.Lock()
	due := s.quota < s.want && now.Sub(s.fitted).Abs() >= fitEvery
	if due {
		s.fitted = now
	}
	s.mu.Unlock()
	if due {
		s.fit()
	}
}

// exceeds reports whether something of n bytes is larger than all that may be kept.
func (s *Store) exceeds(n int64) bool {
	larger := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return n > s.quota
	}
	if larger() {
		s.refit()
	}
	return larger()
}
