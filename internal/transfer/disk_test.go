package transfer

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"ersatz/eris"
	"ersatz/internal/durable"
	"ersatz/internal/fetch"
	"ersatz/internal/transport/peer"
	"ersatz/internal/upstream"
)

// A full disk ends a transfer with the error of this machine: no source is to blame,
// and none is asked in vain. What has arrived stays.
func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		name   string
		signed bool
		holes  bool // of the blocks, so that ranges of the nar complete them
		peer   bool
	}{
		{"nar", false, false, false},
		{"blocks", true, false, false},
		{"ranges", true, true, false},
		{"a peer's blocks", true, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newThing(t, 1, 4<<20, "zstd")
			if !c.signed {
				x.unsigned()
			}
			a, b := newOrigin(t, x), newOrigin(t, x)
			after := int64(2 << 20) // bytes that the disk holds
			if c.holes {
				leaves, _ := x.without(func(l int, i int64) bool { return l == 0 && i >= 40 })
				a.blocks, b.blocks = leaves, leaves
			}
			m := newMachine(t)
			names := []string{a.url, b.url, "nar " + a.url, "nar " + b.url}
			if c.peer {
				n := newNeighbour(t, x.blocks)
				n.says(x, &peer.Held{ReadCap: x.rc, Format: zstdFormat})
				m.named, names = []string{n.url}, append(names, n.url)
			}
			m.start()
			var writes atomic.Int64
			restore := durable.SetFaultForTest(func(op, path string) error {
				if op == "write" && strings.Contains(path, "/parts/") && strings.HasSuffix(path, "/content") && writes.Add(1) > after/int64(eris.Size32KiB) {
					return syscall.ENOSPC
				}
				return nil
			})
			_, err := m.get(x.want(t, a.url, b.url))
			m.settled()
			restore()
			var local *localError
			if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &local) {
				t.Errorf("%v\n%s", err, m.log.String())
			}
			for _, name := range names {
				if err := m.book.Usable(name); err != nil {
					t.Errorf("%s is blamed: %v", name, err)
				}
			}
			_, na := a.gave("nar")
			_, nb := b.gave("nar")
			if want := map[bool]int{true: rangesAtOnce, false: 1}[c.holes]; na+nb > want || c.signed && !c.holes && na+nb > 0 {
				t.Errorf("%d requests for nars", na+nb)
			}
			m.gets(x, a.url, b.url)
			m.keeps(x)
		})
	}
}

// giver gives blocks; hold is called before each.
type giver struct {
	blocks
	hold func(ctx context.Context) error
}

func (g giver) Fetch(ctx context.Context, _ eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	for i, ref := range refs {
		if err := g.hold(ctx); err != nil {
			return err
		}
		if err := got(i, g.blocks[ref]); err != nil {
			return err
		}
	}
	return nil
}

// blockServers is a Client whose servers have blocks of one thing.
type blockServers struct {
	*servers
	fetcher eris.Fetcher
}

func (b blockServers) Blocks(sv *upstream.Server) (fetch.Source, bool) {
	return fetch.Source{Name: sv.String(), Fetcher: b.fetcher}, true
}

// Close in the middle of everything ends all of it: nothing runs on, and who reads
// is told.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newThing(t, 1, 3<<20, "zstd")
		small := chain(t, 5)
		s := newServers(small...)
		s.waiting(small[0])
		var given atomic.Int32
		hold := func(ctx context.Context) error {
			if given.Add(1) < 40 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		trans, _, book := bubbled(t, blockServers{s, giver{x.blocks, hold}}, Options{})
		crowd := newCrowd(t, book, "near", "far") // has nothing, and is asked again and again
		trans.o.Peers = crowd
		query(t, trans, small...)
		gotten(t, trans, small[0])
		var work sync.WaitGroup
		errs := make([]error, 4)
		for k := range errs {
			work.Go(func() {
				w := x.want(t, "http://server.example")
				if k == 3 {
					w = newThing(t, 9, 1000, "none").want(t, "http://server.example")
				}
				n, err := trans.Get(t.Context(), w)
				if err == nil {
					_, err = io.Copy(io.Discard, n)
					err = errors.Join(err, n.Close())
				}
				errs[k] = err
			})
		}
		synctest.Wait()
		if n := given.Load(); n < 40 {
			t.Errorf("%d blocks were asked for", n)
		}
		must(t, trans.Close())
		work.Wait()
		for _, err := range errs {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("a reader was told %v", err)
			}
		}
		if _, now, _ := s.did(); now != 0 {
			t.Errorf("%d are open", now)
		}
		if err := book.Usable("http://server.example"); err != nil {
			t.Errorf("the server is blamed: %v", err)
		}
	})
}
