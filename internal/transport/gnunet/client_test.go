package gnunet_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/memstore"
	"ersatz/internal/transport/gnunet"
)

func TestOptions(t *testing.T) {
	_, err := gnunet.New(gnunet.Options{InFlight: -1, Replication: 17})
	if err == nil || !strings.Contains(err.Error(), "InFlight") || !strings.Contains(err.Error(), "17") {
		t.Errorf("not all that is wrong is named: %v", err)
	}
	for _, o := range []gnunet.Options{{Idle: -1}, {Expiry: -1}, {Rate: -1}, {Replication: -1}} {
		if _, err := gnunet.New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	if got := open(t, gnunet.Options{}).Renew(); got != 24*time.Hour {
		t.Errorf("renew after %v", got)
	}
}

// counter is a Limiter that counts.
type counter struct {
	n    atomic.Int64
	fail error
}

func (c *counter) WaitN(_ context.Context, n int) error {
	c.n.Add(int64(n))
	return c.fail
}

// TestPutMessage looks at what the service is sent for a block.
func TestPutMessage(t *testing.T) {
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	messages := make(chan []byte, 1)
	at, _ := serve(t, "", &service{put: func(_ [64]byte, m []byte) { messages <- m }}, nil)
	var limit counter
	c := open(t, gnunet.Options{Socket: at, Expiry: time.Hour, Replication: 16, Limit: &limit})
	start := time.Now().Truncate(time.Microsecond)
	put(t, c, ref, b)
	m := <-messages
	number := func(at int) uint32 { return binary.BigEndian.Uint32(m[at:]) }
	if number(4) != 8 || number(8) != 1 || number(12) != 16 {
		t.Errorf("type %d, options %d, replication %d", number(4), number(8), number(12))
	}
	until := time.UnixMicro(int64(binary.BigEndian.Uint64(m[16:])))
	if until.Before(start.Add(time.Hour)) || until.After(time.Now().Add(time.Hour)) {
		t.Errorf("expires in %v", time.Until(until))
	}
	if keyOf(ref) != [64]byte(m[24:88]) || !bytes.Equal(m[88:], b) {
		t.Error("key or block is another one")
	}
	if limit.n.Load() != 1024 {
		t.Errorf("the limiter was told of %d bytes", limit.n.Load())
	}
}

// TestPutRefused wants each error to be the one that says what to do.
func TestPutRefused(t *testing.T) {
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	all := makeContent(eris.Size1KiB, 40)
	at, stop := serve(t, "", &service{}, nil)
	c := open(t, gnunet.Options{Socket: at})
	if err := c.Put(t.Context(), ref, b[:1000]); !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("a block of 1000 bytes: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Put(ctx, ref, b); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	broken := errors.New("broken")
	limited := open(t, gnunet.Options{Socket: at, Limit: &counter{fail: broken}})
	if err := limited.Put(t.Context(), ref, b); !errors.Is(err, broken) {
		t.Errorf("limiter: %v", err)
	}
	if err := limited.Offer(t.Context(), block.Shared{}, all.open); !errors.Is(err, broken) {
		t.Errorf("limiter of an offer: %v", err)
	}
	if err := c.Offer(t.Context(), block.Shared{}, func(context.Context) (block.Content, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("content that cannot be opened: %v", err)
	}
	if err := c.Offer(t.Context(), block.Shared{}, rotten{all, broken}.open); !errors.Is(err, broken) {
		t.Errorf("content that cannot be read: %v", err)
	}
	stop()
	if err := c.Put(t.Context(), ref, b); err == nil {
		t.Error("put while nobody listens")
	}
	if err := c.Offer(t.Context(), block.Shared{}, all.open); err == nil {
		t.Error("offered while nobody listens")
	}
}

// rotten is a content whose block 35 cannot be read.
type rotten struct {
	content
	err error
}

func (r rotten) open(context.Context) (block.Content, error) { return r, nil }
func (r rotten) Block(ctx context.Context, place int64) (eris.Ref, []byte, error) {
	if place == 35 {
		return eris.Ref{}, nil, r.err
	}
	return r.content.Block(ctx, place)
}

// TestLost restarts the service between requests: they are made once more on a
// connection to the new one.
func TestLost(t *testing.T) {
	ref, b := blocktest.Make(eris.Size1KiB, 1)
	s := memstore.New()
	put(t, s, ref, b)
	socket, stop := serve(t, "", &service{blocks: s}, []eris.Ref{ref})
	c := open(t, gnunet.Options{Socket: socket})
	for range 3 {
		if came := fetched(t, c, eris.Size1KiB, []eris.Ref{ref}); len(came) != 1 {
			t.Error("the block did not come")
		}
		put(t, c, ref, b)
		stop()
		_, stop = serve(t, socket, &service{blocks: s}, []eris.Ref{ref})
	}
}

// TestHostile has a service send what it should not before each block. What it
// says wrongly of blocks is passed over; what is no message ends the connection.
func TestHostile(t *testing.T) {
	all := makeContent(eris.Size1KiB, 8)
	s := memstore.New()
	for i, ref := range all.refs {
		put(t, s, ref, all.blocks[i])
	}
	other := make([]byte, 1024)
	for name, c := range map[string]struct {
		before func(id uint64, key [64]byte) [][]byte
		bad    bool
	}{
		"other blocks": {func(id uint64, key [64]byte) [][]byte {
			return [][]byte{resultOf(id, key, other), resultOf(id, key, nil)}
		}, false},
		"of others":     {func(id uint64, key [64]byte) [][]byte { return [][]byte{resultOf(id+1, key, all.blocks[0])} }, false},
		"too long":      {func(id uint64, key [64]byte) [][]byte { return [][]byte{resultOf(id, key, make([]byte, 65000))} }, false},
		"strange":       {func(uint64, [64]byte) [][]byte { return [][]byte{{0, 6, 1, 1, 1, 1}} }, false},
		"no message":    {func(uint64, [64]byte) [][]byte { return [][]byte{{0, 0, 0, 145}} }, true},
		"HELLOs":        {func(uint64, [64]byte) [][]byte { return [][]byte{bytes.Repeat([]byte{0, 4, 0, 159}, 20)} }, true},
		"path too long": {func(id uint64, key [64]byte) [][]byte { m := resultOf(id, key, nil); m[23] = 1; return [][]byte{m} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			at, _ := serve(t, "", &service{blocks: s, before: c.before}, all.refs)
			client := open(t, gnunet.Options{Socket: at, Idle: 5 * time.Second})
			var n atomic.Int32
			err := client.Fetch(t.Context(), eris.Size1KiB, all.refs, func(i int, b []byte) error {
				if eris.BlockRef(b) != all.refs[i] {
					return eris.ErrCorrupt
				}
				n.Add(1)
				return nil
			})
			if errors.Is(err, eris.ErrCorrupt) || (err != nil) != c.bad || !c.bad && int(n.Load()) != len(all.refs) {
				t.Errorf("%d blocks, %v", n.Load(), err)
			}
		})
	}
}

// TestMissesWaitApart has a service lack most blocks: those that it has do not
// wait for the time that is given to the others.
func TestMissesWaitApart(t *testing.T) {
	t.Parallel()
	all := makeContent(eris.Size1KiB, 40)
	s := memstore.New()
	for i := 0; i < 40; i += 10 {
		put(t, s, all.refs[i], all.blocks[i])
	}
	at, _ := serve(t, "", &service{blocks: s}, all.refs)
	const idle = 3 * time.Second // for each of 9 that are missing in a row, before
	c := open(t, gnunet.Options{Socket: at, InFlight: 1, Idle: idle})
	start := time.Now()
	var last atomic.Int64
	err := c.Fetch(t.Context(), eris.Size1KiB, all.refs, func(int, []byte) error {
		last.Store(int64(time.Since(start)))
		return nil
	})
	if took := time.Duration(last.Load()); err != nil || took == 0 || took > 5*idle {
		t.Errorf("the last block came after %v, %v", took, err)
	}
	if took := time.Since(start) - time.Duration(last.Load()); took < idle {
		t.Errorf("given up %v after the last block", took)
	}
}

// TestClose ends what is under way.
func TestClose(t *testing.T) {
	asked := make(chan struct{})
	var once sync.Once
	at, _ := serve(t, "", &service{before: func(uint64, [64]byte) [][]byte {
		once.Do(func() { close(asked) })
		return nil
	}}, nil)
	c := open(t, gnunet.Options{Socket: at, Idle: time.Minute})
	var work sync.WaitGroup
	work.Go(func() {
		if err := c.Fetch(t.Context(), eris.Size1KiB, make([]eris.Ref, 3), nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
	<-asked
	c.Close()
	work.Wait()
	c.Close()
	if err := c.Fetch(t.Context(), eris.Size1KiB, make([]eris.Ref, 3), nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("afterwards: %v", err)
	}
}
