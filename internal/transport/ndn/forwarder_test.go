package ndn_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	enc "github.com/named-data/ndnd/std/encoding"
	"github.com/named-data/ndnd/std/ndn/mgmt_2022"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/memstore"
	"ersatz/internal/transport/ndn"
	"ersatz/internal/transport/ndn/ndntest"
)

// content encodes n random bytes.
func content(t testing.TB, n int) (*memstore.Store, eris.ReadCap, []byte) {
	t.Helper()
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	s := memstore.New()
	c, _, err := eris.Encode(bytes.NewReader(b), eris.Size32KiB, eris.Secret{}, func(b eris.Block) error {
		return s.Put(context.Background(), b.Ref, b.Data)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, c, b
}

func read(t testing.TB, c eris.ReadCap, f eris.Fetcher) ([]byte, error) {
	t.Helper()
	r := eris.NewReader(t.Context(), c, f, eris.ReaderOptions{})
	defer r.Close()
	return io.ReadAll(r)
}

// TestCaches has a second consumer, who asks when the producer has gone: the
// forwarder has all blocks.
func TestCaches(t *testing.T) {
	s, c, want := content(t, 3_000_000)
	f := ndntest.Start(t, "")
	stop := serve(t, s, ndn.Options{Face: f.Face}, ndn.ServerOptions{})
	if got, err := read(t, c, dial(t, ndn.Options{Face: f.Face})); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("from the producer: %d bytes, %v", len(got), err)
	}
	stop()
	second := dial(t, ndn.Options{Face: f.Face, Idle: time.Second})
	if got, err := read(t, c, second); err != nil || !bytes.Equal(got, want) {
		t.Errorf("from the forwarder: %d bytes, %v", len(got), err)
	}
	// What nobody has asked for before is nowhere.
	other, _ := blocktest.Make(eris.Size32KiB, 1)
	if n := count(t, second, eris.Size32KiB, other); n != 0 {
		t.Errorf("%d blocks of nobody", n)
	}
}

// count returns how many of some blocks come.
func count(t testing.TB, f eris.Fetcher, size eris.BlockSize, refs ...eris.Ref) int {
	t.Helper()
	came := make(chan int, len(refs))
	err := f.Fetch(t.Context(), size, refs, func(i int, b []byte) error {
		if eris.BlockRef(b) != refs[i] {
			return eris.ErrCorrupt
		}
		came <- i
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return len(came)
}

// TestAbsenceIsNotCached asks for a block before and after the producer has it.
// It is one of one segment: answers for others might still be on their way.
func TestAbsenceIsNotCached(t *testing.T) {
	s := memstore.New()
	f := ndntest.Start(t, "")
	serve(t, s, ndn.Options{Face: f.Face}, ndn.ServerOptions{Absent: -1})
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	for range 2 {
		if n := count(t, dial(t, ndn.Options{Face: f.Face}), eris.Size1KiB, ref); n != 0 {
			t.Fatalf("%d blocks of an empty store", n)
		}
	}
	if err := s.Put(t.Context(), ref, b); err != nil {
		t.Fatal(err)
	}
	if n := count(t, dial(t, ndn.Options{Face: f.Face}), eris.Size1KiB, ref); n != 1 {
		t.Error("the forwarder repeats that there is no such block")
	}
}

// TestForwarderRestarts: consumer and producer go on when the forwarder is back.
func TestForwarderRestarts(t *testing.T) {
	s, c, want := content(t, 1_000_000)
	f := ndntest.Start(t, "")
	registered := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- ndn.Serve(ctx, s, ndn.Options{Face: f.Face}, ndn.ServerOptions{Registered: func() { registered <- struct{}{} }})
	}()
	client := dial(t, ndn.Options{Face: f.Face})
	for range 3 {
		<-registered
		if got, err := read(t, c, client); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		f.Stop()
		if _, err := read(t, c, client); err == nil || errors.Is(err, eris.ErrNotFound) {
			t.Errorf("without a forwarder: %v", err)
		}
		f = ndntest.Start(t, f.Face)
	}
	<-registered
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestTwoProducers have half of the blocks each. The forwarder sends each
// Interest to both, and whoever has the block is heard.
func TestTwoProducers(t *testing.T) {
	s, refs := fill(t, eris.Size32KiB, 40)
	halves := [2]*memstore.Store{memstore.New(), memstore.New()}
	for i, ref := range refs {
		b, err := s.Get(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := halves[i%2].Put(t.Context(), ref, b); err != nil {
			t.Fatal(err)
		}
	}
	f := ndntest.Start(t, "")
	strategy, err := enc.NameFromStr("/localhost/nfd/strategy/multicast/v=1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = libraryEngine(t, f.Face).ExecMgmtCmd("strategy-choice", "set", &mgmt_2022.ControlArgs{
		Name: enc.Name{enc.NewGenericComponent("eris")}, Strategy: &mgmt_2022.Strategy{Name: strategy},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, half := range halves {
		serve(t, half, ndn.Options{Face: f.Face}, ndn.ServerOptions{})
	}
	if n := count(t, dial(t, ndn.Options{Face: f.Face}), eris.Size32KiB, refs...); n != len(refs) {
		t.Errorf("%d of %d blocks", n, len(refs))
	}
}

// TestBoth has one client ask and serve, under the prefix of another producer. It
// gets what that has, though the forwarder sends each Interest to one of them.
func TestBoth(t *testing.T) {
	theirs, refs := fill(t, eris.Size32KiB, 20)
	ours := memstore.New()
	ref, b := blocktest.Make(eris.Size32KiB, 1000)
	if err := ours.Put(t.Context(), ref, b); err != nil {
		t.Fatal(err)
	}
	f := ndntest.Start(t, "")
	c := dial(t, ndn.Options{Face: f.Face})
	registered := make(chan struct{}, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- c.Serve(ctx, ours, ndn.ServerOptions{Registered: func() { registered <- struct{}{} }})
	}()
	<-registered
	serve(t, theirs, ndn.Options{Face: f.Face}, ndn.ServerOptions{})
	if n := count(t, c, eris.Size32KiB, refs...); n != len(refs) {
		t.Errorf("%d of %d blocks", n, len(refs))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := count(t, c, eris.Size32KiB, refs...); n != len(refs) {
		t.Errorf("when it serves no more: %d of %d blocks", n, len(refs))
	}
}

// TestPrefixes are apart: what is served under one is not under another.
func TestPrefixes(t *testing.T) {
	s, refs := fill(t, eris.Size32KiB, 1)
	f := ndntest.Start(t, "")
	serve(t, s, ndn.Options{Face: f.Face, Prefix: "/example/a%20b"}, ndn.ServerOptions{})
	serve(t, block.Getter(memstore.New()), ndn.Options{Face: f.Face}, ndn.ServerOptions{Absent: -1})
	if n := count(t, dial(t, ndn.Options{Face: f.Face, Prefix: "/example/a%20b/"}), eris.Size32KiB, refs...); n != 1 {
		t.Errorf("%d blocks under the prefix", n)
	}
	if n := count(t, dial(t, ndn.Options{Face: f.Face}), eris.Size32KiB, refs...); n != 0 {
		t.Errorf("%d blocks under another", n)
	}
}

func TestTCP(t *testing.T) {
	s, c, want := content(t, 1_000_000)
	f := ndntest.StartTCP(t)
	serve(t, s, ndn.Options{Face: f.Face}, ndn.ServerOptions{})
	if got, err := read(t, c, dial(t, ndn.Options{Face: f.Face})); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestNobodyThere has an error say where nobody is.
func TestNobodyThere(t *testing.T) {
	c := dial(t, ndn.Options{Face: "unix://" + t.TempDir() + "/none.sock"})
	err := c.Fetch(t.Context(), eris.Size1KiB, []eris.Ref{{1}}, func(int, []byte) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "none.sock") {
		t.Errorf("got %v", err)
	}
}
