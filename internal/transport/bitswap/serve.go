package bitswap

import (
	"context"
	"errors"

	exchange "github.com/ipfs/boxo/bitswap/network"
	"github.com/ipfs/boxo/bitswap/server"
	"github.com/ipfs/boxo/blockstore"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"

	"ersatz/eris"
	"ersatz/internal/block"
)

const (
	// nominalSize is what the server is told that a block has, in bytes, so that
	// it need not be read, which is to encrypt it, before its turn. It goes by
	// it when it fills messages, which have one block: who has a bad line gets it
	// as soon as it can be.
	nominalSize   = int(eris.Size32KiB)
	targetMessage = nominalSize

	// perPeer bounds what is on its way to one peer, by nominal size: a message
	// while the next one is made. There is a sender for all that can be on its way,
	// so that peers who read slowly, or not at all, hold up nobody else.
	perPeer = 4 * nominalSize
	senders = maxConns * perPeer / nominalSize

	// readers is how many blocks are looked for at once.
	readers = 64

	// wantsPerPeer bounds what one peer may be waiting for.
	wantsPerPeer = 1024

	// maxCID is as long as the CID of a block is, and a little.
	maxCID = 64
)

// newServer returns the half that answers.
func newServer(ctx context.Context, net exchange.BitSwapNetwork, lib block.Getter) *server.Server {
	return server.New(ctx, net, store{lib},
		server.WithWantHaveReplaceSize(0), // else GetSize decides what is there
		server.WithTargetMessageSize(targetMessage),
		server.MaxOutstandingBytesPerPeer(perPeer),
		server.MaxQueuedWantlistEntriesPerPeer(wantsPerPeer),
		server.MaxCidSize(maxCID),
		server.TaskWorkerCount(senders),
		server.EngineTaskWorkerCount(readers),
		server.EngineBlockstoreWorkerCount(readers),
	)
}

// nothing is a Library that is empty.
type nothing struct{}

func (nothing) Get(_ context.Context, ref eris.Ref) ([]byte, error) {
	return nil, &eris.MissingError{Ref: ref}
}

// store is a Library as the server wants it. Nothing can be put.
type store struct{ lib block.Getter }

var (
	_ blockstore.Blockstore = store{}

	errReadOnly = errors.New("bitswap: blocks are only given")
)

// Get returns a block.
func (s store) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	ref, ok := toRef(c)
	if !ok {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	b, err := s.lib.Get(ctx, ref)
	switch {
	case errors.Is(err, eris.ErrNotFound):
		return nil, ipld.ErrNotFound{Cid: c}
	case err != nil:
		return nil, err
	}
	return blocks.NewBlockWithCid(b, c)
}

// haver is a Library that says without making a block whether it has it. Strangers
// may ask for thousands, which no upload limit bounds.
type haver interface {
	Has(ctx context.Context, ref eris.Ref) (bool, error)
}

// Has is asked for those who want to know.
func (s store) Has(ctx context.Context, c cid.Cid) (bool, error) {
	if lib, ok := s.lib.(haver); ok {
		ref, ok := toRef(c)
		if !ok {
			return false, nil
		}
		return lib.Has(ctx, ref)
	}
	_, err := s.Get(ctx, c)
	if ipld.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// GetSize is asked for those who want the block: it says so much of all that
// could be one, and the server looks when it comes to it.
func (s store) GetSize(_ context.Context, c cid.Cid) (int, error) {
	if _, ok := toRef(c); !ok {
		return 0, ipld.ErrNotFound{Cid: c}
	}
	return nominalSize, nil
}

func (store) DeleteBlock(context.Context, cid.Cid) error          { return errReadOnly }
func (store) Put(context.Context, blocks.Block) error             { return errReadOnly }
func (store) PutMany(context.Context, []blocks.Block) error       { return errReadOnly }
func (store) AllKeysChan(context.Context) (<-chan cid.Cid, error) { return nil, errReadOnly }
