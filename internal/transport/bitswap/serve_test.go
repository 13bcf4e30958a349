package bitswap

import (
	"context"
	"testing"

	"ersatz/eris"
)

// cheap is a library that makes no block for who only wants to know.
type cheap struct {
	t    *testing.T
	have eris.Ref
}

func (c cheap) Get(context.Context, eris.Ref) ([]byte, error) {
	c.t.Error("a block was made")
	return nil, nil
}

func (c cheap) Has(_ context.Context, ref eris.Ref) (bool, error) { return ref == c.have, nil }

// Who asks what there is does not have blocks made.
func TestHasIsCheap(t *testing.T) {
	s := store{cheap{t, eris.Ref{1}}}
	for _, c := range []struct {
		ref  eris.Ref
		want bool
	}{{eris.Ref{1}, true}, {eris.Ref{2}, false}} {
		if has, err := s.Has(t.Context(), toCID(c.ref)); has != c.want || err != nil {
			t.Errorf("%v, %v", has, err)
		}
	}
	if has, err := (store{nothing{}}).Has(t.Context(), toCID(eris.Ref{1})); has || err != nil {
		t.Errorf("of a library that must look: %v, %v", has, err)
	}
}
