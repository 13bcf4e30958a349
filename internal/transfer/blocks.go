package transfer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"ersatz/eris"
	"ersatz/internal/keep"
)

// inFlight bounds the bytes of blocks that are asked for at once.
const inFlight = 16 << 20

// contentWay returns the way by the blocks of a content, if there is a source,
// and the same way with all networks, if there are some that would not be asked
// though all else has failed.
func (i *item) contentWay(c content) (ways, last []way) {
	if c.readCap == (eris.ReadCap{}) {
		return nil, nil
	}
	s := i.sources(c)
	if !s.any() {
		return nil, nil
	}
	record := recordOf(i.want)
	record.Method, record.Format, record.ReadCap, record.Signed = c.method, c.format, c.readCap, c.signed
	f := &blockFetch{item: i, content: c, record: record}
	w := way{
		source: c.readCap.URN(), method: c.method, id: keep.BlocksID(c.readCap), item: record,
		open: f.open, have: f.have,
	}
	if !c.signed {
		// The right content may be said to be in a wrong form.
		w.id += keep.PartID(" " + c.method)
		w.blame = f.blame
	}
	ways = []way{w}
	if len(s.later) > 0 && !i.opensAll(s) {
		l := &blockFetch{item: i, content: c, record: record, last: true}
		w.open, w.have, w.done = l.open, l.have, func() bool { return f.searched }
		last = []way{w}
	}
	return ways, last
}

// blockFetch fetches a content by its blocks.
type blockFetch struct {
	*item
	content content
	last    bool    // all networks are asked at once
	sources sources // as they were when the way was begun
	record  keep.Item
	nodes   atomic.Int64 // that were there or have come

	searched bool // all networks were asked
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

// opensAll reports whether all networks are asked before the way is given up:
// there is no other that is likelier to lead to the item.
func (i *item) opensAll(s sources) bool { return s.alone || i.t.o.Policy != Mixed }

// open takes up the part.
func (f *blockFetch) open(context.Context, bool) (*keep.Part, fillFunc, error) {
	f.sources = f.item.sources(f.content) // by now, others may have failed
	if f.last {
		f.sources.now, f.sources.later = append(f.sources.now, f.sources.later...), nil
	}
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
		MaxLength: part.Limit(), Batch: 256, Parallel: 4,
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
