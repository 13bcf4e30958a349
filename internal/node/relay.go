package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"ersatz/internal/compress"
	"ersatz/internal/stream"
	"ersatz/internal/upstream"
)

// heldBack is how many bytes of a nar are given only when NarHash was right.
const heldBack = 64 << 10

// Relay is the plainest Transfers: whole nars from upstreams, of which nothing
// is kept, once for each who asks.
type Relay struct {
	Client interface {
		OpenNar(ctx context.Context, o upstream.Offer, of *upstream.Build) (*upstream.Body, error)
	}
}

// Get implements Transfers.
func (r Relay) Get(ctx context.Context, w Want) (Nar, error) {
	b := w.Choice.Builds[0]
	var errs []error
	for _, o := range b.Nars {
		nar, err := r.open(ctx, o, b)
		if err == nil {
			return nar, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", o.URL(), err))
	}
	if len(errs) == 0 {
		return nil, ErrNone
	}
	return nil, errors.Join(errs...)
}

// Ahead implements Transfers: nothing is fetched ahead.
func (Relay) Ahead([]Want) {}

// open returns the nar of an offer when its first bytes are there.
func (r Relay) open(ctx context.Context, o upstream.Offer, b *upstream.Build) (*relayed, error) {
	ctx, cancel := context.WithCancel(ctx)
	body, err := r.Client.OpenNar(ctx, o, b)
	if err != nil {
		cancel()
		return nil, err
	}
	limit := &stream.Limited{R: body, Left: b.CompressedLimit()}
	d, err := compress.NewReader(limit, o.Nar.Compression)
	if err != nil {
		cancel()
		return nil, errors.Join(err, body.Close())
	}
	n := &relayed{decoder: d, body: body, cancel: cancel, sum: sha256.New(), left: int64(b.Signed.NarSize), want: b.Signed.NarHash, url: o.URL()}
	n.ahead = stream.ReadAhead(io.LimitReader(d, n.left))
	first := make([]byte, min(n.left, 512))
	got, err := n.Read(first)
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	n.first = first[:got]
	return n, nil
}

// relayed is a nar that is decompressed and checked as it is read.
type relayed struct {
	decoder io.Closer
	body    io.Closer
	cancel  context.CancelFunc
	ahead   *stream.Ahead
	sum     hash.Hash
	left    int64 // bytes that have not been hashed
	want    [32]byte
	url     string
	first   []byte        // read already
	tail    *bytes.Reader // what was held back, when it was right
}

// Source implements Nar.
func (r *relayed) Source() string { return r.url }

// Close implements Nar.
func (r *relayed) Close() error {
	r.cancel()
	r.ahead.Close()
	return errors.Join(r.decoder.Close(), r.body.Close())
}

// Read implements Nar.
func (r *relayed) Read(p []byte) (int, error) {
	switch {
	case len(r.first) > 0:
		n := copy(p, r.first)
		r.first = r.first[n:]
		return n, nil
	case r.tail != nil:
		return r.tail.Read(p)
	case r.left > heldBack:
		n, err := r.ahead.Read(p[:min(int64(len(p)), r.left-heldBack)])
		r.sum.Write(p[:n])
		r.left -= int64(n)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
	tail := make([]byte, r.left)
	if _, err := io.ReadFull(r.ahead, tail); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	r.sum.Write(tail)
	if got := [32]byte(r.sum.Sum(nil)); got != r.want {
		return 0, fmt.Errorf("%s: NarHash is %x, not %x", r.url, got, r.want)
	}
	r.tail = bytes.NewReader(tail)
	return r.tail.Read(p)
}
