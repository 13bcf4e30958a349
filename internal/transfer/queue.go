package transfer

import (
	"container/list"
	"maps"
	"os"
	"slices"
	"time"

	"ersatz/internal/node"
	"ersatz/internal/peers"
	"ersatz/storepath"
)

// outstanding is an item that was fetched ahead, or is being, and that nobody
// has asked for.
type outstanding struct {
	size  int64
	since time.Time
}

// enqueue has items fetched ahead, before or behind all others. Peers are asked
// for all of them at once.
func (t *Transfers) enqueue(wants []node.Want, before bool) {
	if len(wants) == 0 {
		return
	}
	var hashes [][32]byte
	var claims [][]peers.Claim
	if t.o.Peers != nil {
		for _, w := range wants {
			hashes = append(hashes, w.Choice.Builds[0].Signed.NarHash)
		}
		claims = t.o.Peers.Have(t.ctx, hashes)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	a, now := &t.ahead, t.o.Now()
	maps.DeleteFunc(a.said, func(_ [32]byte, s said) bool { return len(a.said) > maxWants || !now.Before(s.until) })
	for k, c := range claims {
		a.said[hashes[k]] = said{c, now.Add(claimsFor)}
	}
	size := 0
	for _, w := range wants {
		size += texts(w)
	}
	if a.queue.Len()+len(wants) > maxWants || a.texts+size > maxTexts {
		a.queue.Init() // what was queried before is wanted less
		clear(a.queued)
		a.texts = 0
	}
	if before {
		slices.Reverse(wants)
	}
	for _, w := range wants {
		a.push(w, before)
	}
}

// push queues an item, once. One that is queued and is wanted before all others
// moves.
func (a *ahead) push(w node.Want, before bool) {
	e, queued := a.queued[w.Path]
	if !queued {
		a.texts += texts(w)
	}
	switch {
	case queued && before:
		a.queue.MoveToFront(e)
	case before:
		a.queued[w.Path] = a.queue.PushFront(w)
	case !queued:
		a.queued[w.Path] = a.queue.PushBack(w)
	}
}

// drop takes an item out of the queue.
func (a *ahead) drop(e *list.Element) {
	w := a.queue.Remove(e).(node.Want)
	delete(a.queued, w.Path)
	a.texts -= texts(w)
}

// claimed returns what peers said of a nar when they were asked for a whole set.
func (t *Transfers) claimed(narHash [32]byte) ([]peers.Claim, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.ahead.said[narHash]
	return s.claims, t.o.Now().Before(s.until)
}

// settle forgets that an item is outstanding, and reports whether it was.
func (a *ahead) settle(hash [32]byte) bool {
	o, ok := a.out[hash]
	a.bytes -= o.size
	delete(a.out, hash)
	return ok
}

// pump begins what may be fetched ahead now.
func (t *Transfers) pump() {
	for {
		w, ok := t.nextAhead()
		if !ok {
			return
		}
		f, i, err := t.open(w, true)
		if err != nil || f != nil {
			if f != nil {
				err = f.Close()
			}
			t.aheadOver(w, nil, err)
			continue
		}
		t.work.Go(func() { // open has seen that the node does not end
			err := i.over(t.ctx)
			i.leave()
			t.aheadOver(w, i, err)
			t.pump()
		})
	}
}

// nextAhead takes what is to be fetched next, if the bounds allow it.
func (t *Transfers) nextAhead() (node.Want, bool) {
	for {
		w, ok := t.take()
		if !ok || !t.has(w) {
			return w, ok
		}
		t.aheadOver(w, nil, nil)
	}
}

// has reports whether an item is in the store of the machine, or kept.
func (t *Transfers) has(w node.Want) bool {
	if isThere(w.Path) {
		return true
	}
	_, err := t.store.ByNarHash(w.Choice.Builds[0].Signed.NarHash)
	return err == nil
}

// take takes what is first in the queue and not on its way, if the bounds allow
// it, and counts it.
func (t *Transfers) take() (node.Want, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := &t.ahead
	if t.ctx.Err() != nil || a.running >= aheadAtOnce {
		return node.Want{}, false
	}
	now := t.o.Now()
	for hash, o := range a.out {
		if now.Sub(o.since) >= aheadFor {
			a.settle(hash)
		}
	}
	for front := a.queue.Front(); front != nil; front = a.queue.Front() {
		w := front.Value.(node.Want)
		b := w.Choice.Builds[0]
		hash := b.Signed.NarHash
		size := int64(b.DownloadSize())
		if size <= 0 {
			size = int64(b.Signed.NarSize)
		}
		_, out := a.out[hash]
		if size > aheadMost || out || t.items[hash] != nil {
			a.drop(front)
			continue
		}
		if a.bytes+size > aheadBytes {
			break
		}
		a.drop(front)
		a.out[hash] = outstanding{size, now}
		a.bytes += size
		a.running++
		return w, true
	}
	return node.Want{}, false
}

// isThere reports whether a store has an item, or something by its name.
func isThere(p storepath.Path) bool {
	_, err := os.Lstat(p.String())
	return err == nil
}

// aheadOver notes that an item which was to be fetched ahead is there, or will
// not be.
func (t *Transfers) aheadOver(w node.Want, i *item, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ahead.running--
	if i == nil || err != nil {
		t.ahead.settle(w.Choice.Builds[0].Signed.NarHash)
		return
	}
	t.o.Count.AheadFetched()
}
