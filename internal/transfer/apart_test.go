package transfer

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/keep"
)

// Who asks for an item that is being removed or replaced waits for that, and nobody
// else does.
func TestOthersDoNotWait(t *testing.T) {
	broken, good, fresh, coming := newThing(t, 1, 5000, "zstd"), newThing(t, 2, 5000, "zstd"), newThing(t, 3, 5000, "zstd"), newThing(t, 4, 5000, "zstd")
	o := newOrigin(t, broken, good, fresh)
	m := newMachine(t).start()
	m.gets(broken, o.url)
	m.gets(good, o.url)
	m.settled()
	must(t, os.Remove(filepath.Join(m.dir, "nar", "zstd", broken.fields.StorePath.Base())))

	// One whose files are being made holds up the removal of the broken one.
	p, err := m.store.Part(keep.BlocksID(coming.rc), keep.About{Item: keep.Item{Path: coming.fields.StorePath, Method: "zstd", ReadCap: coming.rc}})
	must(t, err)
	p.Finish(0)
	making, enough, errMade := make(chan struct{}), make(chan struct{}), errors.New("made")
	var work sync.WaitGroup
	work.Go(func() {
		_, err := p.Commit(t.Context(), keep.Item{Path: coming.fields.StorePath, Method: "zstd", ReadCap: coming.rc}, func(func(eris.Block) error) error {
			close(making)
			<-enough
			return errMade
		})
		if !errors.Is(err, errMade) {
			t.Error(err)
		}
		closing(t, p)
	})
	<-making
	work.Go(func() {
		if b, err := m.get(broken.want(t, o.url)); err != nil || string(b) != string(broken.nar) {
			t.Errorf("the broken one: %d bytes, %v", len(b), err)
		}
	})
	for stack := make([]byte, 1<<20); !strings.Contains(string(stack[:runtime.Stack(stack, true)]), "removeBroken"); {
		runtime.Gosched()
	}
	others := make(chan error, 1)
	work.Go(func() {
		_, err := m.get(good.want(t, o.url))
		if err == nil {
			var i *item
			if _, i, err = m.trans.open(fresh.want(t, o.url), false); err == nil {
				i.leave()
			}
		}
		others <- err
	})
	select {
	case err := <-others:
		must(t, err)
	case <-time.After(20 * time.Second):
		t.Error("others wait too")
	}
	close(enough)
	work.Wait()
	m.keeps(broken)
	m.keeps(fresh)
}
