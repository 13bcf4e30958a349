package fetch

import (
	"context"
	"testing"

	"ersatz/eris"
	"ersatz/internal/block"
)

type noNetwork struct{}

func (noNetwork) Open(block.Wanted) block.Session { return nil }

type anyFetcher struct{ asked int }

func (f *anyFetcher) Fetch(context.Context, eris.BlockSize, []eris.Ref, func(int, []byte) error) error {
	f.asked++
	return nil
}

func TestNetworkOpen(t *testing.T) {
	if _, _, ok := (Network{Name: "n", Network: noNetwork{}}).Open(block.Wanted{}); ok {
		t.Error("a network that has nothing was opened")
	}
	f := &anyFetcher{}
	s, open, ok := Network{Name: "n", Network: block.Everything(f), Near: true, Batch: 7, Parallel: 3}.Open(block.Wanted{})
	if !ok || s.Name != "n" || !s.Near || s.Batch != 7 || s.Parallel != 3 {
		t.Fatalf("%v, %+v", ok, s)
	}
	if err := s.Fetcher.Fetch(t.Context(), eris.Size1KiB, nil, nil); err != nil || f.asked != 1 {
		t.Errorf("asked %d times, %v", f.asked, err)
	}
	if err := open.Close(); err != nil {
		t.Error(err)
	}
}
