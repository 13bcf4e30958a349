package bundle

import (
	"errors"
	"fmt"
	"io"
	"math"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/internal/stream"
	"ersatz/nar"
	"ersatz/narinfo"
)

// checkSigned refuses what a valid signature can say and no nar can be.
func checkSigned(s narinfo.Signed) error {
	if !s.HasNarSize || s.NarSize == 0 || s.NarSize > math.MaxInt64 {
		return fmt.Errorf("%w: no NarSize, or one that no nar has", narinfo.ErrMalformed)
	}
	return nil
}

// copyNar copies a compressed nar to dst, as it is, and decompresses and hashes
// it on the way. When it returns nil, src has ended and is the nar that was
// signed; else dst has something that is not to be used. The error matches
// eris.ErrCorrupt if src is another content. No more is decompressed than the
// signed size, and not much more than that is read.
func copyNar(dst io.Writer, src io.Reader, method string, s narinfo.Signed) error {
	size := int64(s.NarSize)
	faults := &stream.Faults{R: &stream.Limited{R: src, Left: compress.Bound(size)}}
	sink := &sink{w: dst}
	tee := io.TeeReader(faults, sink)
	wrong := func(err error) error {
		switch {
		case sink.err != nil:
			return sink.err
		case faults.Err() != nil && !errors.Is(faults.Err(), stream.ErrTooLong):
			return faults.Err() // decoders name the symptom only
		case errors.Is(err, io.EOF):
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("%w: not the nar that was signed: %w", eris.ErrCorrupt, err)
	}
	decoder, err := compress.NewReader(tee, method)
	if err != nil {
		return wrong(err)
	}
	ahead := stream.ReadAhead(decoder) // it also keeps panics of decoders in
	h := nar.NewHasher()
	_, err = io.Copy(h, &stream.Limited{R: ahead, Left: size})
	if err := errors.Join(ahead.Close(), decoder.Close()); err != nil {
		return err
	}
	if err == nil {
		_, err = io.Copy(io.Discard, tee) // what decoders need not look at
	}
	if err != nil {
		return wrong(err)
	}
	if got := h.Info(); got.Hash != s.NarHash || uint64(got.Size) != s.NarSize {
		return wrong(fmt.Errorf("NarHash is %s, not %s", narinfo.FormatHash(got.Hash), narinfo.FormatHash(s.NarHash)))
	}
	return nil
}

// sink tells errors of writing from those of reading.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}
