package transfer

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"ersatz/eris"
	"ersatz/internal/transport/n2r"
)

// recode has the thing's URN be one of blocks of another size.
func (x *thing) recode(t testing.TB, size eris.BlockSize) *thing {
	t.Helper()
	x.blocks, x.refs, x.nodes = blocks{}, nil, nil
	var err error
	x.rc, _, err = eris.Encode(bytes.NewReader(x.files[x.order[0]]), size, eris.Secret{}, func(b eris.Block) error {
		x.blocks[b.Ref] = bytes.Clone(b.Data)
		x.refs = append(x.refs, b.Ref)
		x.nodes = append(x.nodes, eris.Block{Ref: b.Ref, Level: b.Level, Index: b.Index})
		return nil
	})
	must(t, err)
	x.fields.ERIS = x.rc.URN()
	return x
}

// without returns the thing's blocks but for those that drop says, and how many
// bytes of the content that leaves out.
func (x *thing) without(drop func(level int, index int64) bool) (rest blocks, missing int) {
	rest = maps.Clone(x.blocks)
	file, size := len(x.files[x.order[0]]), int(x.rc.Size)
	for _, n := range x.nodes {
		under := drop(n.Level, n.Index) || n.Level == 0 && drop(1, n.Index/int64(x.rc.Size.Arity()))
		if drop(n.Level, n.Index) {
			delete(rest, n.Ref)
		}
		if n.Level == 0 && under {
			missing += min(file-int(n.Index)*size, size)
		}
	}
	return rest, missing
}

// requests notes the ranges that are asked for of nars, "" for a whole one.
type requests struct {
	mu     sync.Mutex
	ranges []string
}

func (q *requests) note(r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/nar/") {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.ranges = append(q.ranges, r.Header.Get("Range"))
	}
}

// all returns them, and forgets them.
func (q *requests) all() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.ranges
	q.ranges = nil
	return all
}

// wholes counts the requests for whole nars.
func wholes(ranges []string) (n int) {
	for _, r := range ranges {
		if r == "" {
			n++
		}
	}
	return n
}

// What no source of blocks has comes by ranges of the nar: nothing else does, and
// nothing comes twice.
func TestCompleted(t *testing.T) {
	const kib = 1 << 10
	for _, c := range []struct {
		name   string
		size   int
		block  eris.BlockSize
		method string
		drop   func(level int, index int64) bool
		signed bool // what is kept has the signed URN
	}{
		{"every other leaf", 1100 * kib, eris.Size32KiB, "zstd", func(l int, i int64) bool { return l == 0 && i%2 == 1 }, true},
		{"the first leaves", 1100 * kib, eris.Size32KiB, "gzip", func(l int, i int64) bool { return l == 0 && i < 9 }, true},
		{"the last leaf", 1100*kib + 1, eris.Size32KiB, "none", func(l int, i int64) bool { return l == 0 && i >= 34 }, true},
		{"padding alone", 1120 * kib, eris.Size32KiB, "none", func(l int, i int64) bool { return l == 0 && i == 35 }, true},
		{"padding and more", 1120 * kib, eris.Size32KiB, "none", func(l int, i int64) bool { return l == 0 && i > 20 }, true},
		{"all leaves", 1100 * kib, eris.Size32KiB, "zstd", func(l int, _ int64) bool { return l == 0 }, true},
		{"the root", 1100 * kib, eris.Size32KiB, "zstd", func(l int, _ int64) bool { return l == 1 }, true},
		{"small blocks", 1100 * kib, eris.Size1KiB, "none", func(l int, i int64) bool { return l == 0 && i%100 == 0 }, true},
		{"internal nodes", 1100 * kib, eris.Size1KiB, "none", func(l int, i int64) bool { return l == 1 && i%7 == 3 }, false},
		{"an internal node", 17 << 20, eris.Size32KiB, "none", func(l int, i int64) bool { return l == 1 && i == 1 }, true},
		{"the end of the tree", 1120 * kib, eris.Size1KiB, "none", func(l int, i int64) bool { return l == 1 && i > 60 }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newThing(t, 1, c.size, c.method).recode(t, c.block)
			o := newOrigin(t, x)
			var missing int
			o.blocks, missing = x.without(c.drop)
			var q requests
			o.set(func(_ http.ResponseWriter, r *http.Request) bool {
				q.note(r)
				return false
			})
			m := newMachine(t).start()
			m.gets(x, o.url)
			i := m.keeps(x)
			if i.Signed != c.signed || c.signed && i.ReadCap != x.rc {
				t.Errorf("kept with URN %s, signed %v", i.ReadCap.URN(), i.Signed)
			}
			ranges := q.all()
			if n, _ := o.gave("nar"); n != missing || wholes(ranges) > 0 {
				t.Errorf("%d bytes of the nar came, %d are missing; asked for %q", n, missing, ranges)
			}
			// What is kept has all blocks.
			served := m.store.Blocks(nil)
			for ref := range x.blocks {
				if _, err := served.Get(t.Context(), ref); err != nil && c.signed {
					t.Fatal(err)
				}
			}
		})
	}
}

