package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"ersatz/internal/compress"
	"ersatz/internal/stream"
	"ersatz/nixbase32"
)

// heldBack is how many bytes of a nar are given only when NarHash was right.
const heldBack = 64 << 10

// wrongError says that a content came and is not the nar that was signed.
type wrongError struct{ error }

func (e *wrongError) Unwrap() error { return e.error }

// isWrong reports whether a content, and not its source, is at fault.
func isWrong(err error) bool {
	var wrong *wrongError
	return errors.As(err, &wrong)
}

// stretch is a nar being decompressed.
type stretch struct {
	file    io.ReadCloser
	faults  *stream.Faults // of the file
	decoder io.ReadCloser
	ahead   *stream.Ahead
	cancel  func() // ends a read of the file
}

// unpack decompresses a file, which it closes in the end.
func unpack(file io.ReadCloser, method string, cancel func()) (*stretch, error) {
	faults := &stream.Faults{R: file}
	d, err := compress.NewReader(faults, method)
	if err != nil {
		cancel()
		return nil, errors.Join(judge(err, faults), file.Close())
	}
	return &stretch{file, faults, d, stream.ReadAhead(d), cancel}, nil
}

// judge tells errors of the file from those of what is in it.
func judge(err error, faults *stream.Faults) error {
	if faults.Err() != nil {
		return faults.Err() // decoders name the symptom only
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &wrongError{fmt.Errorf("not the nar that was signed: %w", err)}
}

func (s *stretch) Read(p []byte) (int, error) { return s.ahead.Read(p) }

// fault returns what an error of Read means.
func (s *stretch) fault(err error) error { return judge(err, s.faults) }

// Close ends reading.
func (s *stretch) Close() error {
	s.cancel()
	s.ahead.Close()
	return errors.Join(s.decoder.Close(), s.file.Close())
}

// sum hashes n bytes of a nar.
func (s *stretch) sum(h hash.Hash, n int64) error {
	if _, err := io.CopyN(h, s, n); err != nil {
		return s.fault(err)
	}
	return nil
}

// end wants the nar to end here, with a hash.
func (s *stretch) end(h hash.Hash, want [32]byte) error {
	if n, err := s.Read(make([]byte, 1)); n > 0 {
		return &wrongError{stream.ErrTooLong}
	} else if !errors.Is(err, io.EOF) {
		return s.fault(err)
	}
	if got := [32]byte(h.Sum(nil)); got != want {
		return &wrongError{fmt.Errorf("NarHash is %s, not the signed %s", nixbase32.Encode(got[:]), nixbase32.Encode(want[:]))}
	}
	return nil
}

// check returns whether a part is right, when all of it is there. It reads the part
// behind who fills it, unless somebody reads it who finds that out anyway.
func (i *item) check(ctx context.Context, t *try) error {
	if i.judged(ctx, t) {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	s, err := unpack(t.part.Reader(ctx), t.method, cancel)
	if err != nil {
		return err
	}
	h := sha256.New()
	err = s.sum(h, int64(i.build.Signed.NarSize))
	if err == nil {
		err = s.end(h, i.build.Signed.NarHash)
	}
	return errors.Join(err, s.Close())
}

const (
	// boarding is how long one who has asked for an item may take to begin to read.
	boarding = 100 * time.Millisecond

	// behind and readerPace are what a reader has for a nar once all of it is there:
	// so long, and as long as it takes at so many bytes per second.
	behind     = time.Second
	readerPace = 32 << 20
)

// judged waits for a reader of the way to find that the nar is right. It does not
// wait for one that is much slower than the check would be, nor for one of a small
// nar; what one finds wrong is to be checked at once, whatever others do.
func (i *item) judged(ctx context.Context, t *try) bool {
	size := i.build.Signed.NarSize
	if size <= small {
		return false
	}
	board := time.NewTimer(boarding)
	defer board.Stop()
	filled, seen := t.filled, false
	var late <-chan time.Time
	for {
		i.mu.Lock()
		readers, right, wrong, asked, changed := t.readers, t.right, t.wrong, i.asked, i.changed
		i.mu.Unlock()
		seen = seen || readers > 0
		switch {
		case wrong:
			return false
		case right:
			return true
		case readers == 0 && (seen || !asked):
			return false
		}
		select {
		case <-changed:
		case <-board.C:
			if !seen {
				return false
			}
		case <-filled:
			filled = nil
			late = time.After(behind + time.Duration(float64(size)/readerPace*float64(time.Second)))
		case <-late:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
