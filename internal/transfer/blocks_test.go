package transfer

import (
	"bytes"
	"context"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"ersatz/eris"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/transport/peer"
)

// lying gives a wrong block now and then.
type lying struct {
	n2r.Blocks
	count *atomic.Int32 // blocks given
	every int32
}

func (l lying) Batch(ctx context.Context, refs []eris.Ref, emit func(int, []byte) error) error {
	return l.Blocks.Batch(ctx, refs, func(i int, block []byte) error {
		if block != nil && l.count.Add(1)%l.every == 0 {
			block = bytes.Clone(block)
			block[len(block)/2] ^= 1
		}
		return emit(i, block)
	})
}

func (l lying) Get(ctx context.Context, ref eris.Ref) (block []byte, err error) {
	err = l.Batch(ctx, []eris.Ref{ref}, func(_ int, b []byte) error {
		block = b
		return nil
	})
	if err == nil && block == nil {
		err = &eris.MissingError{Ref: ref}
	}
	return block, err
}

// One peer lies in every tenth block, one gives nothing any more, one breaks its
// connections, and one does as it should: all is right, the liar is named, and the
// node knows that after a restart.
func TestBadPeers(t *testing.T) {
	x := newThing(t, 1, 12<<20, "zstd")
	var given atomic.Int32
	end := make(chan struct{})
	liar := newNeighbour(t, lying{x.blocks, &given, 10})
	good := newNeighbour(t, x.blocks)
	stalls := newNeighbour(t, stalling{x.blocks, end})
	resets := newNeighbour(t, resetting{x.blocks})
	t.Cleanup(func() { close(end) }) // before the servers close
	m := newMachine(t)
	m.o.Policy = P2POnly
	for _, n := range []*neighbour{liar, stalls, resets, good} {
		n.says(x, &peer.Held{ReadCap: x.rc, Format: zstdFormat})
		m.named = append(m.named, n.url)
	}
	m.start().gets(x, "http://127.0.0.1:1")
	m.keeps(x)
	check := func() {
		t.Helper()
		if err := m.book.Usable(liar.url); err == nil || !strings.HasPrefix(err.Error(), "lied on ") {
			t.Errorf("liar: %v", err)
		}
		for _, n := range []*neighbour{good, stalls, resets} {
			if e := m.book.Entry(n.url); !e.Lied.IsZero() {
				t.Errorf("%s is taken for a liar: %+v", n.url, e)
			}
		}
		if err := m.book.Usable(good.url); err != nil {
			t.Error(err)
		}
	}
	check()
	named := regexp.MustCompile(`level=WARN msg="source of blocks dropped" .*source=` + liar.url + ` .*do not match`)
	if log := m.log.String(); !named.MatchString(log) {
		t.Errorf("the liar is not named:\n%s", log)
	}
	m.stop()
	m.start()
	check()
}

// stalling gives some blocks, then nothing until end.
type stalling struct {
	blocks
	end chan struct{}
}

func (s stalling) Batch(ctx context.Context, refs []eris.Ref, emit func(int, []byte) error) error {
	return s.blocks.Batch(ctx, refs, func(i int, block []byte) error {
		if i == 3 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-s.end:
			}
		}
		return emit(i, block)
	})
}

// resetting gives some blocks, then breaks the connection.
type resetting struct{ blocks }

func (r resetting) Batch(ctx context.Context, refs []eris.Ref, emit func(int, []byte) error) error {
	return r.blocks.Batch(ctx, refs, func(i int, block []byte) error {
		if i > 0 {
			panic(http.ErrAbortHandler)
		}
		return emit(i, block)
	})
}

func (r resetting) Get(context.Context, eris.Ref) ([]byte, error) { panic(http.ErrAbortHandler) }

// The origin dies half way while a peer has half, and later all: it comes, and
// nothing of a nar is asked for.
func TestOriginDies(t *testing.T) {
	x := newThing(t, 1, 8<<20, "none")
	o := newOrigin(t, x)
	leaves := len(x.files["none"])/int(x.rc.Size) + 1
	bits := make([]byte, (leaves+7)/8)
	half, _ := x.without(func(l int, i int64) bool { return l == 0 && i < int64(leaves/2) })
	for k := leaves / 2; k < leaves; k++ {
		bits[k/8] |= 0x80 >> (k % 8)
	}
	n := newNeighbour(t, half)
	n.says(x, &peer.Held{ReadCap: x.rc, Format: zstdFormat, Part: true, Leaves: bits})
	source := dying{x.blocks, new(atomic.Int32), int32(leaves / 4), func() {
		n.mu.Lock()
		n.blocks = x.blocks
		n.mu.Unlock()
		n.says(x, &peer.Held{ReadCap: x.rc, Format: zstdFormat})
	}}
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/nar/") {
			return false
		}
		n2r.Handler(source).ServeHTTP(w, r)
		return true
	})
	m := newMachine(t)
	m.o.Stall = 10 * stallOfRig
	m.named = []string{n.url}
	m.start().gets(x, o.url)
	m.keeps(x)
	if got, asked := o.gave("nar"); got > 0 || asked > 0 {
		t.Errorf("%d bytes of a nar", got)
	}
	if e := m.book.Entry(n.url); e.Bytes < int64(len(x.nar)*3/4-len(x.nar)/10) || source.count.Load() <= source.limit {
		t.Errorf("%d bytes came from the peer", e.Bytes)
	}
}

// dying gives so many blocks, and then none for ever.
type dying struct {
	blocks
	count *atomic.Int32
	limit int32
	dies  func()
}

func (d dying) Batch(ctx context.Context, refs []eris.Ref, emit func(int, []byte) error) error {
	return d.blocks.Batch(ctx, refs, func(i int, block []byte) error {
		switch n := d.count.Add(1); {
		case n <= d.limit:
			return emit(i, block)
		case n == d.limit+1:
			d.dies()
		}
		panic(http.ErrAbortHandler)
	})
}

func (d dying) Get(ctx context.Context, ref eris.Ref) (block []byte, err error) {
	err = d.Batch(ctx, []eris.Ref{ref}, func(_ int, b []byte) error {
		block = b
		return nil
	})
	return block, err
}
