package bitswap_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	boxo "github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"

	"ersatz/eris"
	"ersatz/internal/block/memstore"
	"ersatz/internal/transport/bitswap"
	"ersatz/internal/transport/transporttest"
)

// anyPorts are where hosts of benchmarks listen, by the name of the transport.
var anyPorts = map[string]string{"TCP": anyPort, "QUIC": "/ip4/127.0.0.1/udp/0/quic-v1"}

// BenchmarkTransport fetches blocks over loopback: by our hosts, and by boxo's
// server and client in a bare loop.
func BenchmarkTransport(b *testing.B) {
	s, refs := transporttest.Blocks(b, transporttest.Many)
	for name, at := range anyPorts {
		b.Run("ersatz/"+name, func(b *testing.B) {
			from := start(b, s, bitswap.Options{Listen: []string{at}})
			to := start(b, nil, bitswap.Options{Peers: from.Addrs()[:1]})
			transporttest.Measure(b, open(b, to, refs[0]), refs)
		})
		b.Run("bare/"+name, func(b *testing.B) {
			transporttest.Measure(b, library(b, at, s, refs), refs)
		})
	}
}

// library starts two peers of boxo, one of which has blocks, and returns how the
// other fetches them: 64 at a time, as more stall.
func library(b *testing.B, at string, s *memstore.Store, refs []eris.Ref) transporttest.Func {
	from, store := boxoPeer(b, at)
	for _, ref := range refs {
		data, err := s.Get(b.Context(), ref)
		if err != nil {
			b.Fatal(err)
		}
		block, err := blocks.NewBlockWithCid(data, cidOf(b, ref))
		if err != nil {
			b.Fatal(err)
		}
		if err := store.Put(b.Context(), block); err != nil {
			b.Fatal(err)
		}
	}
	to, _ := boxoPeer(b, at)
	if err := to.host.Connect(b.Context(), peer.AddrInfo{ID: from.host.ID(), Addrs: from.host.Addrs()}); err != nil {
		b.Fatal(err)
	}
	return func(ctx context.Context, refs []eris.Ref, got func(int, []byte) error) error {
		place := map[string]int{}
		var cids []cid.Cid
		for i, ref := range refs {
			c := cidOf(b, ref)
			place[c.KeyString()] = i
			cids = append(cids, c)
		}
		session := to.bs.NewSession(ctx)
		for group := range slices.Chunk(cids, 64) {
			ch, err := session.GetBlocks(ctx, group)
			if err != nil {
				return err
			}
			for block := range ch {
				if err := got(place[block.Cid().KeyString()], block.RawData()); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// boxoHost is a peer that is made of what boxo and libp2p have by default.
type boxoHost struct {
	host host.Host
	bs   *boxo.Bitswap
}

func boxoPeer(b *testing.B, at string) (boxoHost, blockstore.Blockstore) {
	b.Helper()
	h, err := libp2p.New(libp2p.ListenAddrStrings(at), libp2p.DisableMetrics(), libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		b.Fatal(err)
	}
	store := blockstore.NewBlockstore(sync.MutexWrap(datastore.NewMapDatastore()))
	bs := boxo.New(context.Background(), bsnet.NewFromIpfsHost(h), nil, store)
	b.Cleanup(func() {
		if err := errors.Join(bs.Close(), h.Close()); err != nil {
			b.Error(err)
		}
	})
	return boxoHost{h, bs}, store
}

func cidOf(b testing.TB, ref eris.Ref) cid.Cid {
	h, err := multihash.Encode(ref[:], multihash.BLAKE2B_MIN+31)
	if err != nil {
		b.Fatal(err)
	}
	return cid.NewCidV1(cid.Raw, h)
}
