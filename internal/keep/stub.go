package keep

import (
	"context"
	"io"
	"log/slog"
	"os"
	"time"

	"ersatz/eris"
)

// Options are what of a Store has a default.
type Options struct {
	// Quota bounds what the folder takes on disk, in bytes. Default 10 GiB.
	Quota int64
	// Log is where events go. Default none.
	Log *slog.Logger
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Store is an open state folder. It is safe for concurrent use.
type Store struct{}

// Open opens the state folder dir, which it makes if there is none. The error
// matches ErrLocked if another process has it. Close the Store.
func Open(dir string, o Options) (*Store, error) { panic("not there yet") }

// Close closes the folder. Parts and files that are open are closed before.
func (s *Store) Close() error { panic("not there yet") }

// Get returns the item with a hash part. It does not count as a use. The error
// matches ErrNone if it is not kept.
func (s *Store) Get(hash string) (Item, error) { panic("not there yet") }

// ByNarHash returns an item with a nar, whatever its store path. The error
// matches ErrNone.
func (s *Store) ByNarHash(h [32]byte) (Item, error) { panic("not there yet") }

// File is the compressed nar of an item that is kept, open for reading. It is
// not evicted before Close.
type File struct {
	*os.File
	Item Item
}

// Close closes the file.
func (f *File) Close() error { panic("not there yet") }

// Open opens the compressed nar of the item with a hash part, and notes that
// it was asked for now. The error matches ErrNone.
func (s *Store) Open(hash string) (*File, error) { panic("not there yet") }

// Remove removes an item, for one that turned out to be broken. Files that are
// open stay readable. One that is not kept is no error.
func (s *Store) Remove(ctx context.Context, hash string) error { panic("not there yet") }

// Usage returns what the store takes now.
func (s *Store) Usage() Usage { panic("not there yet") }

// PartID names a part.
type PartID string

// BlocksID returns the part that the blocks of a read capability fill.
func BlocksID(c eris.ReadCap) PartID { panic("not there yet") }

// NarID returns the part that is filled by a nar from one server: of what
// has another of these, no byte range can be mixed.
func NarID(about About) PartID { panic("not there yet") }

// About says of what something is a part: Item without Size, Asked and Used,
// and, for a nar, what its server says of the file.
type About struct {
	Item     Item
	ETag     string // "" if there is none
	FileSize int64  // 0 if it is not known
}

// Part returns the part named id: a new one, or what an earlier process or
// transfer left of it. What was there is forgotten if it belonged to something
// else. The error matches ErrBusy if somebody has it. Close the Part.
func (s *Store) Part(id PartID, about About) (*Part, error) { panic("not there yet") }

// Part is a file that is being filled: in any order with nodes of an ERIS tree
// (it implements eris.Nodes), or from its start with a nar. Its methods are
// safe for concurrent use.
type Part struct{}

// Load implements eris.Nodes.
func (p *Part) Load(level int, index int64, buf []byte) (bool, error) { panic("not there yet") }

// Store implements eris.Nodes.
func (p *Part) Store(level int, index int64, node []byte) error { panic("not there yet") }

// Done implements eris.Nodes. From now on the node's block is served.
func (p *Part) Done(level int, index int64, ref eris.Ref, key eris.Key) { panic("not there yet") }

// Append adds bytes of a nar at Size.
func (p *Part) Append(b []byte) (int, error) { panic("not there yet") }

// Size returns how many bytes of a nar are there.
func (p *Part) Size() int64 { panic("not there yet") }

// Front returns how many bytes are there from the start on without a gap.
func (p *Part) Front() int64 { panic("not there yet") }

// ReadAt reads what is there, verified or not.
func (p *Part) ReadAt(b []byte, off int64) (int, error) { panic("not there yet") }

// Reader returns a reader of the content that waits for what is not there yet.
// It ends at the length that Finish gave, or, when it has given all up to the
// front, with the error of Fail, ctx, Reset or Close. Commit and Close do not
// end readers of a finished part. Close the reader.
func (p *Part) Reader(ctx context.Context) io.ReadCloser { panic("not there yet") }

// Finish says that all is there and how long the content is.
func (p *Part) Finish(length int64) { panic("not there yet") }

// Fail says that no more will come, and why.
func (p *Part) Fail(err error) { panic("not there yet") }

// Commit makes a finished part an item: its NarHash was right. tree emits the
// pairs of all nodes of item.ReadCap in the order of eris.Encoder; nil makes
// Commit encode the content, under the null secret and with the recommended
// block size, and set ReadCap (and Signed to whether it was that already).
// It returns the item as it is kept. The error matches ErrQuota if the item is
// larger than all that may be kept; the part is gone then. After another error
// the part is as it was.
func (p *Part) Commit(ctx context.Context, item Item, tree func(emit func(eris.Block) error) error) (Item, error) {
	panic("not there yet")
}

// Reset forgets all bytes. It ends the readers with ErrReset.
func (p *Part) Reset() error { panic("not there yet") }

// Close ends the use of the part. Its files stay for the next time, unless it
// was committed, or is larger than all that may be kept.
func (p *Part) Close() error { panic("not there yet") }

// Blocks are the blocks of what is kept, for n2r.Handler.
type Blocks struct{}

// Blocks returns the blocks of all items and of the parts that are in use, but
// only of those that allow says; nil means all. allow is asked once per item
// and Blocks, from several goroutines.
func (s *Store) Blocks(allow func(Item) bool) *Blocks { panic("not there yet") }

// Get returns the block named ref; the caller owns it. The error matches
// eris.ErrNotFound.
func (b *Blocks) Get(ctx context.Context, ref eris.Ref) ([]byte, error) { panic("not there yet") }

// Batch calls emit(i, block) for each reference in order, with a nil block for
// one that is not there. emit does not keep the block.
func (b *Blocks) Batch(ctx context.Context, refs []eris.Ref, emit func(i int, block []byte) error) error {
	panic("not there yet")
}

// Have returns what there is of a nar that allow lets out.
func (b *Blocks) Have(narHash [32]byte) (Held, bool) { panic("not there yet") }
