package transfer

import (
	"iter"
	"slices"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/fetch"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
)

// An item whose origin is gone comes by real IPFS daemons, of which the node's
// own has none of it before; also the one that has no other policy.
func TestKubo(t *testing.T) {
	publisher, mine := kubotest.Start(t), kubotest.Start(t)
	mine.Connect(t, publisher)
	client := func(d *kubotest.Daemon) *ipfs.Client {
		c, err := ipfs.New(d.API, nil)
		must(t, err)
		return c
	}
	for seed, policy := range []Policy{Mixed, P2POnly} {
		x := newThing(t, byte(seed), 5<<20, "zstd")
		_, err := client(publisher).Put(t.Context(), x.rc.Root, iter.Seq[eris.Ref](slices.Values(x.refs)), func(emit func(eris.Ref, []byte) error) error {
			for _, ref := range x.refs {
				if err := emit(ref, x.blocks[ref]); err != nil {
					return err
				}
			}
			return nil
		})
		must(t, err)
		m := newMachine(t)
		c := client(mine)
		m.o.Policy = policy
		m.o.Networks = []fetch.Network{{Name: c.String(), Kind: "ipfs+http", Network: block.Everything(c), Start: time.Second}}
		m.start().gets(x, "http://127.0.0.1:1")
		if !m.keeps(x).Signed || m.book.Entry(c.String()).Blocks != int64(len(x.refs)) {
			t.Errorf("%d of %d blocks from IPFS", m.book.Entry(c.String()).Blocks, len(x.refs))
		}
		m.stop()
	}
}
