package keep

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/narinfo"
)

// Files of a part.
const (
	contentFile = "content" // sparse: leaf n stands at n times the block size
	nodesFile   = "nodes"   // internal nodes, as they came
	aboutFile   = "about"   // a record
)

// PartID names a part: BlocksID or NarID.
type PartID string

const (
	blocksPrefix = "b-"
	narPrefix    = "n-"
)

// BlocksID names the part that the blocks of a read capability fill.
func BlocksID(c eris.ReadCap) PartID {
	return PartID(blocksPrefix + eris.BlockRef([]byte(c.URN())).String())
}

// NarID names the part that a nar from one server fills: bytes of what differs
// in anything that the server says of the file cannot be mixed.
func NarID(a About) PartID {
	h := sha256.New()
	for _, s := range []string{
		narinfo.FormatHash(a.Item.NarHash), a.Item.Method, a.Item.Server, a.ETag, strconv.FormatInt(a.FileSize, 10),
	} {
		fmt.Fprintf(h, "%d:%s,", len(s), s)
	}
	return PartID(narPrefix + eris.Ref(h.Sum(nil)).String())
}

// Part is a file that is being filled: in any order with the nodes of an ERIS
// tree (it is what an eris.Filler keeps nodes in), or from its start with a
// nar. Its methods are safe for concurrent use, but there is one Append at a
// time.
//
// Nothing in its files is trusted, so nothing is synced before Commit: what a
// crash has left is verified when it is taken up.
type Part struct {
	s       *Store
	number  uint64 // no other part has it
	id      PartID
	dir     string
	about   About
	size    eris.BlockSize // 0 for a nar
	limit   int64          // of the content, in bytes
	content *durable.Scratch
	nodes   *durable.Scratch // nil for a nar

	// Under Store.mu:
	bytes int64 // on disk, as far as is known
	large bool  // larger than the quota, and not counted

	mu      sync.Mutex
	refs    int   // its user, readers, and those who read blocks just now
	end     error // not nil: no more comes, and why
	length  int64 // of the content, from Finish; -1 before
	resets  int
	changed chan struct{} // closed when front or end changes; nil if nobody waits
	gone    bool          // committed, or dropped: there is nothing to keep
	closed  bool
	filled  filled
}

// filled is what of a part is there.
type filled struct {
	front  int64             // bytes of a nar; leaves without a gap from the first on
	top    int64             // no leaf from here on is there
	stored bitmap            // leaves, verified or not
	done   bitmap            // leaves that were verified
	nodes  map[nodeID]int64  // internal nodes: where they are in the file
	tail   int64             // where the next internal node goes
	served map[uint64]nodeID // verified nodes, by the first bytes of their reference
}

// nodeID is a node's level, in the highest byte, and its index in the level.
type nodeID uint64

func makeID(level int, index int64) nodeID { return nodeID(level)<<56 | nodeID(index) }

func (n nodeID) level() int   { return int(n >> 56) }
func (n nodeID) index() int64 { return int64(n & (1<<56 - 1)) }

// maxServed bounds the nodes of a part of which blocks are served, at 40 bytes
// of memory each: 32 GiB of content at 32 KiB.
const maxServed = 1 << 20

// maxLeaves bounds the leaves of a part, 1 TiB of content at 32 KiB: their places are
// remembered, here by two bits each and by who fills it with 48 bytes for 512. The
// size that a narinfo gives bounds nothing where everyone's narinfos count.
const maxLeaves = 1 << 25

// Part returns the part named id: a new one, or with what was left of it when
// it was closed or the process was killed. about must fit the id. The error
// matches ErrBusy if somebody has the part. Close the Part.
func (s *Store) Part(id PartID, about About) (*Part, error) {
	if id != NarID(about) && (id != BlocksID(about.Item.ReadCap) || !about.Item.ReadCap.Size.Valid()) {
		return nil, fmt.Errorf("keep: part %s is of something else", id)
	}
	record, err := about.encode()
	if err != nil {
		return nil, err
	}
	p := &Part{
		s: s, number: s.numbers.Add(1), id: id, dir: s.path(path.Join(partsDir, string(id))), about: about, refs: 1, length: -1,
		limit: compress.Bound(about.Item.NarSize), filled: filled{nodes: map[nodeID]int64{}, served: map[uint64]nodeID{}},
	}
	if strings.HasPrefix(string(id), blocksPrefix) {
		p.size = about.Item.ReadCap.Size
		p.limit = min(p.limit, maxLeaves*int64(p.size))
	}
	s.mu.Lock()
	for other, busy := s.parts[id]; busy; other, busy = s.parts[id] {
		s.mu.Unlock()
		if other != nil {
			return nil, ErrBusy
		}
		s.change.Lock() // who evicts it has that
		s.mu.Lock()
		s.change.Unlock()
	}
	s.parts[id] = p
	l := s.idle[id]
	delete(s.idle, id)
	p.bytes = l.size
	p.count(0)
	if about.FileSize > s.quota && !p.large {
		p.large = true
		s.partBytes -= p.bytes
	}
	s.mu.Unlock()
	if err := p.open(record); err != nil {
		return nil, errors.Join(fmt.Errorf("keep: part of %s: %w", about.Item.Path, err), p.Close())
	}
	return p, nil
}

