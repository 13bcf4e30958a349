package bench

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/internal/realguix"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
	"ersatz/storepath"
)

func testKey() (*guixsig.PrivateKey, error) {
	return guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
}

func testItem() item {
	p := storepath.Path{Dir: storepath.Guix, Hash: strings.Repeat("a", 32), Name: "item"}
	return item{Item: realguix.Item{Path: p}}
}

func TestBlockMap(t *testing.T) {
	m, err := encodeRandom(5, 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(m) != 6 { // and one internal node
		t.Errorf("%d blocks", len(m))
	}
	err = m.Fetch(t.Context(), eris.Size32KiB, []eris.Ref{{}}, func(int, []byte) error { return nil })
	if !errors.Is(err, eris.ErrNotFound) {
		t.Errorf("a block that is not there: %v", err)
	}
	rate, err := eachBlock(m, func(ref eris.Ref, b []byte) error {
		if eris.BlockRef(b) != ref {
			t.Errorf("%s is another block", ref)
		}
		return nil
	})
	if err != nil || rate <= 0 {
		t.Errorf("%v per second, %v", rate, err)
	}
	broken := errors.New("broken")
	if _, err := eachBlock(m, func(eris.Ref, []byte) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

// TestWaysThroughKubo checks that both ways that are compared do the same.
func TestWaysThroughKubo(t *testing.T) {
	d := kubotest.Start(t)
	c, err := ipfs.New(d.API, nil)
	if err != nil {
		t.Fatal(err)
	}
	bulk, err := encodeRandom(40, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := putBulk(t.Context(), c, bulk); err != nil {
		t.Fatal(err)
	}
	single, err := encodeRandom(3, 3)
	if err != nil {
		t.Fatal(err)
	}
	client := newClient()
	defer client.CloseIdleConnections()
	if _, err := eachBlock(single, func(_ eris.Ref, b []byte) error { return putOne(t.Context(), client, d.API, b) }); err != nil {
		t.Fatal(err)
	}
	for _, m := range []blockMap{bulk, single} {
		if _, err := getBulk(t.Context(), c, m); err != nil {
			t.Error(err)
		}
		if _, err := eachBlock(m, func(ref eris.Ref, b []byte) error { return getOne(t.Context(), client, d.API, ref, b) }); err != nil {
			t.Error(err)
		}
	}
}
