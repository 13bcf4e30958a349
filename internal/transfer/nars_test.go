package transfer

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ersatz/internal/durable"
	"ersatz/internal/keep"
	"ersatz/internal/transport/n2r"
)

// rot changes a byte of each part's content.
func (m *machine) rot(at int64) {
	m.t.Helper()
	names, err := filepath.Glob(m.dir + "/parts/*/content")
	must(m.t, err)
	if len(names) == 0 {
		m.t.Fatal("there is no part")
	}
	for _, name := range names {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		must(m.t, err)
		b := make([]byte, 1)
		_, err = f.ReadAt(b, at)
		must(m.t, err)
		b[0] ^= 1
		_, err = f.WriteAt(b, at)
		must(m.t, err)
		must(m.t, f.Close())
	}
}

// What a part of a nar had is not trusted: if the whole is wrong, it comes anew from
// the same server. Of blocks, those that are wrong come again.
func TestRottenPart(t *testing.T) {
	for _, signed := range []bool{false, true} {
		x := newThing(t, 1, 2<<20, "zstd")
		if !signed {
			x.unsigned()
		}
		o := newOrigin(t, x)
		size := len(x.files["zstd"])
		half, _ := x.without(func(l int, i int64) bool { return l == 0 && i >= 32 })
		o.set(func(w http.ResponseWriter, r *http.Request) bool {
			a, _ := o.gave("nar")
			switch nar := strings.HasPrefix(r.URL.Path, "/nar/"); {
			case !nar:
				n2r.Handler(half).ServeHTTP(w, r)
			case signed:
				http.NotFound(w, r)
			case a == 0:
				o.serveSome(w, r, size/2)
			default:
				panic(http.ErrAbortHandler)
			}
			return true
		})
		m := newMachine(t).start()
		if _, err := m.get(x.want(t, o.url)); err == nil {
			t.Fatal("no error")
		}
		before, _ := o.gave("nar")
		m.stop()
		m.rot(1) // in the magic number
		o.set(nil)
		m.start().gets(x, o.url)
		if i := m.keeps(x); i.ReadCap != x.rc {
			t.Errorf("kept as %+v", i)
		}
		a, _ := o.gave("nar")
		b, _ := o.gave("eris")
		a -= before
		if !signed && (a < size || a > size-size/2+size || b > 0) {
			t.Errorf("%d bytes of the nar came", a) // the rest may be cut off
		}
		if signed && a > 0 {
			t.Errorf("%d bytes of the nar came", a)
		}
	}
}

// A nar that is wrong each time is begun anew once, where it was put together.
func TestPiecesOfWrongNars(t *testing.T) {
	x, y := newThing(t, 1, 600_000, "zstd").unsigned(), newThing(t, 2, 600_000, "zstd")
	o := newOrigin(t, x)
	o.files["/nar/zstd/"+x.base()] = y.files["zstd"]
	var asked atomic.Int32
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		if asked.Add(1)%2 == 1 {
			o.serveSome(w, r, 300_000)
			return true
		}
		return false
	})
	m := newMachine(t).start()
	if _, err := m.get(x.want(t, o.url)); err == nil {
		t.Error("no error")
	}
	m.settled()
	if n := asked.Load(); n != 4 {
		t.Errorf("%d requests", n)
	}
}

// A nar without an end is read as far as the signed size allows, and once.
func TestEndless(t *testing.T) {
	x := newThing(t, 1, 900_000, "none", "zstd").unsigned()
	bad, good := newOrigin(t), newOrigin(t, x)
	var asked atomic.Int32
	bad.set(func(w http.ResponseWriter, r *http.Request) bool {
		asked.Add(1)
		for range 1000 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				break
			}
			http.NewResponseController(w.(*counting).ResponseWriter).Flush()
		}
		return true
	})
	m := newMachine(t).start()
	w := x.want(t, bad.url, good.url)
	if b, err := m.get(w); err == nil && len(b) != len(x.nar) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	m.keeps(x)
	m.receives(x, w)
	if n := asked.Load(); n > 2 { // zstd and none
		t.Errorf("asked %d times", n)
	}
	if e := m.book.Entry("nar " + bad.url); e.Bytes > 4<<20 {
		t.Errorf("%d bytes were taken of a nar of %d", e.Bytes, len(x.nar))
	}
}

// What has come whole and could not be kept is not fetched again.
func TestKeptLater(t *testing.T) {
	for _, signed := range []bool{true, false} {
		x := newThing(t, 1, 2<<20, "zstd")
		if !signed {
			x.unsigned()
		}
		o := newOrigin(t, x)
		m := newMachine(t).start()
		restore := durable.SetFaultForTest(func(op, path string) error {
			if op == "rename" && strings.Contains(path, "/nar/") {
				return syscall.EIO
			}
			return nil
		})
		m.gets(x, o.url) // who reads it has it all the same
		m.settled()
		restore()
		if _, err := m.store.Get(x.fields.StorePath.Hash); !errors.Is(err, keep.ErrNone) {
			t.Fatalf("kept: %v", err)
		}
		a, _ := o.gave("nar")
		b, _ := o.gave("eris")
		m.stop()
		m.start().gets(x, o.url)
		m.keeps(x)
		c, _ := o.gave("nar")
		d, _ := o.gave("eris")
		if a != c || b != d || a+b < len(x.files["zstd"]) {
			t.Errorf("signed %v: %d bytes came, then %d", signed, a+b, c+d-a-b)
		}
	}
}

// A server that gives nothing is waited for once, whatever forms of the nar it has.
func TestSilentServer(t *testing.T) {
	x := newThing(t, 1, 40_000, "zstd", "gzip", "none").unsigned()
	silent, good := newOrigin(t), newOrigin(t, x)
	silent.set(func(_ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	})
	m := newMachine(t)
	m.o.Stall = 500 * time.Millisecond
	m.start().gets(x, silent.url, good.url)
	m.keeps(x)
	if _, n := silent.gave("nar"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if m.book.Usable("nar "+silent.url) == nil || m.book.Usable("nar "+good.url) != nil {
		t.Error("which one failed is not known")
	}
}
