package block

import (
	"context"
	"errors"

	"ersatz/eris"
)

// Wanted is a content that is to be fetched, as a Network needs to know it.
type Wanted struct {
	ReadCap eris.ReadCap

	// Magnet is the magnet link of the torrent that its blocks make, "" if none
	// is known, and Servers are URLs of substitute servers that have them:
	// docs/transports.md, "BitTorrent".
	Magnet  string
	Servers []string

	// Where says which node of the tree a reference names: level 0 has the
	// leaves, index counts within the level. ok is false while that is not known;
	// the root always is. It is safe for concurrent use.
	Where func(ref eris.Ref) (level int, index int64, ok bool)
}

// Network is a transport that has to find out who has a content before it can
// ask for blocks of it. It is safe for concurrent use.
type Network interface {
	// Open begins to look for a content, and returns at once; nil if the network
	// cannot have it. What it asks for lives until Close.
	Open(w Wanted) Session
}

// Session is a content in a Network, as a source of its blocks. That nobody there
// has a block, or the content, is no error of Fetch: the blocks are missing. An
// error says that the network is out of order, and has it left alone for a while.
// Fetch says so in less than the 10 seconds in which a source has to give something.
type Session interface {
	eris.Fetcher

	// Close ends the search and all that runs for it.
	Close() error
}

// Everything returns a Network of a source that is asked for any block without
// knowing its content.
func Everything(f eris.Fetcher) Network { return everything{f} }

type everything struct{ eris.Fetcher }

func (e everything) Open(Wanted) Session { return e }
func (e everything) Close() error        { return nil }

// FetchMany implements eris.ManyFetcher, as the source does.
func (e everything) FetchMany(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	return eris.FetchMany(ctx, e.Fetcher, size, refs, got)
}

// Shared is a content that may be given to others.
type Shared struct {
	ReadCap eris.ReadCap
	Length  int64  // of the content, in bytes
	Magnet  string // "" if there is no torrent of it
}

// Content is a content of which all blocks can be read. It is not safe for
// concurrent use.
type Content interface {
	// Len returns the number of blocks in the tree.
	Len() int64

	// Block returns the block at a place in the order of the tree: leaves
	// first, level by level, the root last. It is verified, and valid until the
	// next call. An error matches eris.ErrCorrupt if it is not what was encoded.
	Block(ctx context.Context, place int64) (eris.Ref, []byte, error)

	// Close frees what reading takes.
	Close() error
}

// Library is what may be given to others: whole contents and their blocks, and
// nothing else. It is safe for concurrent use.
type Library interface {
	// Get returns verified blocks.
	Getter

	// Each calls visit for each content until that fails, in an order that stays.
	// It returns the error of visit.
	Each(ctx context.Context, visit func(Shared) error) error

	// Open opens a content by the reference of its root. An error matches
	// eris.ErrNotFound if it is not in the Library (any more).
	Open(ctx context.Context, root eris.Ref) (Content, error)

	// Changed returns a channel that is closed when something has come or gone
	// since the call.
	Changed() <-chan struct{}
}

// ErrFull says that a Sink has as many contents as it takes.
var ErrFull = errors.New("network takes no more contents")

// Sink is a network that is given whole contents. It is safe for concurrent use.
type Sink interface {
	// Offer gives a content to the network, or tells it that it is here. It
	// returns when that is done, which may be long; from then on open may be
	// called at any time until Withdraw or the end of the Sink. To offer again
	// what is offered renews it. An error is of the content if it matches
	// eris.ErrNotFound, eris.ErrCorrupt or ErrFull, else of the network.
	Offer(ctx context.Context, s Shared, open func(context.Context) (Content, error)) error

	// Withdraw takes a content back, as far as the network can forget. One that
	// was not offered is no error.
	Withdraw(ctx context.Context, s Shared) error
}
