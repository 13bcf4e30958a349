package bittorrent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"ersatz/eris"
	"ersatz/internal/torrent"
)

// errEnded is what is told to those who wait when a session or the Client ends.
var errEnded = errors.New("bittorrent: session has ended")

// session implements block.Session.
type session struct {
	d     *download
	where func(eris.Ref) (int, int64, bool)
	close sync.Once
}

func (s *session) Close() error {
	s.close.Do(func() { s.d.c.leave(s.d) })
	return nil
}

// fetching is a call that waits for pieces.
type fetching struct {
	woken chan struct{}

	mu    sync.Mutex
	ready []int // pieces that have come
}

// wake says that a piece is there.
func (f *fetching) wake(piece int) {
	f.mu.Lock()
	f.ready = append(f.ready, piece)
	f.mu.Unlock()
	select {
	case f.woken <- struct{}{}:
	default:
	}
}

func (f *fetching) take() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	ready := f.ready
	f.ready = nil
	return ready
}

// Fetch implements eris.Fetcher.
func (s *session) Fetch(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got func(int, []byte) error) error {
	return s.FetchMany(ctx, size, refs, eris.One(got))
}

// FetchMany implements eris.ManyFetcher: a piece has many blocks. Blocks are missing
// whose place is not known, and those that nobody connected has; all of them when
// nothing has come for Options.Idle, or nothing but wrong pieces. An error is of the
// files here.
func (s *session) FetchMany(ctx context.Context, size eris.BlockSize, refs []eris.Ref, got eris.GotMany) error {
	d := s.d
	if err := ctx.Err(); err != nil {
		return err
	}
	if size != d.cap.Size || len(refs) == 0 {
		return nil
	}
	d.redial()
	w := newWatch(d)
	defer w.stop()
	for known := d.known; known != nil; {
		select {
		case <-known:
			known = nil
		case <-d.lost:
			d.redial()
		case <-w.tick.C:
			if w.idle() {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-d.ctx.Done():
			return errEnded
		}
	}
	if err := d.usable(ctx); errors.Is(err, ErrOther) {
		return nil
	} else if err != nil {
		return err
	}
	blocks, order := s.locate(refs)
	f := &fetching{woken: make(chan struct{}, 1)}
	d.want(f, order)
	defer d.forget(f, order)
	d.dropAbsent(blocks)
	row := newRow(size)
	for len(blocks) > 0 {
		select {
		case <-f.woken:
		case <-w.tick.C:
			if w.idle() {
				return nil
			}
			if n := d.spoiledPieces() - w.wrong; n >= maxWrong {
				d.c.log.DebugContext(ctx, "peers give wrong pieces", slog.String("root", d.cap.Root.String()), slog.Int64("in_a_row", n))
				return nil
			}
			d.dropAbsent(blocks)
			continue
		case <-d.lost:
			d.redial()
			continue
		case <-ctx.Done():
			return ctx.Err()
		case <-d.ctx.Done():
			return errEnded
		}
		for _, piece := range f.take() {
			for some := range slices.Chunk(blocks[piece], row.most) {
				if err := row.read(d, some); err != nil {
					return fmt.Errorf("bittorrent: reading a piece: %w", err)
				}
				if _, err := got(row.is, row.blocks); err != nil {
					return err
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
			delete(blocks, piece)
		}
		d.prioritize()
		w.progress()
		w.wrong = d.spoiledPieces()
	}
	return nil
}

// usable returns why no pieces can be had although the metadata was seen. It
// waits until the library has it, too.
func (d *download) usable(ctx context.Context) error {
	d.mu.Lock()
	err := d.refused
	d.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-d.t.Load().GotInfo():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-d.ctx.Done():
		return errEnded
	}
}

// row are blocks of a piece that are handed over together.
type row struct {
	most   int // blocks
	size   int // of one, in bytes
	buf    []byte
	is     []int
	blocks [][]byte
}

func newRow(size eris.BlockSize) *row {
	most := eris.Together(size)
	return &row{most: most, size: int(size), buf: make([]byte, most*int(size))}
}

// read reads most blocks at most.
func (r *row) read(d *download, some []located) error {
	r.is, r.blocks = r.is[:0], r.blocks[:0]
	for k, b := range some {
		block := r.buf[k*r.size : (k+1)*r.size]
		if err := d.read(block, b.place*int64(r.size)); err != nil {
			return err
		}
		r.is, r.blocks = append(r.is, b.index), append(r.blocks, block)
	}
	return nil
}

// located is a block that is asked for.
type located struct {
	index int   // of the reference, in the call
	place int64 // of the block, in the file
}

// locate returns the blocks whose place is known, by piece, and the pieces in
// the order of the call.
func (s *session) locate(refs []eris.Ref) (blocks map[int][]located, order []int) {
	blocks = map[int][]located{}
	size := int64(s.d.cap.Size)
	for i, ref := range refs {
		level, index, ok := s.where(ref)
		if !ok {
			continue
		}
		place, ok := s.d.shape.Number(level, index)
		if !ok {
			continue
		}
		piece := int(place * size / torrent.PieceLength)
		if blocks[piece] == nil {
			order = append(order, piece)
		}
		blocks[piece] = append(blocks[piece], located{i, place})
	}
	return blocks, order
}

// watch finds out when to stop waiting.
type watch struct {
	d     *download
	tick  *time.Ticker
	last  time.Time     // when something came
	bytes int64         // that had come by then
	wrong int64         // pieces that were wrong when one came that was right
	nudge time.Duration // how long nothing may come before peers are nudged
}

// nudgeAfter is how long nothing may come at first before peers are nudged.
const nudgeAfter = 500 * time.Millisecond

// maxWrong is how many wrong pieces in a row peers may give. Those who are found
// are banned after the first that is theirs alone; those who are named are not.
const maxWrong = 8

func newWatch(d *download) *watch {
	return &watch{d: d, tick: time.NewTicker(min(d.c.o.Idle/4, 250*time.Millisecond)), last: time.Now(), bytes: d.bytes(),
		wrong: d.spoiledPieces(), nudge: nudgeAfter}
}

func (w *watch) stop() { w.tick.Stop() }

func (w *watch) progress() { w.last, w.nudge = time.Now(), nudgeAfter }

// idle reports whether nothing has come for too long.
func (w *watch) idle() bool {
	if n := w.d.bytes(); n != w.bytes {
		w.bytes = n
		w.progress()
	}
	if len(w.d.t.Load().PeerConns()) == 0 {
		w.d.redial()
	}
	quiet := time.Since(w.last)
	if quiet >= w.nudge {
		w.nudge *= 2
		w.d.nudgePeers()
	}
	return quiet >= w.d.c.o.Idle
}

// grace is how long after the first peer told what it has others may do so, before
// what it lacks counts as missing.
const grace = time.Second

// dropAbsent leaves out the pieces that nobody connected has.
func (d *download) dropAbsent(blocks map[int][]located) {
	conns := d.t.Load().PeerConns()
	here := map[int]bool{}
	some := false
	for _, conn := range conns {
		pieces := conn.PeerPieces()
		some = some || !pieces.IsEmpty()
		for i := range blocks {
			if pieces.Contains(uint32(i)) {
				here[i] = true
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case len(conns) == 0:
		d.met = time.Time{}
	case some && d.met.IsZero():
		d.met = time.Now()
	}
	if d.seeders > 0 || d.met.IsZero() || time.Since(d.met) < min(grace, d.c.o.Idle) {
		return
	}
	for i := range blocks {
		if !here[i] && !d.pieces[i].has {
			delete(blocks, i)
		}
	}
}

// bytes returns how much has come, of metadata and pieces.
func (d *download) bytes() int64 {
	stats := d.t.Load().Stats()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.came + stats.BytesReadUsefulData.Int64()
}

// spoiledPieces returns how many pieces were wrong so far.
func (d *download) spoiledPieces() int64 {
	stats := d.t.Load().Stats()
	return stats.PiecesDirtiedBad.Int64()
}
