package gnunet_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/memstore"
	"ersatz/internal/fetch"
	"ersatz/internal/transport/gnunet"
	"ersatz/internal/transport/gnunet/gnunettest"
)

func open(t testing.TB, o gnunet.Options) *gnunet.Client {
	t.Helper()
	c, err := gnunet.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// fetched returns which of some blocks come; a wrong one fails the test.
func fetched(t testing.TB, f eris.Fetcher, size eris.BlockSize, refs []eris.Ref) map[int]bool {
	t.Helper()
	var mu sync.Mutex
	came := map[int]bool{}
	err := f.Fetch(t.Context(), size, refs, func(i int, b []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if eris.BlockRef(b) != refs[i] || came[i] {
			t.Errorf("block %d is another one, or came twice", i)
		}
		came[i] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return came
}

func put(t testing.TB, p block.Putter, ref eris.Ref, b []byte) {
	t.Helper()
	if err := p.Put(t.Context(), ref, b); err != nil {
		t.Fatal(err)
	}
}

// content is a block.Content in memory.
type content struct {
	refs   []eris.Ref
	blocks [][]byte
}

func makeContent(size eris.BlockSize, n int) (c content) {
	for i := range n {
		ref, b := blocktest.Make(size, uint64(i))
		c.refs, c.blocks = append(c.refs, ref), append(c.blocks, b)
	}
	return c
}

func (c content) Len() int64 { return int64(len(c.refs)) }
func (c content) Block(_ context.Context, place int64) (eris.Ref, []byte, error) {
	return c.refs[place], c.blocks[place], nil
}
func (c content) Close() error                                { return nil }
func (c content) open(context.Context) (block.Content, error) { return c, nil }
func (c content) offer(t testing.TB, s block.Sink) {
	t.Helper()
	if err := s.Offer(t.Context(), block.Shared{}, c.open); err != nil {
		t.Fatal(err)
	}
}

// TestPeer puts and gets by one peer, and has a program of GNUnet's find what was
// put: by the reference, as text.
func TestPeer(t *testing.T) {
	t.Parallel()
	p := gnunettest.Start(t)
	c := open(t, gnunet.Options{Socket: p.Socket, Idle: 2 * time.Second})
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		all := makeContent(size, 40)
		for i := 0; i < 40; i += 2 {
			put(t, c, all.refs[i], all.blocks[i])
		}
		came := fetched(t, c, size, all.refs)
		for i := range all.refs {
			if came[i] != (i%2 == 0) {
				t.Errorf("%v: block %d came: %t", size, i, came[i])
			}
		}
		out := p.Run(t, "gnunet-dht-get", "-k", all.refs[0].String(), "-T", "1 s")
		if !strings.Contains(out, "type 8") {
			t.Errorf("%v: gnunet-dht-get prints %.200q", size, out)
		}
	}
}

// TestGarbage has others put something else under the key of a block: it is
// missing until somebody puts it, and nobody is blamed.
func TestGarbage(t *testing.T) {
	t.Parallel()
	p := gnunettest.Start(t)
	c := open(t, gnunet.Options{Socket: p.Socket, Idle: 2 * time.Second})
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	for _, data := range []string{"something else", strings.Repeat("x", 1024), strings.Repeat("y", 60000)} {
		p.Run(t, "gnunet-dht-put", "-k", ref.String(), "-d", data)
	}
	if came := fetched(t, c, eris.Size1KiB, []eris.Ref{ref}); len(came) != 0 {
		t.Error("it came")
	}
	put(t, c, ref, b)
	if came := fetched(t, c, eris.Size1KiB, []eris.Ref{ref}); len(came) != 1 {
		t.Error("it did not come")
	}
}

// TestPeers has a block come from another peer. How many do, nobody promises.
func TestPeers(t *testing.T) {
	t.Parallel()
	a, b := gnunettest.Start(t), gnunettest.Start(t)
	const before = 100
	all := makeContent(eris.Size32KiB, 2*before)
	from, to := open(t, gnunet.Options{Socket: a.Socket}), open(t, gnunet.Options{Socket: b.Socket, Idle: 3 * time.Second})
	content{all.refs[:before], all.blocks[:before]}.offer(t, from)
	a.Connect(t, b)
	came := fetched(t, to, eris.Size32KiB, all.refs[:before])
	t.Logf("%d of %d blocks, put before the peers had met", len(came), before)
	if len(came) == 0 {
		t.Error("none came")
	}
	content{all.refs[before:], all.blocks[before:]}.offer(t, from)
	a.Stop() // so that they come from where they were copied to
	came = fetched(t, to, eris.Size32KiB, all.refs[before:])
	t.Logf("%d of %d blocks, put by a peer that is gone", len(came), before)
	if len(came) == 0 {
		t.Error("none was copied")
	}
}

// TestOffer offers a content, twice: the second time is what counts.
func TestOffer(t *testing.T) {
	t.Parallel()
	p := gnunettest.Start(t)
	soon := open(t, gnunet.Options{Socket: p.Socket, Expiry: time.Second, Idle: 2 * time.Second, Rate: 1 << 30})
	late := open(t, gnunet.Options{Socket: p.Socket, Expiry: time.Hour, Rate: 1 << 30})
	all := makeContent(eris.Size1KiB, 3*32+5)
	kept := content{all.refs[:50], all.blocks[:50]}
	start := time.Now()
	all.offer(t, soon)
	kept.offer(t, late)
	if came := fetched(t, soon, eris.Size1KiB, all.refs); time.Since(start) < time.Second && len(came) != len(all.refs) {
		t.Errorf("%d blocks of %d", len(came), len(all.refs))
	}
	if err := late.Withdraw(t.Context(), block.Shared{}); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(20 * time.Second); ; {
		came := fetched(t, soon, eris.Size1KiB, all.refs)
		for i := range kept.refs {
			if !came[i] {
				t.Fatalf("block %d was put again, and is gone", i)
			}
		}
		if len(came) == len(kept.refs) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d blocks of %d", len(came), len(kept.refs))
		}
	}
}

// TestRestart ends the DHT service in between: what it had is lost, and the same
// clients go on.
func TestRestart(t *testing.T) {
	t.Parallel()
	p := gnunettest.Start(t)
	c := open(t, gnunet.Options{Socket: p.Socket, Idle: 2 * time.Second, Rate: 1 << 30})
	all := makeContent(eris.Size32KiB, 100)
	all.offer(t, c)
	got := 0
	var mu sync.Mutex
	var once sync.Once
	err := c.Fetch(t.Context(), eris.Size32KiB, all.refs, func(int, []byte) error {
		once.Do(func() { p.Restart(t, "dht") })
		mu.Lock()
		defer mu.Unlock()
		got++
		return nil
	})
	t.Logf("%d blocks, %v", got, err) // an error if nobody listened for a moment
	if got == 0 {
		t.Error("none came before the end")
	}
	if came := fetched(t, c, eris.Size32KiB, all.refs[:10]); len(came) != 0 {
		t.Errorf("%d blocks are there still", len(came))
	}
	all.offer(t, c)
	if came := fetched(t, c, eris.Size32KiB, all.refs); len(came) != len(all.refs) {
		t.Errorf("%d blocks of %d", len(came), len(all.refs))
	}
}

// TestMixed reads a content of which the DHT has every third block.
func TestMixed(t *testing.T) {
	p := gnunettest.Start(t)
	c := open(t, gnunet.Options{Socket: p.Socket, Rate: 1 << 30})
	want := make([]byte, 3_000_000)
	rand.NewChaCha8([32]byte{7}).Read(want)
	others := memstore.New()
	n := 0
	readCap, _, err := eris.Encode(bytes.NewReader(want), eris.Size32KiB, eris.Secret{}, func(b eris.Block) error {
		if n++; n%3 == 0 {
			return c.Put(t.Context(), b.Ref, b.Data)
		}
		return others.Put(t.Context(), b.Ref, b.Data)
	})
	if err != nil {
		t.Fatal(err)
	}
	mix := fetch.New([]fetch.Source{
		{Name: "gnunet", Fetcher: c},
		{Name: "others", Fetcher: block.Fetcher(others, 4)},
	}, fetch.Options{})
	r := eris.NewReader(t.Context(), readCap, mix, eris.ReaderOptions{})
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	for _, s := range mix.Stats() {
		t.Logf("%s: %d blocks, %v", s.Name, s.Blocks, s.Err)
		if s.Blocks == 0 || s.Err != nil {
			t.Errorf("%s gave %d blocks, %v", s.Name, s.Blocks, s.Err)
		}
	}
}
