package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"ersatz/eris"
	"ersatz/internal/fetch"
	"ersatz/internal/keep"
	"ersatz/internal/metrics"
	"ersatz/internal/upstream"
)

const (
	// perBlock is how many bytes of a nar count as a block where its server is
	// learnt of.
	perBlock = int64(eris.Size32KiB)

	// soon is how long a server may take that can be put off.
	soon = time.Second

	// paceFrom is from how many bytes on the pace of a nar is learnt.
	paceFrom = 256 << 10
)

// narWay returns the way by a whole nar.
func (i *item) narWay(o upstream.Offer) way {
	record := recordOf(i.want)
	record.Method = o.Nar.Compression
	if c := i.build.Content; c.URN != "" && c.Method == record.Method {
		// If that is what it encodes to, as it should, the signature holds for it.
		record.ReadCap, record.Format, record.Signed = c.ReadCap, i.build.Signed.ERISFormat, true
	}
	n := &narFetch{item: i, offer: o, record: record}
	return way{
		source: o.URL(), method: record.Method, id: keep.PartID(o.URL()), item: record, server: o.Server,
		open: n.open, have: func() int64 { return n.size }, pieced: func() bool { return n.pieced }, blame: n.blame,
	}
}

// narFetch fetches one whole nar.
type narFetch struct {
	*item
	offer  upstream.Offer
	record keep.Item
	body   *upstream.Body // from where the part ends
	since  time.Time      // when it was asked for
	about  keep.About
	size   int64 // bytes that the part had last
	pieced bool  // what the part has is of several connections

	patience time.Duration // until the server has to answer; 0: as long as it may take
}

// blame has a server remembered that gave another nar: one that anybody can be
// is not asked again for anything, one that was chosen is asked after others for a
// while.
func (n *narFetch) blame(err error) {
	sv := n.offer.Server
	what := fmt.Sprintf("gave a wrong nar of %s: %v", n.want.Path, err)
	if !sv.IsPeer() {
		n.t.book.Note(fetch.Stat{Name: narName(sv), Err: errors.New(what)})
		return
	}
	n.t.book.Lied(sv.String(), what)
	for _, o := range n.build.Nars {
		if o.Server == sv {
			n.bad[keep.PartID(o.URL())] = true
		}
	}
}

// open asks for the nar. What is left of the very file that the server has is
// gone on with.
func (n *narFetch) open(ctx context.Context, hurried bool) (*keep.Part, fillFunc, error) {
	n.patience = 0
	if hurried {
		n.patience = max(soon, 4*n.t.book.Prior(narName(n.offer.Server)).Latency)
	}
	part, err := n.openLeft(ctx)
	if err != nil {
		return nil, nil, err
	}
	n.pieced = part != nil && part.Size() > 0
	if part == nil {
		if part, err = n.openNew(ctx); err != nil {
			n.note(fetch.Learnt{}, 0, err)
			return nil, nil, err
		}
	}
	return part, n.fill, nil
}

// openLeft goes on with what a transfer has left, if there is such a part and
// the server still has that file. The part is nil otherwise.
func (n *narFetch) openLeft(ctx context.Context) (*keep.Part, error) {
	for _, a := range n.t.store.Left(n.record.NarHash) {
		if a.ETag == "" || a.FileSize == 0 || a.Item.Server != n.offer.Server.URL() || a.Item.Method != n.record.Method {
			continue // another file, or it cannot be told from others
		}
		part, err := n.t.store.Part(keep.NarID(a), a)
		if errors.Is(err, keep.ErrBusy) {
			continue
		}
		if err != nil {
			return nil, &localError{err}
		}
		n.about = a
		if err = n.seek(ctx, part); err == nil {
			return part, nil
		}
		err = errors.Join(err, part.Close())
		if !errors.Is(err, upstream.ErrChanged) {
			n.note(fetch.Learnt{}, 0, err)
			return nil, err
		}
	}
	return nil, nil
}

// seek opens the nar where the part ends.
func (n *narFetch) seek(ctx context.Context, part *keep.Part) (err error) {
	if part.Size() == n.about.FileSize {
		n.body = &upstream.Body{ReadCloser: io.NopCloser(eof{})}
		return nil
	}
	n.body, err = n.inTime(ctx, func(ctx context.Context) (*upstream.Body, error) {
		return n.t.client.OpenRange(ctx, n.offer.Server, n.offer.Nar.URL,
			upstream.Range{Offset: part.Size(), Total: n.about.FileSize, ETag: n.about.ETag})
	})
	return err
}

// lateError says that an answer took longer than there was patience.
type lateError struct{ after time.Duration }

