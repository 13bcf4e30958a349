package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strconv"

	"ersatz/internal/bake"
	"ersatz/internal/compress"
	"ersatz/internal/storedb"
	"ersatz/internal/web"
	"ersatz/nar"
	"ersatz/storepath"
)

// nar answers /nar/METHOD/BASE and, with the method none, /nar/BASE.
func (s *Server) nar(w http.ResponseWriter, r *http.Request, method, base string) {
	p, err := storepath.ParseBase(s.store.StoreDir(), base)
	if err != nil {
		web.NotFound(w, r, 0)
		return
	}
	m := s.method(method)
	if s.root != nil {
		served, err := s.bakedNar(w, r, p, m)
		if err != nil {
			s.unavailable(w, r, "opening a baked nar", err)
		}
		if served || err != nil {
			return
		}
	}
	info, err := s.store.Info(r.Context(), p)
	switch {
	case errors.Is(err, storedb.ErrNotFound), err == nil && s.root != nil && !s.bypass(info):
		web.NotFound(w, r, 0)
	case err != nil:
		s.unavailable(w, r, "asking the store database for an item", err)
	default:
		s.liveNar(w, r, info, m)
	}
}

// method returns the level at which a method is applied while the client
// waits: as configured, 3 if it is not; at most 2 where a better nar is being
// baked meanwhile.
func (s *Server) method(name string) compress.Method {
	if name == compress.None.Name {
		return compress.None
	}
	m := compress.Method{Name: name, Level: 3}
	if i := slices.IndexFunc(s.opt.Methods, func(m compress.Method) bool { return m.Name == name }); i >= 0 {
		m = s.opt.Methods[i]
	}
	if s.root != nil {
		m.Level = min(m.Level, 2)
	}
	return m
}

// bakedNar sends a nar from the cache, if it is there.
func (s *Server) bakedNar(w http.ResponseWriter, r *http.Request, p storepath.Path, m compress.Method) (served bool, err error) {
	f, err := s.root.Open(bake.Layout{NarPath: s.opt.NarPath}.Nar(m, p.Base()))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return false, err
	}
	s.opt.Cache.Baker.Touch(p.Hash)
	w.Header().Set("Content-Type", binary)
	w.Header().Set("ETag", etag(fi))
	web.MaxAge(w.Header(), s.opt.TTL)
	serveContent(w, r, f)
	return true, nil
}

// liveNar dumps, compresses and sends an item in one go. A client can tell a
// nar that was cut short: the length is announced, or the body is chunked.
func (s *Server) liveNar(w http.ResponseWriter, r *http.Request, info storedb.Info, m compress.Method) {
	if r.Method != http.MethodHead {
		select {
		case s.live <- struct{}{}:
			defer func() { <-s.live }()
		default:
			w.Header().Set("Retry-After", "10")
			web.Plain(w, r, http.StatusServiceUnavailable, "Too many nars are being made")
			return
		}
	}
	h := w.Header()
	h.Set("Content-Type", "application/x-nix-archive;charset=ISO-8859-1")
	if m == compress.None {
		h.Set("Content-Length", strconv.FormatUint(info.NarSize, 10))
	}
	if r.Method == http.MethodHead {
		return
	}
	out := &gate{w: w}
	err := dump(r.Context(), out, info, m)
	if err == nil {
		return
	}
	if out.n <= 1 && !errors.Is(err, errChanged) && !errors.Is(err, fs.ErrNotExist) {
		clear(h)
		s.unavailable(w, r, "sending a nar", err)
		return
	}
	if r.Context().Err() == nil {
		s.opt.Log.WarnContext(r.Context(), "sending a nar", slog.String("store_path", info.Path.String()), slog.Any("error", err))
	}
	if out.n > 1 {
		panic(http.ErrAbortHandler) // cut it: it must not look complete
	}
	clear(h)
	web.NotFound(w, r, 0)
}

// errChanged means that an item is not what the store's database says.
var errChanged = errors.New("is not what the store database says")

// dump writes the compressed nar of an item. The last byte comes only if hash
// and size are those of the store's database.
func dump(ctx context.Context, out *gate, info storedb.Info, m compress.Method) error {
	z, err := compress.NewWriter(out, m)
	if err != nil {
		return err
	}
	got, err := nar.Dump(z, info.Path.String())
	if err == nil && (got.Hash != info.NarHash || uint64(got.Size) != info.NarSize) {
		err = fmt.Errorf("%s: %w: %d bytes instead of %d, or another hash", info.Path, errChanged, got.Size, info.NarSize)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		out.shut = true // closing z, which frees its memory, ends the stream
	}
	return errors.Join(err, z.Close(), out.finish())
}

// gate holds the last byte back until all is known to be right, and lets
// nothing through once it is shut.
type gate struct {
	w    io.Writer
	last [1]byte // held back, if n > 0
	n    int64   // bytes taken
	shut bool
}

func (g *gate) Write(b []byte) (int, error) {
	if g.shut || len(b) == 0 {
		return len(b), nil
	}
	if g.n > 0 {
		if _, err := g.w.Write(g.last[:]); err != nil {
			return 0, err
		}
	}
	g.last[0] = b[len(b)-1]
	g.n += int64(len(b))
	if len(b) == 1 {
		return 1, nil // net/http takes an empty write for the body's begin
	}
	_, err := g.w.Write(b[:len(b)-1])
	return len(b), err
}

// finish lets the last byte go.
func (g *gate) finish() error {
	if g.shut || g.n == 0 {
		return nil
	}
	_, err := g.w.Write(g.last[:])
	return err
}
