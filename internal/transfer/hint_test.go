package transfer

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"ersatz/eris"
	"ersatz/internal/keep"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/transport/peer"
)

const zstdFormat = "application/x-nix-archive+zstd-19"

// neighbour is a peer that says and gives what it is told to.
type neighbour struct {
	url string

	mu     sync.Mutex
	held   map[[32]byte]*peer.Held
	blocks n2r.Blocks
	have   int // questions what it has
	asked  int // requests for blocks
}

func newNeighbour(t testing.TB, blocks n2r.Blocks) *neighbour {
	n := &neighbour{held: map[[32]byte]*peer.Held{}, blocks: blocks}
	have := peer.Handler(func(_ context.Context, h [32]byte) *peer.Held {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.held[h]
	})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		count, blocks := &n.asked, n.blocks
		if r.URL.Path == peer.HavePath {
			count = &n.have
		}
		*count++
		n.mu.Unlock()
		if r.URL.Path == peer.HavePath {
			have.ServeHTTP(w, r)
		} else {
			n2r.Handler(blocks).ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	n.url = s.URL
	return n
}

// says has the neighbour say what it has of an item.
func (n *neighbour) says(x *thing, h *peer.Held) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held[x.fields.NarHash] = h
}

// requests returns how often it was asked what it has, and for blocks.
func (n *neighbour) requests() (have, blocks int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.have, n.asked
}

// Of an item whose server knows nothing of ERIS, what one node got is what another
// one gets from it, with the server gone. Who gets the nar makes the same blocks.
func TestHint(t *testing.T) {
	for _, size := range []int{9_000, 200_000, 3 << 20} {
		x := newThing(t, 1, size, "zstd", "gzip").unsigned()
		o := newOrigin(t, x)
		first, alike, second := newMachine(t), newMachine(t), newMachine(t)
		second.named = []string{first.share(nil)}
		second.o.Policy = P2POnly
		first.start().gets(x, o.url)
		alike.start().gets(x, o.url)
		o.down()
		i := first.keeps(x)
		second.start().gets(x, o.url)
		for _, k := range []keep.Item{alike.keeps(x), second.keeps(x)} {
			if k.ReadCap != x.rc || k.ReadCap != i.ReadCap || k.Signed || k.Method != "zstd" || string(k.Narinfo) != string(x.text(t)) {
				t.Errorf("kept as %+v, not %+v", k, i)
			}
		}
	}
}

// A signed URN is what is fetched, whatever is said of others.
func TestSignedWins(t *testing.T) {
	x, y := newThing(t, 1, 2<<20, "zstd"), newThing(t, 2, 2<<20, "zstd")
	o := newOrigin(t, x)
	o.files = nil
	n := newNeighbour(t, y.blocks)
	n.says(x, &peer.Held{ReadCap: y.rc, Format: zstdFormat})
	m := newMachine(t)
	m.named = []string{n.url}
	m.start().gets(x, o.url)
	if i := m.keeps(x); !i.Signed || i.ReadCap != x.rc {
		t.Errorf("kept as %+v", i)
	}
	if have, asked := n.requests(); have == 0 || asked > 0 {
		t.Errorf("asked %d times what it has, %d times for blocks", have, asked)
	}
}

