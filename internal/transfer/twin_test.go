package transfer

import (
	"errors"
	"sync"
	"testing"

	"ersatz/internal/keep"
	"ersatz/storepath"
)

// Two paths with one nar: it is fetched once, and both are kept, whether the
// second is asked for at the same time or later.
func TestTwins(t *testing.T) {
	for _, together := range []bool{false, true} {
		x := newThing(t, 1, 3<<20, "zstd")
		y := *x
		p, err := storepath.ParseBase("/gnu/store", "0"+x.base()[1:])
		must(t, err)
		y.fields.StorePath = p
		o := newOrigin(t, x, &y)
		m := newMachine(t).start()
		if together {
			var work sync.WaitGroup
			work.Go(func() { m.gets(x, o.url) })
			work.Go(func() { m.gets(&y, o.url) })
			work.Wait()
		} else {
			m.gets(x, o.url)
			m.gets(&y, o.url)
		}
		w := y.want(t, o.url)
		w.Kept = true // which is for others: nothing is kept for them
		w.Path, err = storepath.ParseBase("/gnu/store", "1"+x.base()[1:])
		must(t, err)
		if _, err := m.get(w); err != nil {
			t.Error(err)
		}
		if n, _ := o.gave("eris"); n > len(x.files["zstd"])*21/20 {
			t.Errorf("%d bytes were fetched", n)
		}
		m.settled()
		m.stop() // waits for what is kept beside
		m.start()
		for _, z := range []*thing{x, &y} {
			if i := m.keeps(z); !i.Signed || i.Path != z.fields.StorePath || string(i.Narinfo) != string(z.text(t)) {
				t.Errorf("kept as %+v", i)
			}
		}
		if _, err := m.store.Get(w.Path.Hash); !errors.Is(err, keep.ErrNone) {
			t.Errorf("kept for another machine: %v", err)
		}
	}
}

// TestKeptAllocs: an item that is kept by its own name is looked for and opened once.
func TestKeptAllocs(t *testing.T) {
	const most = 150
	x := newThing(t, 1, 20_000, "zstd")
	o := newOrigin(t, x)
	m := newMachine(t).start()
	m.gets(x, o.url)
	m.keeps(x)
	w := x.want(t, o.url)
	got := testing.AllocsPerRun(50, func() {
		if _, err := m.get(w); err != nil {
			t.Error(err)
		}
	})
	if t.Logf("%v allocations", got); got > most {
		t.Errorf("%v allocations, at most %v", got, most)
	}
}
