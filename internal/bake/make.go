package bake

import (
	"bufio"
	"context"
	"errors"
	"io"

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
	Alone   bool     // whether one goroutine does it: others have the other processors
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

// little is the size of a nar, in bytes, up to which one goroutine makes all of it:
// others take longer to begin than it takes.
const little = 256 << 10

// tools are memory that a job leaves for the next one. The zero tools have none.
// They are not safe for concurrent use. Free spare.
type tools struct {
	spare compress.Spare
	bufs  []*bufio.Writer // for the tree, then for each form
	start []byte          // of an encoder
}

// buf returns the buffer i in front of w.
func (t *tools) buf(i int, w io.Writer) *bufio.Writer {
	if i == len(t.bufs) {
		t.bufs = append(t.bufs, bufio.NewWriterSize(nil, 64<<10))
	}
	t.bufs[i].Reset(w)
	return t.bufs[i]
}

// make dumps an item once, into all files.
func (t *tools) make(ctx context.Context, j job, tree io.Writer, files []io.Writer) (made, error) {
	alone := j.Alone || j.Size <= little
	blocks := newBlocks(t.buf(0, tree), j.Torrent)
	var streams []*stream
	for i, f := range j.Forms {
		s := &stream{buf: t.buf(1+i, files[i])}
		if i == j.Named {
			s.enc = &encoder{emit: blocks.add, start: t.start[:0], alone: alone}
		}
		o := compress.Options{Size: j.Size, Threads: f.Threads, Spare: &t.spare}
		var err error
		if s.comp, err = compress.NewWriterOptions((*sink)(s), f.Method, o); err != nil {
			return made{}, closeAll(err, streams)
		}
		streams = append(streams, s)
	}
	dump := nar.Dump
	if alone {
		dump = nar.DumpAlone
	}
	f := newFan(ctx, streams, alone)
	got, err := dump(f, string(j.Path))
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
	t.start = content.enc.start
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
