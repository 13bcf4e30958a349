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
	"time"

	"ersatz/internal/bake"
	"ersatz/internal/compress"
	"ersatz/internal/storedb"
	"ersatz/internal/web"
	"ersatz/narinfo"
	"ersatz/storepath"
)

const (
	narinfoType = "application/x-nix-narinfo;charset=utf-8"

	// soon is for how long an answer holds that is another once the item is
	// baked.
	soon = 5 * time.Minute
)

// narinfo answers /HASH.narinfo. What was baked is sent without a look at the
// store.
func (s *Server) narinfo(w http.ResponseWriter, r *http.Request, hash string) {
	if s.root != nil {
		text, _, err := s.bakedNarinfo(hash)
		if err == nil {
			s.opt.Cache.Baker.Touch(hash)
			s.narinfoHeader(w.Header(), text)
			serveContent(w, r, bytes.NewReader(text))
			return
		}
		if !errors.Is(err, fs.ErrNotExist) {
			s.unavailable(w, r, "reading a baked narinfo", err)
			return
		}
	}
	info, err := s.store.Lookup(r.Context(), hash)
	switch {
	case errors.Is(err, storedb.ErrNotFound):
		if s.root != nil {
			if p, ok := s.opt.Cache.Baker.Adoptable(r.Context(), hash); ok && s.bake(r.Context(), p) {
				s.baking(w, r)
				return
			}
		}
		web.NotFound(w, r, s.opt.NegativeTTL)
	case err != nil:
		s.unavailable(w, r, "asking the store database for an item", err)
	case s.root == nil:
		s.liveNarinfo(w, r, info, s.opt.TTL)
	case !s.bake(r.Context(), info.Path):
		web.NotFound(w, r, s.opt.NegativeTTL)
	case s.bypass(info):
		s.liveNarinfo(w, r, info, soon)
	default:
		s.baking(w, r)
	}
}

// narinfoHeader sets the fields that belong to a baked narinfo.
func (s *Server) narinfoHeader(h http.Header, text []byte) {
	sum := sha256.Sum256(text)
	h.Set("Content-Type", narinfoType)
	h.Set("ETag", strconv.Quote(hex.EncodeToString(sum[:16])))
	web.MaxAge(h, s.opt.TTL)
}

// bakedNarinfo reads a narinfo from the cache.
func (s *Server) bakedNarinfo(hash string) ([]byte, fs.FileInfo, error) {
	f, err := s.root.Open(s.narinfoFile(hash))
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, narinfo.MaxSize+1))
	if err == nil && len(text) > narinfo.MaxSize {
		err = fmt.Errorf("%s: more than %d bytes", f.Name(), narinfo.MaxSize)
	}
	return text, fi, err
}

// bypass reports whether an item may be served before it is baked.
func (s *Server) bypass(info storedb.Info) bool {
	return s.opt.BypassThreshold > 0 && info.NarSize < uint64(s.opt.BypassThreshold)
}

// bake queues an item, and reports whether it may be announced: not if its
// files are not what the store's database says. With a full queue it may, since
// clients come again.
func (s *Server) bake(ctx context.Context, p storepath.Path) bool {
	err := s.opt.Cache.Baker.Bake(p)
	switch {
	case err == nil:
		return true
	case errors.Is(err, bake.ErrFailed), errors.Is(err, bake.ErrBusy): // logged where it happens
		s.opt.Log.DebugContext(ctx, "not queued", slog.String("store_path", p.String()), slog.Any("error", err))
	default:
		s.opt.Log.ErrorContext(ctx, "queueing a bake", slog.String("store_path", p.String()), slog.Any("error", err))
	}
	return !errors.Is(err, bake.ErrFailed)
}

// baking says that the item is there and its narinfo will be.
func (s *Server) baking(w http.ResponseWriter, r *http.Request) {
	web.MaxAge(w.Header(), soon)
	w.Header().Set("X-Baking", "1")
	web.Plain(w, r, http.StatusNotFound, "We're baking it: "+r.URL.EscapedPath())
}

// liveNarinfo answers with a narinfo signed on request.
func (s *Server) liveNarinfo(w http.ResponseWriter, r *http.Request, info storedb.Info, ttl time.Duration) {
	b, err := s.liveReady(info, ttl)
	if err != nil {
		s.unavailable(w, r, "signing a narinfo", err)
		return
	}
	web.MaxAge(w.Header(), ttl)
	web.Send(w, r, http.StatusOK, narinfoType, b.Body)
}

// sign makes the narinfo of an item, without the sizes of files that are not
// there yet.
func (s *Server) sign(info storedb.Info) ([]byte, error) {
	layout := bake.Layout{NarPath: s.opt.NarPath}
	var nars []narinfo.Nar
	for _, m := range bake.Methods(info.Path.Base(), s.opt.Methods) {
		n := narinfo.Nar{URL: layout.URL(m, info.Path.Base()), Compression: m.Name}
		if m == compress.None {
			n.FileSize = info.NarSize
		}
		nars = append(nars, n)
	}
	return s.signer.Narinfo(info, bake.Encoded{}, nars)
}

// serveContent sends content with Range, If-Range and If-None-Match; the
// header has its Content-Type and ETag. There is no Last-Modified: it knows
// seconds, and two bakes can fall in one.
func serveContent(w http.ResponseWriter, r *http.Request, content io.ReadSeeker) {
	http.ServeContent(w, r, "", time.Time{}, content)
}
