package narindex

import (
	"context"
	"errors"
	"io/fs"

	"ersatz/eris"
)

// OpenRoot opens an item by the reference of its root, if allow says it, as for
// Reader. The error matches eris.ErrNotFound if there is none whose tree file and
// nar are there.
func (x *Index) OpenRoot(ctx context.Context, root eris.Ref, allow func(hash string) bool) (*Content, error) {
	r := x.Reader(allow)
	defer r.Close()
	err := r.try(ctx, root, func(candidate) bool {
		return r.cur.cap.Root == root && r.cur.nar != nil // else it is for fsck to say
	})
	if err != nil {
		return nil, err
	}
	found := &Content{c: r.cur, pool: &x.groups}
	r.cur = nil // the caller's
	return found, nil
}

// Shape returns the read capability and the length of an item's content, in
// bytes. The error matches ErrNoItem if the item or its tree file is gone, or
// eris.ErrCorrupt.
func (x *Index) Shape(i Item) (eris.ReadCap, int64, error) {
	t, err := openTree(x.treePath(i.Base))
	if errors.Is(err, fs.ErrNotExist) {
		return eris.ReadCap{}, 0, errors.Join(ErrNoItem, err)
	}
	if err != nil {
		return eris.ReadCap{}, 0, err
	}
	return t.cap, t.length, t.close()
}
