package keep

import (
	"log/slog"
	"math"

	"golang.org/x/sys/unix"
)

// spare is what a quota leaves free of a disk: a 20th, and 64 MiB at most. The
// catalog and the index need some of it to let items go.
func spare(disk int64) int64 { return min(disk/20, 64<<20) }

// fit lowers a quota that the disk does not have: before that much was kept the
// disk would be full, and nothing could be fetched any more.
func (s *Store) fit() {
	var fs unix.Statfs_t
	if s.quota == math.MaxInt64 || unix.Statfs(s.dir, &fs) != nil { // none, or a disk that does not say
		return
	}
	disk, free := int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize
	place := max(0, s.Usage().Total()+free-spare(disk))
	if place >= s.quota {
		return
	}
	s.log.Warn("the disk has less place than the quota says", slog.String("state", s.dir),
		slog.Int64("quota_bytes", s.quota), slog.Int64("bytes", place))
	s.quota = place
}
