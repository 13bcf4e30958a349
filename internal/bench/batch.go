package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"ersatz/eris"
	"ersatz/internal/block/narindex"
	mixing "ersatz/internal/fetch"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/web"
	"ersatz/storepath"
)

// batchGroup measures blocks that are made from a nar, sent in batches over
// loopback, verified and decrypted: both sides in this process.
func batchGroup(ctx context.Context, o Options) ([]Table, error) {
	length := 64 * mib
	if o.Quick {
		length = 16 * mib
	}
	t := Table{
		Title: fmt.Sprintf("Batches of blocks, a nar of %d MiB over loopback", length/mib),
		Note: "Server and client share the machine: the one makes blocks from the nar and hashes them, the other hashes and decrypts them. " +
			"Of the reader it is the whole content, internal nodes too, by way of the mix of sources. " +
			"A call of the client has two requests under way, each with its connection. " +
			"The limit is a loop over bare TCP connections, two beside one call, else 4, with the same reads, kernels and bytes and nothing else.",
		Limit: "bare loop",
	}
	for _, size := range []eris.BlockSize{eris.Size32KiB, eris.Size1KiB} {
		if err := batchRows(ctx, o, &t, length, size); err != nil {
			return nil, err
		}
	}
	return []Table{t}, nil
}

func batchRows(ctx context.Context, o Options, t *Table, length int, size eris.BlockSize) (err error) {
	w, err := newBatchWorld(ctx, o, length, size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	sides := make([]side, 0, 5)
	add := func(name string, work func() error) {
		sides = append(sides, side{name: name, once: func(context.Context) (usage, error) { return inProcess(work) }})
	}
	add("one call", func() error { return w.fetch(ctx, 1) })
	add("limit, 2 connections", func() error { return w.bare(ctx, 2) })
	add("4 calls", func() error { return w.fetch(ctx, 4) })
	add("limit, 4 connections", func() error { return w.bare(ctx, 4) })
	add("reader", func() error { return w.read(ctx) })
	err = turns(ctx, o, &sides[0], &sides[1], &sides[2], &sides[3], &sides[4])
	if err != nil {
		return err
	}
	n, blocks := float64(length), float64(len(w.refs))
	for _, row := range []struct {
		what        string
		ours, limit usages
	}{
		{"one call", sides[0].usages, sides[1].usages},
		{"4 calls", sides[2].usages, sides[3].usages},
		{"reader of the content", sides[4].usages, sides[3].usages},
	} {
		what := fmt.Sprintf("%v, %s", size, row.what)
		t.versus(what, megabytes, row.ours.perSecond(n), nil, row.limit.perSecond(n))
		t.versus(what+": processors, per block", microseconds, per(row.ours.cpu, blocks), nil, per(row.limit.cpu, blocks))
	}
	return nil
}

func per(s series, n float64) series {
	all := make(series, len(s))
	for i, v := range s {
		all[i] = v / n
	}
	return all
}

// batchWorld is a server of blocks of one nar, and what both sides know of these.
type batchWorld struct {
	dir     string
	index   *narindex.Index
	nar     *os.File
	readCap eris.ReadCap
	length  int64
	refs    []eris.Ref // of the leaves
	keys    []eris.Key
	client  *n2r.Client
	stop    func() error // ends the server
}

func newBatchWorld(ctx context.Context, o Options, length int, size eris.BlockSize) (w *batchWorld, err error) {
	dir, err := os.MkdirTemp("", "ersatz-bench-batch-")
	if err != nil {
		return nil, err
	}
	w = &batchWorld{dir: dir, stop: func() error { return nil }}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.index, err = narindex.Open(dir); err != nil {
		return nil, err
	}
	// The last leaf has one byte of padding, as every content has some.
	content := randomBytes(length-1, 1)
	const nar = "nar"
	if err := os.WriteFile(filepath.Join(dir, nar), content, 0o600); err != nil {
		return nil, err
	}
	if w.nar, err = os.Open(filepath.Join(dir, nar)); err != nil {
		return nil, err
	}
	path, err := storepath.Parse("/gnu/store/00000000000000000000000000000000-batch")
	if err != nil {
		return nil, err
	}
	writer, err := w.index.NewWriter(path)
	if err != nil {
		return nil, err
	}
	w.readCap, w.length, err = eris.Encode(bytes.NewReader(content), size, eris.Secret{}, func(b eris.Block) error {
		if b.Level == 0 {
			w.refs, w.keys = append(w.refs, b.Ref), append(w.keys, b.Key)
		}
		return writer.Add(b)
	})
	if err != nil {
		return nil, errors.Join(err, writer.Abort())
	}
	if err := writer.Commit(ctx, w.readCap, w.length, nar); err != nil {
		return nil, err
	}
	return w, w.serve(ctx, o)
}

// serve starts the server, and makes the client.
func (w *batchWorld) serve(ctx context.Context, o Options) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- web.Serve(ctx, []net.Listener{l}, n2r.Handler(w.index), o.Log) }()
	hc := httpclient.New(httpclient.Options{})
	w.stop = func() error {
		hc.CloseIdleConnections()
		cancel()
		return <-done
	}
	w.client, err = n2r.New("http://"+l.Addr().String(), hc)
	return err
}

func (w *batchWorld) close() error {
	err := w.stop()
	if w.nar != nil {
		err = errors.Join(err, w.nar.Close())
	}
	if w.index != nil {
		err = errors.Join(err, w.index.Close())
	}
	return errors.Join(err, os.RemoveAll(w.dir))
}

// share calls work in so many goroutines, each with the numbers of a row of leaves.
func (w *batchWorld) share(ctx context.Context, n int, work func(ctx context.Context, from, to int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range n {
		g.Go(func() error { return work(ctx, i*len(w.refs)/n, (i+1)*len(w.refs)/n) })
	}
	return g.Wait()
}

// taking is the memory of who takes blocks.
type taking struct {
	node []byte
	sums [n2r.MaxBatch]eris.Ref
}

// fetch has so many calls of the client get all leaves, and decrypts them. A call has
// two requests under way.
func (w *batchWorld) fetch(ctx context.Context, calls int) error {
	free := sync.Pool{New: func() any { return &taking{node: make([]byte, w.readCap.Size)} }}
	return w.share(ctx, calls, func(ctx context.Context, from, to int) error {
		var right atomic.Int64
		err := w.client.FetchMany(ctx, w.readCap.Size, w.refs[from:to], func(is []int, blocks [][]byte) (int, error) {
			t := free.Get().(*taking)
			defer free.Put(t)
			eris.BlockRefs(t.sums[:len(is)], blocks)
			for k, i := range is {
				if t.sums[k] != w.refs[from+i] {
					return k, eris.ErrCorrupt
				}
				eris.Seal(t.node, blocks[k], 0, w.keys[from+i])
			}
			right.Add(int64(len(is)))
			return len(is), nil
		})
		if err == nil && right.Load() != int64(to-from) {
			err = fmt.Errorf("%d blocks came of %d", right.Load(), to-from)
		}
		return err
	})
}

// read reads the content as a client without a node does.
func (w *batchWorld) read(ctx context.Context) error {
	mix := mixing.New([]mixing.Source{{Name: "server", Fetcher: w.client}}, mixing.Options{})
	r := eris.NewReader(ctx, w.readCap, mix, eris.ReaderOptions{})
	n, err := io.Copy(io.Discard, r)
	return sameLength(n, int(w.length), errors.Join(err, r.Close()))
}
