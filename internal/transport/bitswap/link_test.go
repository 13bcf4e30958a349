package bitswap

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/boxo/bitswap/message"
	pb "github.com/ipfs/boxo/bitswap/message/pb"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"ersatz/eris"
	"ersatz/internal/block/blocktest"
)

const testIdle = 8 * time.Second

// far is the other end of a link in tests.
type far struct {
	*link
	mu   sync.Mutex
	sent []message.BitSwapMessage
	err  error // of sending
}

// newFar returns a link whose goroutines end with the bubble that it is used in.
func newFar(t *testing.T) *far {
	f := &far{}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	t.Cleanup(func() { cancel(); work.Wait() })
	h := &Host{opts: Options{Idle: testIdle}, wire: &wire{}, begin: func(run func(context.Context)) bool {
		work.Go(func() { run(ctx) })
		return true
	}}
	f.link = newLink("far", h)
	f.link.send = func(_ context.Context, _ peer.ID, m message.BitSwapMessage, _ time.Duration) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.sent = append(f.sent, m)
		return f.err
	}
	return f
}

// take returns what was sent since the last time: what was wanted and what was
// taken back.
func (f *far) take(t *testing.T) (wants, cancels []eris.Ref) {
	t.Helper()
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.sent {
		n := 0
		for _, e := range m.Wantlist() {
			ref, ok := toRef(e.Cid)
			switch {
			case !ok:
				t.Errorf("%s is no block's name", e.Cid)
			case e.Cancel:
				cancels = append(cancels, ref)
			case e.WantType != pb.Message_Wantlist_Block || !e.SendDontHave:
				t.Errorf("want is %+v", e)
			default:
				wants = append(wants, ref)
				n++
			}
		}
		if n > perMessage {
			t.Errorf("a message with %d wants", n)
		}
	}
	f.sent = nil
	return wants, cancels
}

// give has a block come.
func (f *far) give(t *testing.T, data []byte) {
	t.Helper()
	b, err := blocks.NewBlockWithCid(data, toCID(eris.BlockRef(data)))
	if err != nil {
		t.Fatal(err)
	}
	f.receive([]blocks.Block{b}, nil)
}

// makeBlocks returns n blocks and their references.
func makeBlocks(n int) (refs []eris.Ref, data [][]byte) {
	for i := range n {
		ref, b := blocktest.Make(eris.Size1KiB, uint64(i))
		refs, data = append(refs, ref), append(data, b)
	}
	return refs, data
}

func TestLinkAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t)
		refs, data := makeBlocks(700)
		to := make(chan answer, len(refs))
		for i, ref := range refs {
			f.ask(ref, ask{i, to})
		}
		wants, cancels := f.take(t)
		if len(wants) != maxOpen || len(cancels) != 0 {
			t.Fatalf("%d wants, %d cancels", len(wants), len(cancels))
		}
		for i := range refs {
			f.give(t, data[i])
			if a := <-to; a.i != i || a.err != nil || a.from != f.link || eris.BlockRef(a.block) != refs[i] {
				t.Fatalf("answer %d: %d %v", i, a.i, a.err)
			}
			synctest.Wait()
		}
		if wants, _ := f.take(t); len(wants) != len(refs)-maxOpen {
			t.Errorf("then %d wants", len(wants))
		}
		if f.running || f.open != 0 || len(f.wants) != 0 {
			t.Errorf("left: running %v, %d open", f.running, f.open)
		}
	})
}

// TestLinkShares has two wait for one block: it is asked for once, and taken back
// only when neither wants it.
func TestLinkShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t)
		refs, data := makeBlocks(1)
		one, two := make(chan answer, 1), make(chan answer, 1)
		f.ask(refs[0], ask{1, one})
		f.ask(refs[0], ask{2, two})
		if wants, _ := f.take(t); len(wants) != 1 {
			t.Errorf("%d wants", len(wants))
		}
		f.drop(refs[0], one)
		if _, cancels := f.take(t); len(cancels) != 0 {
			t.Error("taken back though one wants it")
		}
		f.give(t, data[0])
		if a := <-two; a.i != 2 || a.block == nil {
			t.Errorf("answer %+v", a)
		}
		f.ask(refs[0], ask{1, one})
		f.take(t)
		f.drop(refs[0], one)
		f.drop(refs[0], one) // is nothing any more
		if _, cancels := f.take(t); len(cancels) != 1 {
			t.Errorf("%d taken back", len(cancels))
		}
		if len(one) != 0 {
			t.Error("an answer to what was taken back")
		}
	})
}

