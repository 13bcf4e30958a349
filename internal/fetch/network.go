package fetch

import (
	"time"

	"ersatz/internal/block"
)

// Network is a transport that is asked for any content, as a service has it.
type Network struct {
	// Name is what logs, errors and a Book call it, such as its store URL without
	// secrets.
	Name string

	Network block.Network

	// Kind is the transport, as store URLs name it, such as "bittorrent".
	Kind string

	// Start is how long it usually takes to give the first block, while nothing
	// has been learnt of that.
	Start time.Duration

	// Near is whether it is on this machine or the local network and gives
	// blocks from there. Batch and Parallel are as in Source.
	Near            bool
	Batch, Parallel int
}

// Open begins to look for a content: a Source, and what is to be closed when it
// is not asked any more; false if the network cannot have it.
func (n Network) Open(w block.Wanted) (Source, block.Session, bool) {
	s := n.Network.Open(w)
	if s == nil {
		return Source{}, nil, false
	}
	return Source{Name: n.Name, Fetcher: s, Near: n.Near, Batch: n.Batch, Parallel: n.Parallel}, s, true
}
