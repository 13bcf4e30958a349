package narindex

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"ersatz/eris"
)

// Blocks that items share have a row for each. maxCandidates are looked up at
// once, and maxLookups times at most, so that many which may not be read hide
// none that may.
const (
	maxCandidates = 64
	maxLookups    = 64
)

// key is what a row holds of a reference.
func key(ref []byte) int64 { return int64(binary.BigEndian.Uint64(ref)) }

// Get returns the block named ref; the caller owns the slice. The error
// matches eris.ErrNotFound if no item has it, or has it no longer as it was.
func (x *Index) Get(ctx context.Context, ref eris.Ref) ([]byte, error) {
	r := x.Reader(nil)
	defer r.Close()
	return r.Get(ctx, ref)
}

// Reader makes blocks one after another, and keeps the item of the last one
// open: references in the order of a tree cost one look-up per run. It is not
// safe for concurrent use.
type Reader struct {
	x     *Index
	allow func(hash string) bool
	cur   *content
	id    int64 // of the item that is open
	next  int64 // number of the node after the last one
	buf   []byte
	group *group // nil before the first batch
	fault error  // why an item was not opened, if that does not say that it is not there
}

// Reader returns a Reader of the items that allow says, by the hash part of
// their store path; nil means all. allow is asked each time that the blocks of
// another item are to be read. Close the Reader.
func (x *Index) Reader(allow func(hash string) bool) *Reader { return &Reader{x: x, allow: allow} }

// Fail is for allow, where that cannot say: err is the error of what is being read,
// unless another item has the block.
func (r *Reader) Fail(err error) { r.fault = err }

// Close closes the files that are open. The Reader can be used again.
func (r *Reader) Close() {
	r.leave()
	if r.group != nil {
		r.x.groups.Put(r.group)
		r.group = nil
	}
}

// leave closes the item that is open.
func (r *Reader) leave() {
	if r.cur != nil {
		r.cur.close() // it was only read
		r.cur = nil
	}
}

// Get returns the block named ref, which is valid until the next call. The
// error matches eris.ErrNotFound.
func (r *Reader) Get(ctx context.Context, ref eris.Ref) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if r.cur != nil {
		if node, ok := r.cur.ahead(ref, r.next); ok {
			if b, err := r.block(node, ref); err == nil {
				return b, nil
			}
		}
	}
	var found []byte
	// What is wrong with a candidate is for fsck to say: the next may be good.
	err := r.try(ctx, ref, func(c candidate) bool {
		b, err := r.block(c.node, ref)
		found = b
		return err == nil
	})
	return found, err
}

// Has reports whether there is a block of that name, by what the trees of items
// say: none is made, so that Get may still find that one is spoiled.
func (r *Reader) Has(ctx context.Context, ref eris.Ref) (bool, error) {
	_, err := r.find(ctx, ref)
	if errors.Is(err, eris.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// find makes an item the current one whose tree has a block of that name, and
// returns the number of its node. The error matches eris.ErrNotFound if there is
// none.
func (r *Reader) find(ctx context.Context, ref eris.Ref) (node int64, err error) {
	err = r.try(ctx, ref, func(c candidate) bool {
		got, _, err := r.cur.pair(c.node)
		node = c.node
		return err == nil && got == ref
	})
	return node, err
}

// candidate is a row whose reference begins like the one that is wanted.
type candidate struct {
	node, id        int64
	hash, base, nar string
}

// try makes the item of each candidate for a reference the current one, if it may
// be read and can be, and calls good, until that says true. Else the error matches
// eris.ErrNotFound, unless one could not be opened though it may be there.
func (r *Reader) try(ctx context.Context, ref eris.Ref, good func(candidate) bool) error {
	var last candidate
	r.fault = nil
	for range maxLookups {
		rows, err := r.candidates(ctx, ref, last)
		if err != nil {
			return err
		}
		for _, c := range rows {
			if r.open(c) && good(c) {
				return nil
			}
		}
		if len(rows) < maxCandidates {
			break
		}
		last = rows[len(rows)-1]
	}
	if r.fault != nil {
		return fmt.Errorf("index of blocks: %w", r.fault)
	}
	return &eris.MissingError{Ref: ref}
}

// candidates returns those that come after one, in the order of items.
func (r *Reader) candidates(ctx context.Context, ref eris.Ref, after candidate) ([]candidate, error) {
	rows, err := r.x.stmts.lookup.QueryContext(ctx, key(ref[:]), after.id, after.node)
	if err != nil {
		return nil, fmt.Errorf("index of blocks: %w", err)
	}
	defer rows.Close()
	var found []candidate
	for rows.Next() {
		var c candidate
		if err := rows.Scan(&c.node, &c.id, &c.hash, &c.base, &c.nar); err != nil {
			return nil, fmt.Errorf("index of blocks: %w", err)
		}
		found = append(found, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("index of blocks: %w", err)
	}
	return found, nil
}

// open makes a candidate's item the current one, if it may be read and can be.
func (r *Reader) open(c candidate) bool {
	if r.cur != nil && r.id == c.id {
		return true
	}
	if r.allow != nil && !r.allow(c.hash) {
		return false
	}
	r.leave()
	cur, err := r.x.open(c.base, c.nar)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, eris.ErrCorrupt) {
			r.fault = err
		}
		return false
	}
	r.cur, r.id = cur, c.id
	return true
}

// block makes a block of the current item.
func (r *Reader) block(node int64, ref eris.Ref) ([]byte, error) {
	if size := int(r.cur.cap.Size); len(r.buf) != size {
		r.buf = make([]byte, size)
	}
	got, err := r.cur.block(r.buf, node)
	if err != nil {
		return nil, err
	}
	if got != ref {
		return nil, &eris.MissingError{Ref: ref} // another one with the same 8 bytes
	}
	r.next = node + 1
	return r.buf, nil
}
