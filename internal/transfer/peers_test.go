package transfer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"ersatz/eris"
	"ersatz/internal/fetch"
	"ersatz/internal/node"
	"ersatz/internal/peers"
	"ersatz/internal/transport/n2r"
)

// once gives each leaf to the first who asks for it, and no other.
type once struct {
	blocks
	inner map[eris.Ref]bool // internal nodes, which all get

	mu    *sync.Mutex
	given map[eris.Ref]bool
}

func (o once) Batch(ctx context.Context, refs []eris.Ref, emit func(int, []byte) error) error {
	return o.blocks.Batch(ctx, refs, func(i int, block []byte) error {
		o.mu.Lock()
		first := !o.given[refs[i]]
		o.given[refs[i]] = true
		o.mu.Unlock()
		if !first && !o.inner[refs[i]] {
			block = nil
		}
		return emit(i, block)
	})
}

// Machines that get the same at the same time from an origin that gives each block
// once get the rest from each other.
func TestSwarm(t *testing.T) {
	const machines = 3
	x := newThing(t, 1, 6<<20, "zstd")
	source := once{blocks: x.blocks, inner: map[eris.Ref]bool{}, mu: &sync.Mutex{}, given: map[eris.Ref]bool{}}
	for _, n := range x.nodes {
		source.inner[n.Ref] = n.Level > 0
	}
	o := newOrigin(t, x)
	o.files = nil
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		n2r.Handler(source).ServeHTTP(w, r)
		return true
	})
	all := make([]*machine, machines)
	urls := make([]string, machines)
	for k := range all {
		all[k] = newMachine(t)
		all[k].o.Stall = 10 * stallOfRig
		urls[k] = all[k].share(nil)
	}
	for k, m := range all {
		for j, url := range urls {
			if j != k {
				m.named = append(m.named, url)
			}
		}
		m.start()
	}
	var work sync.WaitGroup
	for _, m := range all {
		work.Go(func() { m.gets(x, o.url) })
	}
	work.Wait()
	for _, m := range all {
		if i := m.keeps(x); !i.Signed {
			t.Errorf("kept as %+v", i)
		}
	}
	if n, _ := o.gave("eris"); n > len(x.files["zstd"])+len(x.files["zstd"])/10 {
		t.Errorf("the origin gave %d bytes of %d to %d machines", n, len(x.files["zstd"]), machines)
	}
}

// What is on its way is served to peers already, and nothing that is not right.
func TestPartIsServed(t *testing.T) {
	x := newThing(t, 1, 2<<20, "zstd")
	o := newOrigin(t, x)
	o.files = nil
	o.blocks, _ = x.without(func(l int, i int64) bool { return l == 0 && i >= 40 })
	first, second := newMachine(t), newMachine(t)
	first.o.Stall, second.o.Stall = 10*stallOfRig, 10*stallOfRig
	first.named = []string{second.share(nil)} // has nothing, may grow: it is waited for
	second.named = []string{first.share(nil)}
	rest := newOrigin(t, x)
	rest.files = nil
	rest.blocks, _ = x.without(func(l int, i int64) bool { return l == 0 && i < 40 })
	first.start()
	second.start()
	var work sync.WaitGroup
	work.Go(func() { first.gets(x, o.url) })
	work.Go(func() { second.gets(x, rest.url) })
	work.Wait()
	first.keeps(x)
	second.keeps(x)
}

// newcomer is a crowd that nobody knows of before it is shown.
type newcomer struct {
	*crowd
	shown   atomic.Bool
	fetcher eris.Fetcher
}

func (n *newcomer) Nodes() []*peers.Peer {
	if !n.shown.Load() {
		return nil
	}
	return n.crowd.Nodes()
}

func (n *newcomer) Have(ctx context.Context, hashes [][32]byte) [][]peers.Claim {
	if !n.shown.Load() {
		return make([][]peers.Claim, len(hashes))
	}
	return n.crowd.Have(ctx, hashes)
}

func (n *newcomer) Source(p *peers.Peer) fetch.Source {
	return fetch.Source{Name: p.Name(), Fetcher: n.fetcher, Near: p.Near()}
}

// A peer that is found while an item is on its way helps with the rest, unless it is
// known to lie.
func TestNewcomer(t *testing.T) {
	for _, lied := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			x := newThing(t, 1, 3<<20, "zstd")
			var given atomic.Int32
			hold := func(ctx context.Context) error {
				if given.Add(1) <= 40 {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}
			trans, store, book := bubbled(t, blockServers{newServers(), giver{x.blocks, hold}}, Options{})
			n := &newcomer{crowd: newCrowd(t, book, "near"), fetcher: giver{x.blocks, func(context.Context) error { return nil }}}
			n.claim("near", x.rc, false)
			if lied {
				book.Lied("http://near", "in a test")
			}
			trans.o.Peers = n
			var err error
			var work sync.WaitGroup
			work.Go(func() {
				var r node.Nar
				if r, err = trans.Get(t.Context(), x.want(t, "http://server.example")); err == nil {
					_, err = io.Copy(io.Discard, r)
					err = errors.Join(err, r.Close())
				}
			})
			synctest.Wait()
			n.shown.Store(true)
			work.Wait()
			synctest.Wait()
			e := book.Entry("http://near")
			if lied {
				if err == nil || e.Blocks > 0 {
					t.Errorf("%v, %d blocks of a liar", err, e.Blocks)
				}
				return
			}
			if _, kerr := store.Get(x.fields.StorePath.Hash); err != nil || kerr != nil {
				t.Errorf("%v, %v", err, kerr)
			}
			if all := int64(len(x.blocks)); e.Blocks < all-40 || e.Blocks >= all {
				t.Errorf("%d of %d blocks came from the newcomer", e.Blocks, all)
			}
		})
	}
}

// A small nar does not wait for what far peers say. They are asked if it does not
// come.
func TestFarPeersLast(t *testing.T) {
	for _, down := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			x := newThing(t, 1, 40_000, "zstd").unsigned()
			s := newServers(x)
			if down {
				s = newServers()
			}
			trans, _, book := bubbled(t, s, Options{})
			n := &newcomer{crowd: newCrowd(t, book, "far"), fetcher: giver{x.blocks, func(context.Context) error { return nil }}}
			n.shown.Store(true)
			n.claim("far", x.rc, false)
			trans.o.Peers = n
			gotten(t, trans, x)
			if asked := n.asked.Load() > 0; asked != down {
				t.Errorf("server down: %v; peers asked: %v", down, asked)
			}
			if blocks := book.Entry("http://far").Blocks; (blocks > 0) != down {
				t.Errorf("server down: %v; %d blocks", down, blocks)
			}
		})
	}
}