// TestLinkLacks has the peer say that it lacks a block: it is told to forget it,
// and may send it all the same.
func TestLinkLacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t)
		refs, data := makeBlocks(2)
		to := make(chan answer, 2)
		f.ask(refs[0], ask{0, to})
		f.take(t)
		f.receive(nil, []cid.Cid{toCID(refs[1]), toCID(refs[0]), cid.Undef})
		if a := <-to; a.i != 0 || a.block != nil || a.err != nil {
			t.Errorf("answer %+v", a)
		}
		if _, cancels := f.take(t); len(cancels) != 1 {
			t.Errorf("%d taken back", len(cancels))
		}
		f.ask(refs[1], ask{1, to})
		f.take(t)
		f.give(t, data[0]) // has it by now
		if len(to) != 0 {
			t.Errorf("answer %+v", <-to)
		}
	})
}

func TestLinkStrangeBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t)
		refs, data := makeBlocks(3)
		f.give(t, data[2]) // nothing is asked for: let it be
		to := make(chan answer, 2)
		f.ask(refs[0], ask{0, to})
		f.ask(refs[1], ask{1, to})
		f.take(t)
		f.give(t, data[0])
		f.give(t, data[0]) // twice is no lie
		if a := <-to; a.block == nil {
			t.Errorf("answer %+v", a)
		}
		f.give(t, data[2])
		if a := <-to; a.i != 1 || !errors.Is(a.err, eris.ErrCorrupt) {
			t.Errorf("answer %+v", a)
		}
	})
}

func TestLinkSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t)
		refs, data := makeBlocks(3)
		to := make(chan answer, 3)
		begin := time.Now()
		for i, ref := range refs[:2] {
			f.ask(ref, ask{i, to})
		}
		time.Sleep(testIdle - time.Second)
		f.give(t, data[0])
		<-to
		f.ask(refs[2], ask{2, to}) // is no answer
		time.Sleep(testIdle / 2)
		f.give(t, data[0]) // nor is what was given before
		for range 2 {
			if a := <-to; !errors.Is(a.err, errSilent) {
				t.Errorf("answer %+v", a)
			}
		}
		if d := time.Since(begin); d != 2*testIdle-time.Second {
			t.Errorf("given up after %v", d)
		}
		if _, cancels := f.take(t); len(cancels) != 2 {
			t.Errorf("%d taken back", len(cancels))
		}
		f.ask(refs[1], ask{1, to}) // it may be back
		f.give(t, data[1])
		if a := <-to; a.block == nil {
			t.Errorf("answer %+v", a)
		}
	})
}

// TestLinkRepeats: a server may forget a want.
func TestLinkRepeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t)
		refs, data := makeBlocks(2)
		to := make(chan answer, 2)
		for i, ref := range refs {
			f.ask(ref, ask{i, to})
		}
		f.take(t)
		f.give(t, data[0])
		for _, after := range []time.Duration{askAgain, askAgain, 2 * askAgain} {
			time.Sleep(after - time.Millisecond)
			if wants, _ := f.take(t); len(wants) != 0 {
				t.Errorf("asked again too early, for %d", len(wants))
			}
			time.Sleep(time.Millisecond)
			if wants, cancels := f.take(t); len(wants) != 1 || wants[0] != refs[1] || len(cancels) != 0 {
				t.Errorf("asked again for %d, %d taken back", len(wants), len(cancels))
			}
		}
		f.give(t, data[1])
		f.give(t, data[1]) // is there as often as it was asked for
		if len(to) != 2 {
			t.Errorf("%d answers", len(to))
		}
	})
}

func TestLinkBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t)
		refs, data := makeBlocks(2)
		to := make(chan answer, 2)
		f.ask(refs[0], ask{0, to})
		f.take(t)
		f.broken(true)
		if wants, _ := f.take(t); len(wants) != 1 {
			t.Errorf("%d asked for again", len(wants))
		}
		f.give(t, data[0])
		if a := <-to; a.block == nil {
			t.Errorf("answer %+v", a)
		}
		f.ask(refs[1], ask{1, to})
		f.take(t)
		f.broken(false)
		if a := <-to; !errors.Is(a.err, errGone) {
			t.Errorf("answer %+v", a)
		}
		if wants, cancels := f.take(t); len(wants)+len(cancels) != 0 {
			t.Errorf("%d wants and %d cancels to nobody", len(wants), len(cancels))
		}
	})
}

func TestLinkCannotSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFar(t)
		f.err = errors.New("no line")
		refs, _ := makeBlocks(1)
		to := make(chan answer, 1)
		f.ask(refs[0], ask{0, to})
		if a := <-to; !errors.Is(a.err, f.err) {
			t.Errorf("answer %+v", a)
		}
	})
}

// TestLinkRemembers what was asked for last, within bounds.
func TestLinkRemembers(t *testing.T) {
	f := newFar(t)
	for i := range 5 * maxAsked {
		f.remember(eris.Ref{byte(i), byte(i >> 8), byte(i >> 16)})
		if n := len(f.asked[0]) + len(f.asked[1]); n > 2*maxAsked || n < min(i, maxAsked) {
			t.Fatalf("%d are remembered of %d", n, i+1)
		}
	}
}
