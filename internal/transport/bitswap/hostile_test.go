package bitswap_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/boxo/bitswap/message"
	pb "github.com/ipfs/boxo/bitswap/message/pb"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"ersatz/internal/transport/bitswap"
	"ersatz/internal/transport/transporttest"
)

// TestStrangersWhoDoNotRead: peers that ask for all and read nothing hold up
// nobody else.
func TestStrangersWhoDoNotRead(t *testing.T) {
	lib, refs := transporttest.Blocks(t, 200)
	h := start(t, lib, bitswap.Options{Listen: []string{anyPort}})
	var stuck atomic.Int64
	for range 12 {
		bad, stream := raw(t, h)
		bad.SetStreamHandler("/ipfs/bitswap/1.2.0", func(network.Stream) { stuck.Add(1) })
		m := message.New(true)
		for _, ref := range refs {
			m.AddEntry(cidOf(t, ref), 1, pb.Message_Wantlist_Block, true)
		}
		if err := m.ToNetV1(stream()); err != nil {
			t.Fatal(err)
		}
	}
	until(t, func() bool { return stuck.Load() == 12 })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	<-ctx.Done() // by now as much is on its way as fits
	s := open(t, start(t, nil, bitswap.Options{Peers: h.Addrs(), Idle: 20 * time.Second}), refs[0])
	begin := time.Now()
	if n, err := count(t, s, refs[:10]); n != 10 || err != nil {
		t.Errorf("%d blocks, %v", n, err)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
}

// TestStrangersWhoPromise: peers that begin long messages and never go on take
// no memory that others need.
func TestStrangersWhoPromise(t *testing.T) {
	lib, refs := transporttest.Blocks(t, 100)
	h := start(t, lib, bitswap.Options{Listen: []string{anyPort}})
	for i := range 12 {
		_, stream := raw(t, h)
		for k := range 32 {
			promise := "\x80\x80\x80\x01" // 2 MiB
			switch {
			case i < 6 && k >= 4:
				continue // it takes no more of one peer
			case i >= 6:
				promise = []string{"\x80\x80\x04", "\x80\x40", "\x80\x08"}[k%3] // what is left
			}
			if _, err := stream().Write([]byte(promise)); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	<-ctx.Done()
	s := open(t, start(t, nil, bitswap.Options{Peers: h.Addrs(), Idle: 5 * time.Second}), refs[0])
	if n, err := count(t, s, refs); n != len(refs) || err != nil {
		t.Errorf("%d blocks, %v", n, err)
	}
}

// TestStrangersWhoOpenStreams: peers that open all the streams that they may leave
// others theirs.
func TestStrangersWhoOpenStreams(t *testing.T) {
	lib, refs := transporttest.Blocks(t, 20)
	h := start(t, lib, bitswap.Options{Listen: []string{anyPort}})
	to, err := peer.AddrInfoFromString(h.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	for range 6 {
		bad, _ := raw(t, h)
		work.Go(func() {
			for range 800 {
				s, err := bad.NewStream(t.Context(), to.ID, "/ipfs/bitswap/1.2.0")
				if err == nil {
					_, _ = s.Write([]byte("\x80")) // it may have enough of this one
				}
			}
		})
	}
	work.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	<-ctx.Done()
	s := open(t, start(t, nil, bitswap.Options{Peers: h.Addrs(), Idle: 5 * time.Second}), refs[0])
	if n, err := count(t, s, refs); n != len(refs) || err != nil {
		t.Errorf("%d blocks, %v", n, err)
	}
}
