package bitswap

import (
	"context"
	"fmt"
	"iter"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/blocktest"
)

// TestStrangersWhoSayTheyHaveIt: however many say in the DHT that they have a
// content, and are not there, who has it is asked.
func TestStrangersWhoSayTheyHaveIt(t *testing.T) {
	ref, data := blocktest.Make(eris.Size32KiB, 1)
	from, err := New(t.Context(), blocktest.Blocks{ref: data}, Options{Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	good := peer.AddrInfo{ID: from.host.ID(), Addrs: from.host.Addrs()}
	to, err := New(t.Context(), nil, Options{DHT: DHTClient, Listen: []string{"/ip4/127.0.0.1/tcp/0"}})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	nobody := multiaddr.StringCast("/ip4/127.0.0.1/tcp/1")
	to.find = func(context.Context, eris.Ref) iter.Seq[peer.AddrInfo] {
		return func(yield func(peer.AddrInfo) bool) {
			for i := range 100 {
				if !yield(peer.AddrInfo{ID: peer.ID(fmt.Sprint(i)), Addrs: []multiaddr.Multiaddr{nobody}}) {
					return
				}
			}
			yield(good)
		}
	}
	s := to.Open(block.Wanted{ReadCap: eris.ReadCap{Root: ref}})
	defer s.Close()
	came := 0
	err = s.Fetch(t.Context(), eris.Size32KiB, []eris.Ref{ref}, func(int, []byte) error {
		came++
		return nil
	})
	if came != 1 || err != nil {
		t.Errorf("%d blocks, %v", came, err)
	}
}
