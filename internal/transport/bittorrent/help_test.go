package bittorrent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/memstore"
	"ersatz/internal/torrent"
	"ersatz/internal/transport/bittorrent"
)

// tree is a content, or blocks of chance that stand like those of one.
type tree struct {
	cap    eris.ReadCap
	refs   []eris.Ref // in the order of the tree
	place  map[eris.Ref]int64
	shape  eris.Shape
	blocks block.Getter
	length int64
}

// makeTree encodes a content of n bytes.
func makeTree(t testing.TB, size eris.BlockSize, n int64) *tree {
	t.Helper()
	store := memstore.New()
	var all []eris.Block
	c, _, err := eris.Encode(io.LimitReader(rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}), n), size, eris.Secret{}, func(b eris.Block) error {
		all = append(all, eris.Block{Ref: b.Ref, Level: b.Level, Index: b.Index})
		return store.Put(t.Context(), b.Ref, b.Data)
	})
	if err != nil {
		t.Fatal(err)
	}
	shape := eris.NewShape(size, n)
	refs := make([]eris.Ref, shape.Nodes())
	for _, b := range all {
		place, _ := shape.Number(b.Level, b.Index)
		refs[place] = b.Ref
	}
	return newTree(c, shape, refs, store, n)
}

func newTree(c eris.ReadCap, shape eris.Shape, refs []eris.Ref, blocks block.Getter, length int64) *tree {
	tr := &tree{cap: c, refs: refs, place: map[eris.Ref]int64{}, shape: shape, blocks: blocks, length: length}
	for i, ref := range refs {
		tr.place[ref] = int64(i)
	}
	return tr
}

// where is what block.Wanted needs.
func (tr *tree) where(ref eris.Ref) (int, int64, bool) {
	place, ok := tr.place[ref]
	if !ok {
		return 0, 0, false
	}
	level, index := tr.shape.Locate(place)
	return level, index, true
}

// content is a block.Content.
type content struct {
	*tree
	opened *count
}

// count notes how many contents are open, and were at most.
type count struct {
	mu        sync.Mutex
	now, most int
}

func (c *count) add(n int) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += n
	c.most = max(c.most, c.now)
}

func (tr *tree) open(context.Context) (block.Content, error) { return content{tr, nil}, nil }

func (c content) Len() int64 { return int64(len(c.refs)) }

func (c content) Block(ctx context.Context, place int64) (eris.Ref, []byte, error) {
	b, err := c.blocks.Get(ctx, c.refs[place])
	return c.refs[place], b, err
}

func (c content) Close() error { c.opened.add(-1); return nil }

// info returns the torrent of a tree.
func (tr *tree) info(t testing.TB) torrent.Info {
	t.Helper()
	i, err := bittorrent.Describe(t.Context(), tr.cap.Root, content{tr, nil})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// file returns what the torrent's file has.
func (tr *tree) file(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, ref := range tr.refs {
		data, err := tr.blocks.Get(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(data)
	}
	return b.Bytes()
}

// magnet returns the link, with what change adds to it.
func magnet(i torrent.Info, change ...func(*torrent.Magnet)) string {
	m := torrent.Magnet{Hash: i.Hash(), Name: i.Name}
	for _, f := range change {
		f(&m)
	}
	return m.String()
}

func peer(addr string) func(*torrent.Magnet) {
	return func(m *torrent.Magnet) { m.Peers = append(m.Peers, addr) }
}

// start returns a client that ends with the test.
func start(t testing.TB, o bittorrent.Options) *bittorrent.Client {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	c, err := bittorrent.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// seed returns a client that seeds a tree, and where it listens.
func seed(t testing.TB, tr *tree, link string, o bittorrent.Options) (*bittorrent.Client, string) {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	c := start(t, o)
	if err := c.Offer(t.Context(), block.Shared{ReadCap: tr.cap, Length: tr.length, Magnet: link}, tr.open); err != nil {
		t.Fatal(err)
	}
	return c, c.Addr().String()
}

// open returns a session that ends with the test.
func open(t testing.TB, c *bittorrent.Client, tr *tree, link string, servers ...string) block.Session {
	t.Helper()
	s := c.Open(block.Wanted{ReadCap: tr.cap, Magnet: link, Servers: servers, Where: tr.where})
	if s == nil {
		t.Fatal("no session")
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// wants fails the test unless a session gives the blocks at the places, each
// once, and no other.
func wants(t testing.TB, s eris.Fetcher, tr *tree, places ...int64) {
	t.Helper()
	if err := gives(t.Context(), s, tr, places...); err != nil {
		t.Fatal(err)
	}
}

func gives(ctx context.Context, s eris.Fetcher, tr *tree, places ...int64) error {
	refs := make([]eris.Ref, len(places))
	for i, p := range places {
		refs[i] = tr.refs[p]
	}
	var mu sync.Mutex
	n := map[int]int{}
	err := s.Fetch(ctx, tr.cap.Size, refs, func(i int, b []byte) error {
		if eris.BlockRef(b) != refs[i] {
			return eris.ErrCorrupt
		}
		mu.Lock()
		defer mu.Unlock()
		n[i]++
		return nil
	})
	for i := range places {
		if n[i] != 1 && err == nil {
			err = fmt.Errorf("%w: block %d came %d times", errMissing, places[i], n[i])
		}
	}
	return err
}

var errMissing = errors.New("not all came")

// every returns all places.
func (tr *tree) every() []int64 {
	places := make([]int64, len(tr.refs))
	for i := range places {
		places[i] = int64(i)
	}
	return places
}

// within waits until ok holds.
func within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in %v", what, d)
		}
	}
}

// deaf returns the address of a socket that nobody reads.
func deaf(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}
