package node

import (
	"io"
	"log/slog"
	"net/http"
	"strconv"

	"ersatz/internal/web"
	"ersatz/storepath"
)

// nar answers nar/BASE with the nar as it is.
func (c call) nar(base string) {
	p, err := storepath.ParseBase("/", base)
	if err != nil {
		web.NotFound(c.w, c.r, 0)
		return
	}
	x, ttl, err := c.find(p.Hash)
	if err == nil && x.choice.Path.Base() != base {
		err, ttl = errAbsent, 0
	}
	if err != nil {
		c.refuse(p.Hash, ttl, err)
		return
	}
	if c.r.Method == http.MethodHead {
		sendHead(c.w, x.size)
		return
	}
	want := x.want(c.face.kind)
	want.Kept = !c.local
	nar, err := c.transfers.Get(c.r.Context(), want)
	if err != nil {
		c.refuse(p.Hash, soon, err)
		return
	}
	defer nar.Close()
	sendHead(c.w, x.size)
	c.sendNar(c.w, c.r, nar, x.size, x.choice.Path)
}

// sendHead begins the answer with a nar.
func sendHead(w http.ResponseWriter, size int64) {
	w.Header().Set("Content-Type", narType)
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(http.StatusOK)
}

// sendNar sends a nar whose size was announced. One that does not come whole
// ends with the connection: it must not look complete.
func (n *Node) sendNar(w http.ResponseWriter, r *http.Request, nar io.Reader, size int64, p storepath.Path) {
	// The buffer is ours: neither side knows a better way than to copy.
	sent, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.LimitReader(nar, size)}, make([]byte, piece))
	if err == nil && sent < size {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		return
	}
	if r.Context().Err() == nil {
		n.log.WarnContext(r.Context(), "nar is cut off", slog.String("store_path", p.String()),
			slog.Int64("sent", sent), slog.Int64("size", size), slog.Any("error", err))
	}
	panic(http.ErrAbortHandler)
}
