package node

import (
	"context"
	"slices"
	"time"

	"ersatz/internal/upstream"
)

// nearTime is how long servers on the local network have to say what they have
// of an item that is about to be fetched.
const nearTime = 500 * time.Millisecond

// Join returns an item that is about to be fetched with what servers on the local
// network offer of it: what they have need not come from afar. Whoever looks an
// item up does not wait for them.
func (n *Node) Join(ctx context.Context, w Want) Want {
	b := *w.Choice.Builds[0]
	servers := slices.DeleteFunc(n.o.NearServers(), func(sv *upstream.Server) bool {
		return slices.ContainsFunc(b.Narinfos, func(a upstream.Answer) bool { return a.Server.String() == sv.String() })
	})
	if len(servers) == 0 {
		return w
	}
	ctx, cancel := context.WithTimeout(ctx, nearTime)
	defer cancel()
	b.Join(n.client.AskHash(ctx, servers, w.Path.Hash))
	w.Choice.Builds = []*upstream.Build{&b}
	return w
}
