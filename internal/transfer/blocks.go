package transfer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"ersatz/eris"
	"ersatz/internal/fetch"
	"ersatz/internal/keep"
	"ersatz/internal/metrics"
)

const (
	// ipfsFrom is the NarSize in bytes above which an IPFS daemon is asked
	// though others have the item.
	ipfsFrom = 4 << 20

	// inFlight bounds the bytes of blocks that are asked for at once.
	inFlight = 16 << 20
)

// contentWay returns the way by the blocks of a content, if there is a source.
func (i *item) contentWay(c content) []way {
	if c.readCap == (eris.ReadCap{}) {
		return nil
	}
	s := i.sources(c)
	if len(s.all) == 0 {
		return nil
	}
	record := recordOf(i.want)
	record.Method, record.Format, record.ReadCap, record.Signed = c.method, c.format, c.readCap, c.signed
	f := &blockFetch{item: i, content: c, sources: s, record: record}
	w := way{
		source: c.readCap.URN(), method: c.method, id: keep.BlocksID(c.readCap), item: record,
		open: f.open, have: f.have,
	}
	if !c.signed {
		// The right content may be said to be in a wrong form.
		w.id += keep.PartID(" " + c.method)
		w.blame = f.blame
	}
	return []way{w}
}

// blockFetch fetches a content by its blocks.
type blockFetch struct {
	*item
	content content
	sources sources
	record  keep.Item
	nodes   atomic.Int64 // that were there or have come
}

func (f *blockFetch) have() int64 { return f.nodes.Load() * int64(f.content.readCap.Size) }

// blame has those remembered who said that they have the nar by blocks that are
// another. Who has a part only may have been told so himself.
func (f *blockFetch) blame(err error) {
	for _, c := range f.content.claims {
		if !c.Held.Part {
			f.t.book.Lied(c.Peer.Name(), fmt.Sprintf("gave the wrong URN for the nar of %s", f.want.Path))
			f.log.Warn("peer lied about a nar", slog.String("peer", c.Peer.Name()), slog.String("urn", f.content.readCap.URN()), slog.Any("error", err))
		}
	}
}

// open takes up the part.
func (f *blockFetch) open(context.Context) (*keep.Part, fillFunc, error) {
	about := keep.About{Item: f.record}
	if f.content.signed {
		about.FileSize = max(f.build.Content.Size, 0)
	}
	part, err := f.t.store.Part(keep.BlocksID(f.content.readCap), about)
	switch {
	case errors.Is(err, keep.ErrBusy):
		return nil, nil, err // another item has the same content
	case err != nil:
		return nil, nil, &localError{err}
	}
	return part, f.fill, nil
}

// fill fetches what is not there, from the mix of sources, and then, if that
// does not have all, from nars.
func (f *blockFetch) fill(ctx context.Context, part *keep.Part) (keep.Tree, error) {
	filler := eris.NewFiller(f.content.readCap, nodes{part, &f.nodes}, eris.FillOptions{
		MaxLength: f.build.CompressedLimit(), Batch: 256, Parallel: 4,
	})
	length, err := f.mixed(ctx, filler)
	if err == nil {
		part.Finish(length)
		return filler.Tree, nil
	}
	if broken := filler.Err(); broken != nil {
		return nil, &wrongError{broken}
	}
	var local *localError
	if ctx.Err() != nil || errors.As(err, &local) || !f.content.signed || f.t.o.Policy != Mixed {
		return nil, err
	}
	tree, cerr := f.complete(ctx, filler, part)
	switch broken := filler.Err(); {
	case cerr == nil:
		return tree, nil
	case broken != nil:
		return nil, &wrongError{broken}
	}
	return nil, errors.Join(err, cerr)
}

// mixed fetches from the mix of sources.
func (f *blockFetch) mixed(ctx context.Context, filler *eris.Filler) (int64, error) {
	var list []fetch.Source
	for _, s := range f.sources.all {
		list = append(list, s.forMix(filler))
	}
	mix := fetch.New(list, fetch.Options{Stall: f.t.o.Stall, InFlight: inFlight, Log: f.log})
	defer f.learn(ctx, mix, filler)
	watching, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.watch(watching, mix, filler)
	}()
	defer func() {
		stop()
		<-done
	}()
	return filler.Run(ctx, mix)
}

// learn takes what the sources of a mix have done. Who was cut off, or whose
// blocks this machine could not store, or whose tree is broken, is not at fault.
func (f *blockFetch) learn(ctx context.Context, mix *fetch.Mix, filler *eris.Filler) {
	for k, s := range mix.Stats() {
		if s.Blocks > 0 || s.Err != nil {
			f.log.InfoContext(ctx, "source of blocks", slog.String("source", s.Name), slog.Int64("blocks", s.Blocks),
				slog.Int64("bytes", s.Bytes), slog.Any("error", s.Err))
		}
		f.t.o.Count.Got(f.sources.all[k].kind, s.Bytes)
		var local *localError
		if !errors.Is(s.Err, eris.ErrCorrupt) && (ctx.Err() != nil || filler.Err() != nil) || errors.As(s.Err, &local) {
			s.Err = nil
		}
		f.t.book.Note(s)
	}
}

// nodes are those of a part, counted.
type nodes struct {
	*keep.Part
	count *atomic.Int64
}

func (n nodes) Load(level int, index int64, buf []byte) (bool, error) {
	ok, err := n.Part.Load(level, index, buf)
	return ok, atHome(err)
}

func (n nodes) Store(level int, index int64, node []byte) error {
	return atHome(n.Part.Store(level, index, node))
}

func (n nodes) Done(level int, index int64, ref eris.Ref, key eris.Key) {
	n.count.Add(1)
	n.Part.Done(level, index, ref, key)
}

// atHome marks an error as one of this machine.
func atHome(err error) error {
	if err == nil {
		return nil
	}
	return &localError{err}
}

// source is one of the sources of a content.
type source struct {
	fetch.Source
	kind metrics.Source
	held *holding // of a peer
}
