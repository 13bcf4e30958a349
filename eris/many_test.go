package eris_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"ersatz/eris"
)

// gives hands over blocks of which the first byte says which it is.
type gives struct{}

func (g gives) Fetch(_ context.Context, _ eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	for i := range refs {
		if err := got(i, []byte{byte(i)}); err != nil {
			return err
		}
	}
	return nil
}

// givesMany does so by two.
type givesMany struct{ gives }

func (g givesMany) FetchMany(_ context.Context, _ eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	for i := 0; i < len(refs); i += 2 {
		if _, err := got([]int{i, i + 1}, [][]byte{{byte(i)}, {byte(i + 1)}}); err != nil {
			return err
		}
	}
	return nil
}

// FetchMany takes what the source has at hand, and ends with got's error.
func TestFetchMany(t *testing.T) {
	stop := errors.New("stop")
	for _, c := range []struct {
		f    eris.Fetcher
		want string
	}{
		{gives{}, "[[0] [1] [2] [3]]"},
		{givesMany{}, "[[0 1] [2 3]]"},
	} {
		var calls [][]int
		err := eris.FetchMany(t.Context(), c.f, eris.Size1KiB, make([]eris.Ref, 6), func(is []int, blocks [][]byte) (int, error) {
			for k, i := range is {
				if blocks[k][0] != byte(i) {
					t.Errorf("%T gives block %d for %d", c.f, blocks[k][0], i)
				}
				if i == 4 {
					return k, stop
				}
			}
			calls = append(calls, slices.Clone(is))
			return len(is), nil
		})
		if !errors.Is(err, stop) || fmt.Sprint(calls) != c.want {
			t.Errorf("%T: %v, %v", c.f, calls, err)
		}
	}
}

// To hand over blocks one by one allocates nothing for each.
func TestFetchManyAllocs(t *testing.T) {
	count := func(n int) float64 {
		refs := make([]eris.Ref, n)
		got := func(is []int, _ [][]byte) (int, error) { return len(is), nil }
		return testing.AllocsPerRun(10, func() {
			if err := eris.FetchMany(t.Context(), quiet{}, eris.Size1KiB, refs, got); err != nil {
				t.Error(err)
			}
		})
	}
	if few, many := count(10), count(10_000); many > few+10 {
		t.Errorf("%v allocations for 10 blocks, %v for 10,000", few, many)
	}
}

// quiet is a source that allocates nothing.
type quiet struct{}

func (quiet) Fetch(_ context.Context, _ eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	for i := range refs {
		if err := got(i, nil); err != nil {
			return err
		}
	}
	return nil
}

// One ends at the block that is not taken.
func TestOne(t *testing.T) {
	stop := errors.New("stop")
	got := eris.One(func(i int, block []byte) error {
		if block[0] == 3 {
			return stop
		}
		return nil
	})
	if n, err := got([]int{7, 8, 9}, [][]byte{{1}, {3}, {2}}); n != 1 || !errors.Is(err, stop) {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := got([]int{7, 8}, [][]byte{{1}, {2}}); n != 2 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}