// A server whose blocks end in the middle, also while the node was away, gives
// the rest by ranges.
func TestBlocksDie(t *testing.T) {
	for _, restart := range []bool{false, true} {
		x := newThing(t, 1, 16<<20, "zstd")
		o := newOrigin(t, x)
		size := len(x.files["zstd"])
		var q requests
		die := func(kinds string) {
			o.set(func(_ http.ResponseWriter, r *http.Request) bool {
				q.note(r)
				if n, _ := o.gave("eris"); n > size/3 && strings.Contains(kinds, strings.Split(r.URL.Path, "/")[1]) {
					panic(http.ErrAbortHandler)
				}
				return false
			})
		}
		m := newMachine(t).start()
		if restart {
			die("eris uri-res nar")
			if _, err := m.get(x.want(t, o.url)); err == nil {
				t.Fatal("no error")
			}
			m.stop()
			m.start()
			q.all()
		}
		die("eris uri-res")
		m.gets(x, o.url)
		m.keeps(x)
		a, _ := o.gave("nar")
		b, _ := o.gave("eris")
		// What was asked for when the source failed is lost: 4 calls of 32 blocks.
		if ranges := q.all(); a == 0 || wholes(ranges) > 0 || a+b > size+4<<20+64<<10 {
			t.Errorf("%d bytes by blocks, %d by ranges %q of a file of %d", b, a, ranges, size)
		}
	}
}

// Ranges of what may be another file are no help: the nar comes anew.
func TestNotCompleted(t *testing.T) {
	x := newThing(t, 1, 1100<<10, "none").recode(t, eris.Size1KiB)
	path := "/nar/none/" + x.fields.StorePath.Base()
	file := x.files["none"]
	other := bytes.Clone(file)
	for k := range other {
		other[k] ^= 1
	}
	leaves := func(l int, i int64) bool { return l == 0 && i%100 == 50 }
	nodes := func(l int, i int64) bool { return l == 1 && i%10 == 5 }
	for _, c := range []struct {
		name   string
		drop   func(level int, index int64) bool
		answer func(w http.ResponseWriter, r *http.Request) // a range
	}{
		{"no ranges", leaves, func(w http.ResponseWriter, r *http.Request) {
			w.Write(file)
		}},
		{"another ETag each time", leaves, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", fmt.Sprintf("%q", r.Header.Get("Range")))
			http.ServeContent(w, r, "", zeroTime, bytes.NewReader(file))
		}},
		{"another size", leaves, func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", zeroTime, bytes.NewReader(append(bytes.Clone(file), 0)))
		}},
		{"other bytes", leaves, func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", zeroTime, bytes.NewReader(other))
		}},
		{"other bytes, which NarHash shows", nodes, func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", zeroTime, bytes.NewReader(other))
		}},
		{"errors", leaves, func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "no", http.StatusInternalServerError)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newOrigin(t, x)
			o.blocks, _ = x.without(c.drop)
			var q requests
			o.set(func(w http.ResponseWriter, r *http.Request) bool {
				q.note(r)
				if r.URL.Path != path || r.Header.Get("Range") == "" {
					return false
				}
				w.Header().Set("ETag", `"1"`)
				c.answer(w, r)
				return true
			})
			m := newMachine(t).start()
			w := x.want(t, o.url)
			b, err := m.get(w)
			if err != nil && strings.Contains(c.name, "NarHash") {
				b, err = m.get(w) // it was given some of the wrong one
			}
			if err != nil || !bytes.Equal(b, x.nar) {
				t.Fatalf("%d bytes, %v\n%s", len(b), err, m.log.String())
			}
			m.keeps(x)
			if ranges := q.all(); wholes(ranges) != 1 || len(ranges) < 2 {
				t.Errorf("asked for %q", ranges)
			}
		})
	}
}

// Only a server whose signed narinfo names the URN completes its blocks, and no
// server does for a node that takes bytes from peers alone.
func TestCompletedByWhom(t *testing.T) {
	x := newThing(t, 1, 1100<<10, "zstd")
	y := *x
	y.unsigned()
	has, names := newOrigin(t, x), newOrigin(t)
	names.blocks, _ = x.without(func(l int, i int64) bool { return l == 0 && i == 3 })
	has.blocks = nil
	var q requests
	has.set(func(_ http.ResponseWriter, r *http.Request) bool {
		q.note(r)
		return false
	})
	m := newMachine(t).start()
	m.receives(x, choose(t, x.fields.StorePath, answer(t, x, names.url), answer(t, &y, has.url)))
	if ranges := q.all(); len(ranges) != 1 || wholes(ranges) != 1 {
		t.Errorf("asked for %q", ranges)
	}

	peer := newMachine(t).start()
	peer.gets(x, has.url)
	peer.keeps(x)
	has.set(nil)
	has.blocks = x.blocks
	only := newMachine(t)
	only.o.Policy = P2POnly
	only.named = []string{peer.share(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == n2r.BatchPath || r.URL.Path == n2r.BlockPath {
				n2r.Handler(names.blocks).ServeHTTP(w, r)
				return
			}
			h.ServeHTTP(w, r)
		})
	})}
	a, _ := has.gave("nar")
	if _, err := only.start().get(x.want(t, has.url)); err == nil {
		t.Error("came without a block")
	}
	if b, _ := has.gave("nar"); a != b {
		t.Error("a nar was asked for")
	}
}

// A range that breaks off goes on behind what has arrived, but for one block.
func TestRangesBreakOff(t *testing.T) {
	x := newThing(t, 1, 1100<<10, "none")
	o := newOrigin(t, x)
	var missing int
	o.blocks, missing = x.without(func(l int, i int64) bool { return l == 0 && i > 3 })
	const each = 100_000
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/nar/") {
			return false
		}
		o.serveSome(w, r, each)
		return true
	})
	m := newMachine(t).start()
	m.gets(x, o.url)
	m.keeps(x)
	n, asked := o.gave("nar")
	if asked < missing/each || n > missing+asked*int(x.rc.Size) {
		t.Errorf("%d bytes in %d pieces, %d were missing", n, asked, missing)
	}
}
