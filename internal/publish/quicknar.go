package publish

import (
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

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
	from, n, meter := int64(0), f.Size(), s.nars
	if r.Range != nil {
		from, n, ok = web.Span(r.Range, f.Size())
		if !ok || r.IfRange != nil && string(r.IfRange) != etag(f) {
			_ = f.Close() // read only
			return web.Answer{}, false
		}
		meter = s.parts
	}
	if s.asked.first(p.Hash, r.Time) {
		s.opt.Cache.Baker.Touch(p.Hash)
	}
	a.Head = s.narHead(r, f, from, n)
	meter.Begin()
	if r.Head {
		meter.Done()
		return a, f.Close() == nil
	}
	f.Part(from, n)
	a.File, a.Meter = f, meter
	return a, true
}

// asked knows of which items nars were asked for in this second: to note that
// takes as long as to open a file. It forgets some. It is safe for concurrent use.
type asked struct {
	seed  maphash.Seed
	items [1024]atomic.Uint64
}

// first reports whether an item, by its hash part, may not have been asked for in
// this second yet.
func (a *asked) first(hash string, now time.Time) bool {
	h := maphash.String(a.seed, hash)
	item := h ^ uint64(now.Unix())
	return a.items[h%uint64(len(a.items))].Swap(item) != item
}

// narHead returns the head of an answer of n bytes of a nar, as http.ServeContent
// has it.
func (s *Server) narHead(r web.Request, f *web.File, from, n int64) []byte {
	b := r.Buffer
	if r.Range != nil {
		b = append(b, "HTTP/1.1 206 Partial Content\r\n"...)
	} else {
		b = append(b, "HTTP/1.1 200 OK\r\n"...)
	}
	b = append(b, "Accept-Ranges: bytes\r\n"...)
	if s.maxAge != "" {
		b = append(append(append(b, "Cache-Control: "...), s.maxAge...), "\r\n"...)
	}
	b = strconv.AppendInt(append(b, "Content-Length: "...), n, 10)
	if r.Range != nil {
		b = strconv.AppendInt(append(b, "\r\nContent-Range: bytes "...), from, 10)
		b = strconv.AppendInt(append(b, '-'), from+n-1, 10)
		b = strconv.AppendInt(append(b, '/'), f.Size(), 10)
	}
	b = append(b, "\r\nContent-Type: "+binary+"\r\nEtag: "...)
	return append(appendETag(b, f), "\r\n"...)
}
