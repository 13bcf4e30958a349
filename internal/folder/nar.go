package folder

import (
	"context"
	"io"
	"math"
	"os"

	"ersatz/internal/compress"
	"ersatz/nar"
)

// HashNar decompresses a file, at most one byte more than narSize, and returns
// the hash and size of the nar in it, and the size of the file.
func HashNar(ctx context.Context, name, method string, narSize uint64) (info nar.Info, size int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return info, 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return info, 0, err
	}
	r, err := compress.NewReader(WithContext(ctx, f), method)
	if err != nil {
		return info, 0, err
	}
	limit := int64(min(narSize, math.MaxInt64-1)) + 1
	h := nar.NewHasher()
	_, err = io.Copy(h, io.LimitReader(r, limit))
	if closeErr := r.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return info, 0, err
	}
	return h.Info(), fi.Size(), nil
}

// Copy writes a file's content to w.
func Copy(ctx context.Context, w io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(w, WithContext(ctx, f), make([]byte, 256<<10))
	return err
}

// WithContext returns a reader of r that ends with ctx's error.
func WithContext(ctx context.Context, r io.Reader) io.Reader { return &contextReader{ctx, r} }

type contextReader struct {
	ctx context.Context // of the one call that reads
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