// Left returns what the parts of whole nars are of that nobody has and that
// hold something of a nar, the longest first. One that cannot be read is none.
func (s *Store) Left(narHash [32]byte) []About {
	type part struct {
		id   PartID
		size int64
	}
	var parts []part
	s.mu.Lock()
	for id, l := range s.idle {
		if l.narHash == narHash && strings.HasPrefix(string(id), narPrefix) {
			parts = append(parts, part{id, l.size})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(parts, func(a, b part) int { return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.id, b.id)) })
	var all []About
	for _, p := range parts {
		a, err := readRecord(filepath.Join(s.path(path.Join(partsDir, string(p.id))), aboutFile))
		switch {
		case err == nil:
			all = append(all, a)
		case !errors.Is(err, fs.ErrNotExist): // it may just have gone
			s.log.Warn("part cannot be read, and is not gone on with", slog.String("part", string(p.id)), slog.Any("error", err))
		}
	}
	return all
}

// open opens the files, and finds out what is there.
func (p *Part) open(record []byte) (err error) {
	if err := durable.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	about := filepath.Join(p.dir, aboutFile)
	err = durable.WriteFile(about, 0o644, func(w io.Writer) error {
		_, err := w.Write(record)
		return err
	})
	if err != nil {
		return err
	}
	if p.content, err = durable.OpenScratch(filepath.Join(p.dir, contentFile)); err != nil {
		return err
	}
	if p.size == 0 {
		fi, err := p.content.Stat()
		if err == nil {
			p.filled.front = fi.Size()
		}
		return err
	}
	if p.nodes, err = durable.OpenScratch(filepath.Join(p.dir, nodesFile)); err != nil {
		return err
	}
	return p.readNodes()
}

// Limit returns how long the content may be, in bytes.
func (p *Part) Limit() int64 { return p.limit }

// count counts n bytes more on disk. The caller has Store.mu.
func (p *Part) count(n int64) {
	p.bytes += n
	switch {
	case p.large:
	case p.bytes > p.s.quota:
		p.large = true
		p.s.partBytes -= p.bytes - n
	default:
		p.s.partBytes += n
	}
}

// grown counts n bytes more, and makes place for them.
func (p *Part) grown(n int64) {
	p.s.mu.Lock()
	p.count(n)
	p.s.mu.Unlock()
	p.s.trim()
}

// Close ends the use of the part. Its files stay for the next time, unless it
// was committed or is larger than all that may be kept.
func (p *Part) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	if p.end == nil {
		p.end = ErrClosed
	}
	p.notify()
	gone := p.gone
	p.mu.Unlock()
	var err error
	s := p.s
	s.mu.Lock()
	drop := p.large && !gone
	s.mu.Unlock()
	if drop {
		err = removePart(p.dir)
	}
	l := leftIn(p.dir) // nothing, if it is gone
	s.mu.Lock()
	p.count(-p.bytes)
	delete(s.parts, p.id)
	if !gone && !drop && !l.used.IsZero() {
		l.used, l.narHash = s.now(), p.about.Item.NarHash
		s.idle[p.id] = l
		s.partBytes += l.size
	}
	s.retry = time.Time{}
	s.mu.Unlock()
	err = errors.Join(err, p.release())
	s.trim()
	s.thin(context.Background()) // what was begun is ended
	return err
}

// retain counts one more who uses the files. It reports whether they are open.
func (p *Part) retain() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refs == 0 {
		return false
	}
	p.refs++
	return true
}

// release closes the files when nobody uses them any more.
func (p *Part) release() error {
	p.mu.Lock()
	p.refs--
	last := p.refs == 0
	p.mu.Unlock()
	if !last {
		return nil
	}
	var errs []error
	for _, f := range []*durable.Scratch{p.content, p.nodes} {
		if f == nil {
			continue
		}
		if err := f.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
