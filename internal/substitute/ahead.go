package substitute

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"ersatz/internal/nodeapi"
	"ersatz/internal/upstream"
)

// aheadTime bounds how long it may take to say what may be asked for.
const aheadTime = 2 * time.Second

// teller tells the node, in the background, what may be asked for soon. While
// it does, what is found meanwhile is gathered: the daemon queries path by path.
type teller struct {
	node *nodeapi.Client // nil if there is none
	log  *slog.Logger
	work sync.WaitGroup

	mu    sync.Mutex
	busy  bool
	found nodeapi.AheadRequest // that the node was not told
	size  int                  // of that, bytes of JSON at most
}

// tell has the node told what a query has found. What is too much is left out.
func (t *teller) tell(choices []upstream.Choice) {
	if t.node == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range choices {
		for _, b := range c.Builds[:min(len(c.Builds), 1)] {
			for _, n := range narinfosOf(b) {
				// JSON takes two bytes for each newline.
				size := len(n.Text) + len(n.Text)/8 + len(n.Server) + 100
				if t.size+size > nodeapi.MaxAheadBody || len(t.found.Narinfos) == nodeapi.MaxAhead {
					break
				}
				t.size += size
				t.found.Narinfos = append(t.found.Narinfos, n)
			}
		}
	}
	if !t.busy && len(t.found.Narinfos) > 0 {
		t.busy = true
		t.work.Go(t.run)
	}
}

// run tells the node until there is nothing more, or it does not listen.
func (t *teller) run() {
	for {
		t.mu.Lock()
		found := t.found
		t.found, t.size = nodeapi.AheadRequest{}, 0
		t.busy = len(found.Narinfos) > 0
		t.mu.Unlock()
		if len(found.Narinfos) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), aheadTime)
		err := t.node.Ahead(ctx, found)
		cancel()
		if err != nil {
			t.log.Debug("node does not look ahead", slog.Any("error", err))
			t.mu.Lock()
			t.found, t.size = nodeapi.AheadRequest{}, 0
			t.mu.Unlock()
		}
	}
}
