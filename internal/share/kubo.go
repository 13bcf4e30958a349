package share

import (
	"context"
	"errors"
	"iter"

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
	refs, failed := names(ctx, c)
	manifest, err = k.c.Put(ctx, s.ReadCap.Root, refs, func(emit func(eris.Ref, []byte) error) error {
		for place := range c.Len() {
			ref, b, err := c.Block(ctx, place)
			if err != nil {
				return err
			}
			if err := emit(ref, b); err != nil {
				return err
			}
		}
		return nil
	})
	return manifest, errors.Join(failed(), err)
}

// names returns the references of all blocks in the order of the tree, and what
// says why they have ended early.
func names(ctx context.Context, c block.Content) (refs iter.Seq[eris.Ref], failed func() error) {
	if l, ok := c.(listed); ok {
		return l.Refs(), l.Err
	}
	var fault error
	return func(yield func(eris.Ref) bool) {
		for place := range c.Len() {
			ref, _, err := c.Block(ctx, place)
			if err != nil {
				fault = err
				return
			}
			if !yield(ref) {
				return
			}
		}
	}, func() error { return fault }
}

// Withdraw implements Network.
func (k kubo) Withdraw(ctx context.Context, _ block.Shared, manifest string) error {
	if manifest == "" {
		return nil // nothing was put
	}
	return k.c.RemoveAll(ctx, manifest)
}
