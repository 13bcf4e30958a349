package bench

import (
	"bytes"
	"context"
	"fmt"

	"ersatz/eris"
	"ersatz/internal/bench/xcrypto"
)

// blockRows holds the blocks of a content in which no two are the same, level by level,
// in order. To find those that are asked for costs one look-up a call: a client that gets
// blocks in the order in which it has asked for them has none either.
type blockRows struct {
	rows  [][][]byte // by level
	place map[eris.Ref]rowPlace
	is    []int // 0, 1, 2 and so on, as far as any row
}

// rowPlace is where a block is.
type rowPlace struct{ level, at int }

// put takes the next block of its level.
func (r *blockRows) put(b eris.Block) error {
	for len(r.rows) <= b.Level {
		r.rows = append(r.rows, nil)
	}
	row := append(r.rows[b.Level], bytes.Clone(b.Data))
	r.rows[b.Level] = row
	r.place[b.Ref] = rowPlace{b.Level, len(row) - 1}
	if len(r.is) < len(row) {
		r.is = append(r.is, len(r.is))
	}
	return nil
}

// FetchMany implements eris.ManyFetcher, for references that follow each other in their
// level, as a Reader asks for them.
func (r *blockRows) FetchMany(_ context.Context, _ eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	p, ok := r.place[refs[0]]
	if !ok || len(refs) > len(r.rows[p.level])-p.at {
		return fmt.Errorf("%d blocks from %s on: %w", len(refs), refs[0], eris.ErrNotFound)
	}
	_, err := got(r.is[:len(refs)], r.rows[p.level][p.at:][:len(refs)])
	return err
}

// Fetch implements eris.Fetcher.
func (r *blockRows) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	return r.FetchMany(ctx, size, refs, eris.One(got))
}

// inOrder returns the blocks in the order in which the plain loop asks for them.
func (r *blockRows) inOrder(c eris.ReadCap) (order [][]byte, err error) {
	var n counter
	err = xcrypto.Decode(&n, c, func(ref eris.Ref) ([]byte, error) {
		p, ok := r.place[ref]
		if !ok {
			return nil, fmt.Errorf("%s: %w", ref, eris.ErrNotFound)
		}
		block := r.rows[p.level][p.at]
		order = append(order, block)
		return block, nil
	})
	return order, err
}
