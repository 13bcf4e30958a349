package narindex

import (
	"context"
	"fmt"
	"iter"
)

// pageItems is how many items Items reads at once: 60 KiB of memory.
const pageItems = 256

// Items returns all items, in the order of their hash parts, by pages, so that
// nothing is held up meanwhile: what comes or goes while they are visited is
// among them or not. The last pair has an error if they cannot be read.
func (x *Index) Items(ctx context.Context) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		page := make([]Item, 0, pageItems)
		for after := ""; ; after = page[len(page)-1].Hash {
			var err error
			if page, err = x.page(ctx, page[:0], after); err != nil {
				yield(Item{}, fmt.Errorf("index of blocks: %w", err))
				return
			}
			for _, i := range page {
				if !yield(i, nil) {
					return
				}
			}
			if len(page) < pageItems {
				return
			}
		}
	}
}

// pageQuery reads the rows of a page and no others.
const pageQuery = `SELECT ` + itemColumns + ` FROM items WHERE hash > ? ORDER BY hash LIMIT ?`

// page appends the items that come after a hash part.
func (x *Index) page(ctx context.Context, page []Item, after string) ([]Item, error) {
	rows, err := x.db.QueryContext(ctx, pageQuery, after, pageItems)
	if err != nil {
		return page, err
	}
	defer rows.Close() // they were only read
	for rows.Next() {
		var i Item
		if err := rows.Scan(i.fields()...); err != nil {
			return page, err
		}
		page = append(page, i)
	}
	return page, rows.Err()
}