// Wrong hints cost no more than a nar of the signed size, and who gave them is
// remembered; the item comes by its nar.
func TestWrongHint(t *testing.T) {
	const size = 3 << 19
	x := newThing(t, 1, size, "zstd").unsigned()
	same, longer, shorter := newThing(t, 2, size, "zstd"), newThing(t, 3, 3*size, "zstd"), newThing(t, 4, size/3, "zstd")
	// A root that nobody can have encoded.
	odd := bytes.Clone(same.blocks[same.rc.Root])
	rand.NewChaCha8([32]byte{}).Read(odd)
	broken := eris.ReadCap{Size: eris.Size32KiB, Level: 1, Root: eris.BlockRef(odd)}
	huge := same.rc
	huge.Level = 9
	for _, c := range []struct {
		name   string
		rc     eris.ReadCap
		format string
		blocks blocks
	}{
		{"another nar", same.rc, zstdFormat, same.blocks},
		{"a longer one", longer.rc, zstdFormat, longer.blocks},
		{"a shorter one", shorter.rc, zstdFormat, shorter.blocks},
		{"a huge one", huge, zstdFormat, same.blocks},
		{"a broken tree", broken, zstdFormat, blocks{broken.Root: odd}},
		{"another form", x.rc, "application/x-nix-archive+gzip-9", x.blocks},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newOrigin(t, x)
			liar, part := newNeighbour(t, c.blocks), newNeighbour(t, c.blocks)
			liar.says(x, &peer.Held{ReadCap: c.rc, Format: c.format})
			part.says(x, &peer.Held{ReadCap: c.rc, Format: c.format, Part: true}) // it was told so
			m := newMachine(t)
			m.named = []string{liar.url, part.url}
			m.start()
			b, err := m.get(x.want(t, o.url))
			if errors.Is(err, errGiven) { // it was given some of the wrong one
				b, err = m.get(x.want(t, o.url))
			}
			if err != nil || !bytes.Equal(b, x.nar) {
				t.Fatalf("%d bytes, %v\n%s", len(b), err, m.log.String())
			}
			m.keeps(x)
			if n, _ := o.gave("nar"); n != len(x.files["zstd"]) {
				t.Errorf("%d bytes of the nar came", n)
			}
			if e := m.book.Entry(liar.url); e.Lied.IsZero() || e.Bytes > size*2 {
				t.Errorf("liar: %+v", e)
			}
			if !strings.Contains(m.log.String(), `"peer lied about a nar"`) || !strings.Contains(m.log.String(), "peer="+liar.url) {
				t.Errorf("the liar is not named:\n%s", m.log.String())
			}
			if err := m.book.Usable(part.url); err != nil {
				t.Errorf("who was told so: %v", err)
			}
			// Nor is it asked after a restart.
			m.stop()
			m.start()
			before, _ := liar.requests()
			other, _ := part.requests()
			m.gets(same, newOrigin(t, same).url)
			if after, _ := liar.requests(); after != before {
				t.Error("the liar was asked again")
			}
			if after, _ := part.requests(); after == other {
				t.Error("the other one was not")
			}
		})
	}
}

// A wrong hint does not keep an item from coming by the right one.
func TestRightHint(t *testing.T) {
	x, y := newThing(t, 1, 2<<20, "zstd").unsigned(), newThing(t, 2, 2<<20, "zstd")
	liar, good := newNeighbour(t, y.blocks), newNeighbour(t, x.blocks)
	liar.says(x, &peer.Held{ReadCap: y.rc, Format: zstdFormat})
	good.says(x, &peer.Held{ReadCap: x.rc, Format: zstdFormat})
	m := newMachine(t)
	m.o.Policy = P2POnly
	m.named = []string{liar.url, good.url}
	m.start()
	if _, err := m.get(x.want(t, "http://127.0.0.1:1")); err != nil && !errors.Is(err, errGiven) {
		t.Fatal(err)
	}
	m.keeps(x)
	m.gets(x, "http://127.0.0.1:1")
	if m.book.Usable(good.url) != nil || !m.book.Entry(good.url).Lied.IsZero() {
		t.Error("the wrong one is blamed")
	}
}

// Nor does the right one in a wrong form.
func TestRightHintInAnotherForm(t *testing.T) {
	x := newThing(t, 1, 2<<20, "zstd").unsigned()
	liar, good := newNeighbour(t, x.blocks), newNeighbour(t, x.blocks)
	liar.says(x, &peer.Held{ReadCap: x.rc, Format: "application/x-nix-archive+gzip-9"})
	good.says(x, &peer.Held{ReadCap: x.rc, Format: zstdFormat})
	m := newMachine(t)
	m.o.Policy = P2POnly
	m.named = []string{liar.url, good.url}
	m.start()
	m.gets(x, "http://127.0.0.1:1")
	m.keeps(x)
	if m.book.Entry(liar.url).Lied.IsZero() || !m.book.Entry(good.url).Lied.IsZero() {
		t.Error("the wrong one is blamed")
	}
}

// Who says that he has a part of a wrong content may have been told so, and does so
// again for each item: readers get none of it where a server has the nar.
func TestHintOfAPart(t *testing.T) {
	m := newMachine(t)
	said := newNeighbour(t, nil)
	m.named = []string{said.url}
	m.start()
	for k := range 3 {
		x, wrong := newThing(t, byte(2*k+1), 2<<20, "zstd").unsigned(), newThing(t, byte(2*k+2), 2<<20, "zstd")
		said.says(x, &peer.Held{ReadCap: wrong.rc, Format: zstdFormat, Part: true, Leaves: bytes.Repeat([]byte{0xff}, 10)})
		said.mu.Lock()
		said.blocks = wrong.blocks
		said.mu.Unlock()
		m.gets(x, newOrigin(t, x).url)
	}
}
