package transfer

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"ersatz/internal/keep"
	"ersatz/internal/node"
)

// What an item comes by, and that it is kept and served again with nobody there.
func TestWays(t *testing.T) {
	for _, c := range []struct {
		name    string
		size    int
		methods string
		signed  bool
		kind    string // of what the origin is asked for
		method  string // in which it is kept
	}{
		{"small", 5_000, "zstd", true, "nar", "zstd"},
		{"small, of any form", 100_000, "lzip zstd gzip", false, "nar", "zstd"},
		{"large with a URN", 3 << 20, "zstd", true, "eris", "zstd"},
		{"large without", 2 << 20, "none gzip", false, "nar", "gzip"},
		{"not compressed", 1 << 20, "none", true, "nar", "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := newThing(t, 1, c.size, strings.Fields(c.methods)...)
			if !c.signed {
				x.unsigned()
			}
			o := newOrigin(t, x)
			m := newMachine(t).start()
			m.gets(x, o.url)
			i := m.keeps(x)
			if i.Method != c.method || i.Signed != c.signed || string(i.Narinfo) != string(x.text(t)) || i.Server != o.url || !i.Asked {
				t.Errorf("kept as %+v", i)
			}
			if c.signed && i.ReadCap != x.rc {
				t.Error("another read capability")
			}
			for _, kind := range []string{"nar", "eris"} {
				if n, _ := o.gave(kind); (n > 0) != (kind == c.kind) || n > len(x.files[c.method])*21/20+2000 {
					t.Errorf("%d bytes as %s", n, kind)
				}
			}
			o.down()
			m.gets(x, o.url)
			m.stop()
			m.start().gets(x, o.url)
		})
	}
}

// Many who ask at once share one fetch.
func TestShared(t *testing.T) {
	for _, size := range []int{100_000, 3 << 20} {
		x := newThing(t, 1, size, "zstd")
		o := newOrigin(t, x)
		m := newMachine(t).start()
		var work sync.WaitGroup
		for range 10 {
			work.Go(func() { m.gets(x, o.url) })
		}
		work.Wait()
		a, _ := o.gave("nar")
		b, _ := o.gave("eris")
		if n := len(x.files["zstd"]); a+b > n*21/20+2000 {
			t.Errorf("%d bytes for a file of %d", a+b, n)
		}
	}
}

