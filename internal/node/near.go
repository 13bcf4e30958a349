package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"ersatz/internal/keep"
	"ersatz/internal/upstream"
)

// nearTime is how long servers on the local network have to say what they have
// of an item that is about to be fetched.
const nearTime = 500 * time.Millisecond

// fetch gets the nar of an item. Of one that is not kept, servers on the local
// network are asked first whether they have it too: what they have need not come
// from afar.
func (n *Node) fetch(ctx context.Context, w Want) (Nar, error) {
	if _, err := n.store.Get(w.Path.Hash); !w.Kept && errors.Is(err, keep.ErrNone) {
		w.Choice = n.joinNear(ctx, w.Choice)
	}
	return n.transfers.Get(ctx, w)
}

// joinNear returns the choice with what near servers offer of it that are not
// in it yet.
func (n *Node) joinNear(ctx context.Context, c upstream.Choice) upstream.Choice {
	b := *c.Builds[0]
	servers := slices.DeleteFunc(n.o.NearServers(), func(sv *upstream.Server) bool {
		return slices.ContainsFunc(b.Narinfos, func(a upstream.Answer) bool { return a.Server.String() == sv.String() })
	})
	if len(servers) == 0 {
		return c
	}
	ctx, cancel := context.WithTimeout(ctx, nearTime)
	defer cancel()
	b.Join(n.client.AskHash(ctx, servers, c.Path.Hash))
	c.Builds = []*upstream.Build{&b}
	return c
}
