//go:build !cgo

package compress

import (
	"io"

	"github.com/klauspost/compress/zstd"
)

// Native reports whether zstd is compressed by libzstd, whose ratio at level
// 19 the Go encoder does not reach.
const Native = false

func newZstdWriter(w io.Writer, level int) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1))
}
