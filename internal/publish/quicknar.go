package publish

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"ersatz/internal/web"
	"ersatz/storepath"
)

// compressed are the methods that URLs of nars name.
var compressed = []string{"gzip", "lzip", "zstd"}

// quickNar answers for a baked nar as ServeHTTP does. It leaves all else to that.
func (s *Server) quickNar(r web.Request) (a web.Answer, ok bool) {
	name := string(r.Path[1:])
	base, ok := strings.CutPrefix(name, s.prefix)
	if !ok || s.folder == nil {
		return web.Answer{}, false
	}
	if method, rest, ok := strings.Cut(base, "/"); ok && slices.Contains(compressed, method) {
		base = rest
	}
	p, err := storepath.ParseBase(s.store.StoreDir(), base)
	if err != nil {
		return web.Answer{}, false
	}
	f, err := s.folder.Open(name)
	if err != nil {
		return web.Answer{}, false
	}
	s.opt.Cache.Baker.Touch(p.Hash)
	h := http.Header{"Accept-Ranges": {"bytes"}, "Content-Type": {binary}, "Content-Length": {strconv.FormatInt(f.Size(), 10)}}
	h.Set("ETag", etag(f))
	web.MaxAge(h, s.opt.TTL)
	a.Head = web.AnswerHead(http.StatusOK, h)
	s.nars.Begin()
	if r.Head {
		s.nars.Done()
		return a, f.Close() == nil
	}
	a.File, a.Meter = f, s.nars
	return a, true
}
