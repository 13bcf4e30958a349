package share

import (
	"context"
	"errors"
	"iter"
	"slices"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/transport/ipfs"
)

// Kubo returns the Network of an IPFS daemon, which keeps what it is given: each
// content under one pin, whose CID is the note.
func Kubo(c *ipfs.Client) Network { return kubo{c} }

type kubo struct{ c *ipfs.Client }

// listed is a content that names its blocks without making them.
type listed interface {
	Refs() iter.Seq[eris.Ref]
	Err() error // what ended Refs
}

// Offer implements Network.
func (k kubo) Offer(ctx context.Context, s block.Shared, open func(context.Context) (block.Content, error)) (manifest string, err error) {
	c, err := open(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	refs, err := names(ctx, c)
	if err != nil {
		return "", err
	}
	return k.c.Put(ctx, s.ReadCap.Root, refs, func(emit func(eris.Ref, []byte) error) error {
		for place := range c.Len() {
			ref, b, err := c.Block(ctx, place)
			if err != nil {
				return err
			}
			if err := emit(ref, b); err != nil {
				return err
			}
		}
		if l, ok := c.(listed); ok {
			return l.Err() // of the manifest: half of the references make one, too
		}
		return nil
	})
}

// names returns the references of all blocks in the order of the tree. A content
// that does not know them makes all its blocks for that.
func names(ctx context.Context, c block.Content) (iter.Seq[eris.Ref], error) {
	if l, ok := c.(listed); ok {
		for range l.Refs() { // so that what cannot be read is known before anything is sent
		}
		return l.Refs(), l.Err()
	}
	refs := make([]eris.Ref, c.Len())
	for place := range refs {
		ref, _, err := c.Block(ctx, int64(place))
		if err != nil {
			return nil, err
		}
		refs[place] = ref
	}
	return slices.Values(refs), nil
}

// Withdraw implements Network.
func (k kubo) Withdraw(ctx context.Context, _ block.Shared, manifest string) error {
	if manifest == "" {
		return nil // nothing was put
	}
	return k.c.RemoveAll(ctx, manifest)
}
