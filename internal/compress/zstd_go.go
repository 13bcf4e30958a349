//go:build !(cgo && linux)

package compress

import (
	"io"

	"github.com/klauspost/compress/zstd"
)

// Native reports whether zstd is compressed by libzstd, whose ratio at level
// 19 the Go encoder does not reach.
const Native = false

// newZstdWriter takes no notice of the Options.
func newZstdWriter(w io.Writer, level int, _ Options) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1))
}

// Spare has nothing: the encoder's memory is Go's.
type Spare struct{}

// Free does nothing.
func (*Spare) Free() {}

func zstdThreads(int, int64) int { return 1 }
