package bake

import (
	"context"
	"errors"
	"io"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/nar"
)

// job is an item, and what is to be made of it: all that costs something for each
// of its bytes. The files are there and empty, and whoever has made them gives
// them their names afterwards.
type job struct {
	Path    fileName // of the item
	Size    int64    // of its nar in bytes: a hint
	Forms   []form
	Named   int      // which of Forms is encoded
	Tree    fileName // the file for the tree
	Torrent bool     // whether pieces of the leaves are hashed
}

// form is one in which the nar is kept.
type form struct {
	Method  compress.Method
	Threads int
	File    fileName
}

// made is what became of a job.
type made struct {
	Nar    nar.Info
	Sizes  []int64 // of the files of Forms, in bytes
	Cap    []byte  // eris.ReadCap.Bytes of the form that is encoded
	Pieces []byte  // hashes of pieces (torrent.Builder.Pieces), if Torrent
}

// make dumps an item once, into all files.
func (j job) make(ctx context.Context, tree io.Writer, files []io.Writer) (made, error) {
	blocks := newBlocks(tree, j.Torrent)
	var streams []*stream
	for i, f := range j.Forms {
		var add func(eris.Block) error
		if i == j.Named {
			add = blocks.add
		}
		s, err := newStream(files[i], f.Method, compress.Options{Size: j.Size, Threads: f.Threads}, add)
		if err != nil {
			return made{}, closeAll(err, streams)
		}
		streams = append(streams, s)
	}
	f := newFan(ctx, streams)
	got, err := nar.Dump(f, string(j.Path))
	if err != nil {
		f.interrupt()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return made{}, err
	}
	content := streams[j.Named]
	if err := blocks.Finish(content.cap, content.n); err != nil {
		return made{}, err
	}
	m := made{Nar: got, Cap: content.cap.Bytes(), Pieces: blocks.pieces()}
	for _, s := range streams {
		m.Sizes = append(m.Sizes, s.n)
	}
	return m, nil
}

// closeAll frees what the compressors of streams hold.
func closeAll(err error, streams []*stream) error {
	for _, s := range streams {
		err = errors.Join(err, s.comp.Close())
	}
	return err
}
