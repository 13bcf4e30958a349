package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"ersatz/eris"
	"ersatz/internal/block/narindex"
	"ersatz/internal/torrent"
	"ersatz/internal/web"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// Contents are baked items by the reference of their root: *narindex.Index. It
// is safe for concurrent use.
type Contents interface {
	// OpenRoot opens an item that allow says, by the hash part of its store path.
	// The error matches eris.ErrNotFound.
	OpenRoot(ctx context.Context, root eris.Ref, allow func(hash string) bool) (*narindex.Content, error)
}

// TorrentDir is where the files of torrents are, and their metainfo.
const TorrentDir = "/eris/torrent/"

const (
	torrentType   = "application/x-bittorrent"
	torrentSuffix = ".torrent"

	// maxFiles bounds the files of torrents, and their metainfo, that are sent at
	// once. A file holds a block and two open files, metainfo 80 bytes per MiB of
	// blocks.
	maxFiles = 256
)

// torrent answers /eris/torrent/NAME with the blocks of a baked item in the order
// of the tree, and NAME.torrent, if its torrent is kept, with that.
func (s *Server) torrent(w http.ResponseWriter, r *http.Request, name string) {
	name, meta := strings.CutSuffix(name, torrentSuffix)
	root, err := eris.ParseRef(name)
	if err != nil || s.opt.Cache == nil || s.opt.Cache.Contents == nil {
		web.NotFound(w, r, 0)
		return
	}
	c, err := s.opt.Cache.Contents.OpenRoot(r.Context(), root, s.isBaked)
	if errors.Is(err, eris.ErrNotFound) {
		web.NotFound(w, r, 0)
		return
	}
	if err != nil {
		s.unavailable(w, r, "opening a content", err)
		return
	}
	defer c.Close() // it is only read
	if meta || r.Method != http.MethodHead {
		select {
		case s.files <- struct{}{}:
			defer func() { <-s.files }()
		default:
			w.Header().Set("Retry-After", "10")
			web.Plain(w, r, http.StatusServiceUnavailable, "Too many torrents are being sent")
			return
		}
	}
	if meta {
		s.metainfo(w, r, c)
	} else {
		s.blockFile(w, r, name, c)
	}
}

// isBaked reports whether the item with a hash part has a narinfo.
func (s *Server) isBaked(hash string) bool {
	_, err := s.root.Stat(s.narinfoFile(hash))
	return err == nil
}

// metainfo sends the .torrent of a content: with the trackers that the narinfo
// names, and this server as web seed, if the request says by what name.
func (s *Server) metainfo(w http.ResponseWriter, r *http.Request, c *narindex.Content) {
	i, err := c.KeptTorrent()
	if errors.Is(err, fs.ErrNotExist) {
		web.NotFound(w, r, 0)
		return
	}
	if err != nil {
		s.unavailable(w, r, "reading a torrent", err)
		return
	}
	scheme := "http"
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" { // by a proxy
		scheme = "https"
	}
	w.Header().Set("Vary", "X-Forwarded-Proto")
	var seeds []string
	if r.Host != "" { // as in HTTP/1.0
		seeds = []string{scheme + "://" + r.Host + TorrentDir + i.Name}
	}
	text := i.Metainfo(s.trackers(c.Base()), seeds)
	sum := sha256.Sum256(text)
	h := w.Header()
	h.Set("Content-Type", torrentType)
	h.Set("Content-Disposition", `attachment; filename="`+i.Name+torrentSuffix+`"`)
	h.Set("ETag", strconv.Quote(hex.EncodeToString(sum[:16])))
	web.MaxAge(h, s.opt.TTL)
	serveContent(w, r, bytes.NewReader(text))
}

// trackers returns the trackers that the narinfo of a baked item names.
func (s *Server) trackers(base string) []string {
	p, err := storepath.ParseBase(s.store.StoreDir(), base)
	if err != nil {
		return nil
	}
	text, _, err := s.bakedNarinfo(p.Hash)
	if err != nil {
		return nil // it has just gone
	}
	n, err := narinfo.Parse(text)
	if err != nil {
		return nil
	}
	m, err := torrent.ParseMagnet(n.ERISMagnet)
	if err != nil {
		return nil // no link, which is no fault
	}
	return m.Trackers
}

// blockFile sends the blocks of a content as one file.
func (s *Server) blockFile(w http.ResponseWriter, r *http.Request, name string, c *narindex.Content) {
	h := w.Header()
	if strings.Contains(r.Header.Get("Range"), ",") {
		// A byte takes the work of a block.
		h.Set("Accept-Ranges", "bytes")
		web.Plain(w, r, http.StatusRequestedRangeNotSatisfiable, "One range at a time")
		return
	}
	h.Set("Content-Type", "application/octet-stream")
	h.Set("ETag", strconv.Quote(name)) // the name is a hash of it all
	h.Set("Cache-Control", "max-age=31536000, immutable")
	f := newBlockReader(r.Context(), c)
	serveContent(w, r, f)
	if f.err != nil && r.Context().Err() == nil {
		s.opt.Log.ErrorContext(r.Context(), "sending a torrent", slog.String("name", name), slog.Any("error", f.err))
	}
}

// blockReader reads the blocks of a content as one file. It makes a block when
// a byte of it is read, and verifies it.
type blockReader struct {
	ctx   context.Context // of the request: a blockReader lives as long
	c     *narindex.Content
	size  int64  // of a block
	off   int64  // of the next byte
	place int64  // of the block at hand
	block []byte // the one at hand, if not nil
	err   error  // the first of the content
}

func newBlockReader(ctx context.Context, c *narindex.Content) *blockReader {
	return &blockReader{ctx: ctx, c: c, size: int64(c.ReadCap().Size)}
}

func (b *blockReader) length() int64 { return b.c.Len() * b.size }

func (b *blockReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.off >= b.length() {
		return 0, io.EOF
	}
	if place := b.off / b.size; b.block == nil || b.place != place {
		b.block = nil
		_, block, err := b.c.Block(b.ctx, place)
		if err != nil {
			b.err = err
			return 0, err
		}
		b.place, b.block = place, block
	}
	n := copy(p, b.block[b.off%b.size:])
	b.off += int64(n)
	return n, nil
}

func (b *blockReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.off
	case io.SeekEnd:
		offset += b.length()
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to %d", offset)
	}
	b.off = offset
	return offset, nil
}
