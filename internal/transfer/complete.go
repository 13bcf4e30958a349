package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"golang.org/x/sync/errgroup"

	"ersatz/eris"
	"ersatz/internal/keep"
	"ersatz/internal/metrics"
	"ersatz/internal/upstream"
)

// rangesAtOnce is how many ranges of a nar are asked for at once.
const rangesAtOnce = 4

// complete fetches the leaves that are missing as ranges of the nar that the
// signed URN names, from a server whose narinfo has signed that URN. It returns
// the tree, nil if the internal nodes are not all there: then the content is to
// be encoded, and NarHash says whether it is right.
func (f *blockFetch) complete(ctx context.Context, filler *eris.Filler, part *keep.Part) (keep.Tree, error) {
	// What lies on disk is not asked for.
	if tree, err := f.whole(ctx, filler, part, -1); err == nil || !errors.Is(err, eris.ErrNotFound) {
		return tree, err
	}
	var errs []error
	for _, o := range f.build.Nars {
		if o.Nar.Compression != f.content.method || o.Nar.FileSize == 0 || !slices.Contains(f.content.servers, o.Server) || f.waited[o.Server] {
			continue
		}
		err := f.completeFrom(ctx, filler, o)
		if err == nil {
			return f.whole(ctx, filler, part, int64(o.Nar.FileSize))
		}
		var local *localError
		if ctx.Err() != nil || filler.Err() != nil || errors.As(err, &local) {
			return nil, err
		}
		errs = append(errs, fmt.Errorf("%s: %w", o.URL(), err))
		if upstream.Waited(err) {
			f.waited[o.Server] = true
		}
	}
	if len(errs) == 0 {
		return nil, errors.New("no server whose signed narinfo names these blocks has the nar in this form")
	}
	return nil, errors.Join(errs...)
}

// completeFrom fetches what is missing from one nar.
func (f *blockFetch) completeFrom(ctx context.Context, filler *eris.Filler, o upstream.Offer) error {
	r := ranges{f: f, filler: filler, offer: o, size: int64(o.Nar.FileSize)}
	if limit := f.build.CompressedLimit(); r.size > limit {
		return fmt.Errorf("%d bytes are too many for a nar of %d", r.size, f.record.NarSize)
	}
	block := int64(f.content.readCap.Size)
	leaves := r.size/block + 1 // the last has padding at least
	var missing []eris.Span
	for _, span := range filler.Missing() {
		if span.End < 0 || span.End > leaves {
			span.End = leaves
		}
		if span.First < span.End {
			missing = append(missing, span)
		}
	}
	f.log.InfoContext(ctx, "blocks are completed from a nar", slog.String("source", o.URL()), slog.Int("gaps", len(missing)))
	if len(missing) == 0 {
		return nil
	}
	etag := "" // all others have to be of the file that the first is of
	if err := r.fetch(ctx, missing[0], &etag); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(rangesAtOnce)
	for _, span := range missing[1:] {
		group.Go(func() error {
			etag := etag
			return r.fetch(ctx, span, &etag)
		})
	}
	return group.Wait()
}

// ranges are those of one nar.
type ranges struct {
	f      *blockFetch
	filler *eris.Filler
	offer  upstream.Offer
	size   int64 // of the file
}

// fetch gets a run of leaves that are not there, of the file with an ETag. If
// that is "", it becomes the one that the file has.
func (r *ranges) fetch(ctx context.Context, span eris.Span, etag *string) error {
	block := int64(r.f.content.readCap.Size)
	for next := span.First; next < span.End; {
		if next*block == r.size {
			return r.put(next, nil) // padding alone
		}
		before := next
		err := r.from(ctx, &next, min(span.End*block, r.size), etag)
		if err != nil && (next == before || !upstream.BrokeOff(err) || ctx.Err() != nil) {
			return err
		}
	}
	return nil
}

// from gets leaves from next on, up to the byte end, and moves next on.
func (r *ranges) from(ctx context.Context, next *int64, end int64, etag *string) error {
	block := int64(r.f.content.readCap.Size)
	off := *next * block
	body, err := r.f.t.client.OpenRange(ctx, r.offer.Server, r.offer.Nar.URL,
		upstream.Range{Offset: off, Length: end - off, Total: r.size, ETag: *etag})
	if err != nil {
		return err
	}
	if *etag == "" {
		*etag = body.ETag
	}
	defer body.Close()
	defer context.AfterFunc(ctx, func() { body.Close() })()
	buf := make([]byte, block)
	for ; off < end; off += block {
		leaf := buf[:min(block, end-off)]
		if _, err := io.ReadFull(body, leaf); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if err := r.put(*next, leaf); err != nil {
			return err
		}
		*next++
	}
	return nil
}

// put stores a leaf.
func (r *ranges) put(index int64, content []byte) error {
	node := content
	if size := int(r.f.content.readCap.Size); len(content) < size {
		node = make([]byte, size)
		eris.Leaf(node, content)
	}
	err := r.filler.PutLeaf(index, node)
	switch {
	case errors.Is(err, eris.ErrCorrupt):
		return fmt.Errorf("it is not what the signed URN names: %w", err)
	case err != nil:
		return err
	}
	r.f.t.o.Count.Got(metrics.Nar, int64(len(content)))
	return nil
}

// whole ends a content with what is there. If all leaves are known to be, of a
// content of size bytes, the tree may be nil; with -1 that is an error that
// matches eris.ErrNotFound.
func (f *blockFetch) whole(ctx context.Context, filler *eris.Filler, part *keep.Part, size int64) (keep.Tree, error) {
	length, err := filler.Run(ctx, none{})
	switch {
	case err == nil:
		part.Finish(length)
		return filler.Tree, nil
	case size < 0 || !errors.Is(err, eris.ErrNotFound):
		return nil, err
	}
	part.Finish(size)
	return nil, nil
}

// none has no blocks.
type none struct{}

func (none) Fetch(context.Context, eris.BlockSize, []eris.Ref, func(int, []byte) error) error {
	return nil
}