// Nobody has it, or all fail: before the first byte that is an error of Get.
func TestNone(t *testing.T) {
	x := newThing(t, 1, 100_000, "zstd")
	m := newMachine(t).start()
	w := x.want(t, "http://127.0.0.1:1")
	b := *w.Choice.Builds[0]
	b.Nars, b.Content.Servers = nil, nil
	w.Choice.Builds[0] = &b
	if _, err := m.get(w); !errors.Is(err, node.ErrNone) {
		t.Errorf("without a server: %v", err)
	}
	if _, err := m.get(x.want(t, "http://127.0.0.1:1")); err == nil || errors.Is(err, node.ErrNone) {
		t.Errorf("server is down: %v", err)
	}
	o := newOrigin(t)
	if _, err := m.get(x.want(t, o.url)); err == nil || !strings.Contains(err.Error(), o.url) {
		t.Errorf("server has it not: %v", err)
	}
	must(t, m.trans.Close())
	if _, err := m.get(w); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// What is another nar than the signed one is never given whole nor kept, and the
// next source is asked.
func TestWrong(t *testing.T) {
	for _, size := range []int{50_000, 300_000, 3 << 20} {
		x, y := newThing(t, 1, size, "zstd"), newThing(t, 2, size, "zstd")
		x.unsigned()
		bad, good := newOrigin(t, x), newOrigin(t, x)
		bad.files["/nar/zstd/"+x.fields.StorePath.Base()] = y.files["zstd"]
		m := newMachine(t).start()
		if b, err := m.get(x.want(t, bad.url)); err == nil || len(b) > size-heldBack && len(b) > 0 {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		m.settled()
		if _, err := m.store.Get(x.fields.StorePath.Hash); !errors.Is(err, keep.ErrNone) {
			t.Errorf("kept: %v", err)
		}
		if size <= heldBack { // nothing was given of the wrong one
			m.gets(x, bad.url, good.url)
		}
		m.gets(x, good.url)
		m.keeps(x)
	}
}

// A nar that is cut goes on by Range where the server has an ETag.
func TestNarGoesOn(t *testing.T) {
	for _, etag := range []bool{true, false} {
		x := newThing(t, 1, 600_000, "zstd").unsigned()
		o := newOrigin(t, x)
		o.noETag = !etag
		var cut atomic.Int32
		o.set(func(w http.ResponseWriter, r *http.Request) bool {
			if cut.Add(1) > 3 || !strings.HasPrefix(r.URL.Path, "/nar/") {
				return false
			}
			http.ResponseWriter.Header(w).Set("X-Cut", "1")
			o.serveSome(w, r, 150_000)
			return true
		})
		m := newMachine(t).start()
		_, err := m.get(x.want(t, o.url))
		n, _ := o.gave("nar")
		if !etag {
			continue
		}
		if err != nil || n > len(x.files["zstd"])+1000 {
			t.Errorf("%d bytes were given, %v\n%s", n, err, m.log.String())
		}
	}
}

// serveSome serves a file, and breaks off after n bytes.
func (o *origin) serveSome(w http.ResponseWriter, r *http.Request, n int) {
	file := o.files[r.URL.Path]
	if !o.noETag {
		w.Header().Set("ETag", `"1"`)
	}
	rec := &breaking{ResponseWriter: w, left: n}
	http.ServeContent(rec, r, "", zeroTime, newReader(file))
}

// A part that a killed node left is gone on with.
func TestRestart(t *testing.T) {
	for _, signed := range []bool{true, false} {
		x := newThing(t, 1, 16<<20, "zstd")
		kind := "eris"
		if !signed {
			x.unsigned()
			kind = "nar"
		}
		o := newOrigin(t, x)
		m := newMachine(t).start()
		most := len(x.files["zstd"]) * 3 / 4
		o.set(func(w http.ResponseWriter, r *http.Request) bool {
			if n, _ := o.gave(kind); n > most {
				panic(http.ErrAbortHandler)
			}
			if strings.HasPrefix(r.URL.Path, "/nar/") {
				o.serveSome(w, r, most+1)
				return true
			}
			return false
		})
		if _, err := m.get(x.want(t, o.url)); err == nil {
			t.Fatal("no error")
		}
		m.stop()
		o.set(nil)
		m.start().gets(x, o.url)
		a, _ := o.gave("nar")
		b, _ := o.gave("eris")
		// What was asked for when the source failed is lost: 4 calls of 64 blocks.
		if n := len(x.files["zstd"]); a+b > n+8<<20+64<<10 {
			t.Errorf("signed %v: %d bytes for a file of %d", signed, a+b, n)
		}
		m.keeps(x)
	}
}

// What rots on disk is removed and fetched again, behind what was given.
func TestRotten(t *testing.T) {
	x := newThing(t, 1, 400_000, "none")
	o := newOrigin(t, x)
	m := newMachine(t).start()
	m.gets(x, o.url)
	m.keeps(x)
	name := filepath.Join(m.dir, "nar", "none", x.fields.StorePath.Base())
	b, err := os.ReadFile(name)
	must(t, err)
	b[len(b)-1]++
	must(t, os.WriteFile(name, b, 0o644))
	m.gets(x, o.url)
	if n, _ := o.gave("nar"); n != 2*len(x.nar) {
		t.Errorf("%d bytes were fetched", n)
	}
	m.keeps(x)
	m.gets(x, o.url)
}

// A record that cannot be read does not stand in the way of its item.
func TestRottenRecord(t *testing.T) {
	x := newThing(t, 1, 40_000, "zstd")
	o := newOrigin(t, x)
	m := newMachine(t).start()
	m.gets(x, o.url)
	m.keeps(x)
	must(t, os.WriteFile(filepath.Join(m.dir, "narinfo", x.fields.StorePath.Hash), []byte("ersatz-keep-0\n"), 0o644))
	m.gets(x, o.url)
	m.keeps(x)
	o.down()
	m.gets(x, o.url)
}

// For others nothing is fetched, nor ahead of what they ask for.
func TestForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		things := chain(t, 2)
		s := newServers(things...)
		trans, _, _ := bubbled(t, s, Options{})
		query(t, trans, things...)
		for k, x := range things {
			w := x.want(t, "http://server.example")
			w.Kept = true
			if _, err := trans.Get(t.Context(), w); !errors.Is(err, node.ErrNone) {
				t.Errorf("item %d: %v", k, err)
			}
		}
		synctest.Wait()
		if asked, _, _ := s.did(); len(asked) > 0 {
			t.Errorf("asked for %q", asked)
		}
		gotten(t, trans, things[1])
		synctest.Wait()
		w := things[0].want(t, "http://server.example") // was fetched ahead
		w.Kept = true
		n, err := trans.Get(t.Context(), w)
		must(t, err)
		if b, err := io.ReadAll(n); err != nil || !bytes.Equal(b, things[0].nar) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		must(t, n.Close())
	})
}
