package node

import (
	"context"
	"os"
	"strings"
	"sync"
	"time"

	"ersatz/storepath"
)

// Bounds of what is looked up before it is asked for.
const (
	refsAtOnce = 16        // items
	refsAhead  = 256       // of those, since a client last asked for something
	refsQueued = 4096      // more are left out
	refsSeen   = 1 << 14   // items that are remembered,
	refsFor    = time.Hour // for so long: then texts may have expired
)

// refs looks up what items refer to whose narinfos stock clients ask for: the
// daemon queries a closure path by path and waits for each answer. What is found
// is in the cache of texts when it asks.
type refs struct {
	node  *Node
	queue chan ref

	mu    sync.Mutex
	seen  map[string]bool // hash parts; true: in the queue
	since time.Time       // of seen
	ahead int             // look-ups since a client last asked for something
}

// ref is an item that another one refers to.
type ref struct {
	face *face
	path storepath.Path
}

func newRefs(n *Node) *refs {
	return &refs{node: n, queue: make(chan ref, refsQueued), seen: map[string]bool{}, since: n.o.Now()}
}

// add notes that an item is to be looked up. It reports whether it is new.
func (r *refs) add(hash string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.node.o.Now(); len(r.seen) >= refsSeen || now.Sub(r.since) >= refsFor {
		r.seen, r.since = map[string]bool{}, now
	}
	_, old := r.seen[hash]
	if !old {
		r.seen[hash] = true
	}
	return !old
}

// asked notes that a client asks for an item, which need not be looked up any
// more.
func (r *refs) asked(hash string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ahead = 0
	if _, known := r.seen[hash]; known || len(r.seen) < refsSeen {
		r.seen[hash] = false
	}
}

// take takes an item out of the queue. It reports whether it is to be looked up:
// whoever makes narinfos up has no end of references to offer, so that no more is
// than clients are likely to ask for. What is left may be noted again.
func (r *refs) take(hash string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.seen[hash]:
		return false
	case r.ahead == refsAhead:
		delete(r.seen, hash)
		return false
	}
	r.seen[hash] = false
	r.ahead++
	return true
}

// follow has looked up what an item refers to. It does not wait, nor look at the
// disk.
func (r *refs) follow(f *face, x found) {
	for _, base := range x.choice.Builds[0].Signed.References {
		p, err := storepath.ParseBase(f.storeDir, strings.Clone(base)) // of a text that may be long
		if err != nil || p == x.choice.Path || !r.add(p.Hash) {
			continue
		}
		select {
		case r.queue <- ref{f, p}:
		default:
		}
	}
}

// there reports whether an item is in the store of the machine, or kept.
func (r *refs) there(p storepath.Path) bool {
	if _, err := os.Lstat(p.String()); err == nil {
		return true
	}
	_, err := r.node.store.Get(p.Hash)
	return err == nil
}

// run looks up, of what nobody has, until ctx ends.
func (r *refs) run(ctx context.Context) {
	var work sync.WaitGroup
	for range refsAtOnce {
		work.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case next := <-r.queue:
					if !r.there(next.path) && r.take(next.path.Hash) {
						r.find(ctx, next)
					}
				}
			}
		})
	}
	work.Wait()
}

// find looks an item up, and what it refers to. Peers are not asked.
func (r *refs) find(ctx context.Context, of ref) {
	hash := of.path.Hash
	answers := r.node.client.AskHash(ctx, of.face.servers, hash)
	judge, err := r.node.judge(hash, answers)
	if err != nil {
		return
	}
	if x, _, err := r.node.weigh(of.face, hash, answers, judge); err == nil && x.choice.Path == of.path {
		r.follow(of.face, x)
	}
}
