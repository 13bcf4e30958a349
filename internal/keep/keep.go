// Package keep is what a node has of the items that it fetched: compressed
// nars as they came, the trees and the index that make their blocks out of
// them, and parts of items whose transfer has not ended. All of it lies in the
// node's state folder, under a quota. docs/node.md, "What is kept", describes
// the folder.
//
// What comes from a part is not trusted: a block leaves only if its hash is
// its reference, and who reads a nar compares NarHash.
package keep

import (
	"errors"
	"time"

	"ersatz/eris"
	"ersatz/internal/folder"
	"ersatz/storepath"
)

var (
	// ErrNone means that an item is not kept.
	ErrNone = errors.New("keep: no such item")

	// ErrBusy means that a part has a user already: wait for that transfer.
	ErrBusy = errors.New("keep: part is in use")

	// ErrLocked means that another process has the state folder.
	ErrLocked = folder.ErrLocked

	// ErrQuota means that an item is larger than all that may be kept. Who
	// reads its part can go on.
	ErrQuota = errors.New("keep: item is larger than the quota")

	// ErrReset ends the readers of a part whose bytes were forgotten.
	ErrReset = errors.New("keep: part was begun anew")

	// ErrClosed ends the readers of a part that was closed before its end, and
	// is what a closed Part answers.
	ErrClosed = errors.New("keep: part is closed")
)

// Item is what is known of an item that is kept. Narinfo, Server and Format
// may be empty.
type Item struct {
	Path    storepath.Path
	NarHash [32]byte
	NarSize int64  // bytes
	Narinfo []byte // text as the server gave it, narinfo.MaxSize at most
	Server  string // URL of who gave the narinfo
	Method  string // compression of the file, as narinfos name it
	Size    int64  // of the file in bytes

	// ReadCap is what the file encodes to, Format the media type that narinfos
	// have for it (ERISFormat).
	ReadCap eris.ReadCap
	Format  string
	// Signed says that ReadCap is the one that the narinfo's signature covers.
	Signed bool

	// Asked says that somebody has asked for the item; one that was fetched
	// ahead may never be. Used is when that was last, or else when the item
	// came.
	Asked bool
	Used  time.Time
}

// Held is what there is of a nar, for peers. It has the fields of peer.Held.
type Held struct {
	ReadCap eris.ReadCap
	Format  string
	Part    bool   // some blocks are missing
	Leaves  []byte // of a part: a bit per leaf that is there, the most significant first
}

// Usage is what a store takes on disk, in bytes as allocated there.
type Usage struct {
	Items      int
	ItemBytes  int64 // nars, trees and narinfos
	Parts      int
	PartBytes  int64
	IndexBytes int64
	Quota      int64
}

// Total returns the bytes in all.
func (u Usage) Total() int64 { return u.ItemBytes + u.PartBytes + u.IndexBytes }
