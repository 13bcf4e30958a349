package block

import (
	"context"

	"ersatz/eris"
)

// Verify returns a Getter that gives what g gives if it is the block asked
// for, else a *CorruptError with the source's name.
func Verify(g Getter, name string) Getter { return &verified{g, name} }

type verified struct {
	g    Getter
	name string
}

func (v *verified) Get(ctx context.Context, ref eris.Ref) ([]byte, error) {
	b, err := v.g.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if !eris.BlockSize(len(b)).Valid() || eris.BlockRef(b) != ref {
		return nil, &CorruptError{Ref: ref, Source: v.name}
	}
	return b, nil
}