func (e *lateError) Error() string { return fmt.Sprintf("no answer within %v", e.after) }

// Timeout makes it an error of which upstream.Waited is true.
func (e *lateError) Timeout() bool { return true }

// inTime opens what has to be opened before the patience ends.
func (n *narFetch) inTime(ctx context.Context, open func(context.Context) (*upstream.Body, error)) (*upstream.Body, error) {
	n.since = time.Now()
	if n.patience == 0 {
		return open(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(n.patience, cancel)
	body, err := open(ctx)
	if !late.Stop() {
		if err == nil {
			body.Close() // there is an error already
		}
		return nil, &lateError{n.patience}
	}
	if err != nil {
		cancel()
		return nil, err
	}
	body.ReadCloser = &withCancel{body.ReadCloser, cancel}
	return body, nil
}

// withCancel frees a context when a body is closed.
type withCancel struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *withCancel) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}

// eof is nothing.
type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// openNew opens the nar at its beginning.
func (n *narFetch) openNew(ctx context.Context) (*keep.Part, error) {
	body, err := n.inTime(ctx, func(ctx context.Context) (*upstream.Body, error) {
		return n.t.client.OpenNar(ctx, n.offer, n.build)
	})
	if err != nil {
		return nil, err
	}
	if limit := n.build.CompressedLimit(); body.Size > limit {
		return nil, errors.Join(fmt.Errorf("%d bytes are too many for a nar of %d", body.Size, n.record.NarSize), body.Close())
	}
	n.about = keep.About{Item: n.record, ETag: body.ETag, FileSize: max(body.Size, 0)}
	n.about.Item.Server = n.offer.Server.URL()
	n.body = body
	part, err := n.t.store.Part(keep.NarID(n.about), n.about)
	if err == nil && part.Size() > 0 {
		err = part.Reset() // it cannot be told to be of the same file
		if err != nil {
			err = errors.Join(err, part.Close())
		}
	}
	if err != nil {
		return nil, errors.Join(&localError{err}, body.Close())
	}
	return part, nil
}

// fill reads the nar. Where it breaks off, it is gone on with as long as that
// brings more.
func (n *narFetch) fill(ctx context.Context, part *keep.Part) (keep.Tree, error) {
	defer func() { n.size = part.Size() }()
	for {
		before := part.Size()
		learnt, err := n.read(ctx, part)
		n.note(learnt, part.Size()-before, err)
		if err == nil {
			part.Finish(part.Size())
			return nil, nil
		}
		if !upstream.BrokeOff(err) || part.Size() == before || n.about.ETag == "" || n.about.FileSize == 0 || ctx.Err() != nil {
			return nil, err
		}
		if serr := n.seek(ctx, part); serr != nil {
			return nil, errors.Join(err, serr)
		}
		n.pieced = true
	}
}

// read adds what comes of the body to the part.
func (n *narFetch) read(ctx context.Context, part *keep.Part) (l fetch.Learnt, err error) {
	body := n.body // who goes on has another
	defer body.Close()
	defer context.AfterFunc(ctx, func() { body.Close() })()
	from := part.Size()
	buf := make([]byte, 64<<10)
	for {
		k, err := body.Read(buf)
		if k > 0 && l.Latency == 0 {
			l.Latency = max(time.Since(n.since), 1)
		}
		if _, werr := part.Append(buf[:k]); errors.Is(werr, eris.ErrTooLong) {
			return l, &wrongError{werr}
		} else if werr != nil {
			return l, &localError{werr}
		}
		n.t.o.Count.Got(metrics.Nar, int64(k))
		if err == nil {
			continue
		}
		if got := part.Size() - from; got >= paceFrom {
			l.Pace = max((time.Since(n.since)-l.Latency)*time.Duration(perBlock)/time.Duration(got), 1)
		}
		if ctx.Err() != nil {
			return l, context.Cause(ctx)
		}
		if errors.Is(err, io.EOF) {
			err = nil
			if want := n.about.FileSize; want > 0 && part.Size() != want {
				err = fmt.Errorf("%d bytes came, not %d: %w", part.Size(), want, io.ErrUnexpectedEOF)
			}
		}
		return l, err
	}
}

// note has the Book learn of the server.
func (n *narFetch) note(l fetch.Learnt, bytes int64, err error) {
	var local *localError
	if errors.As(err, &local) || errors.Is(err, context.Canceled) || errors.Is(err, fs.ErrNotExist) || isWrong(err) {
		err = nil
	}
	n.t.book.Note(fetch.Stat{Name: narName(n.offer.Server), Blocks: (bytes + perBlock - 1) / perBlock, Bytes: bytes, Learnt: l, Err: err})
}
