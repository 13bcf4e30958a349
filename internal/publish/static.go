package publish

import (
	"fmt"
	"net/http"
)

// homePage is what Guix shows, with this program's name.
const homePage = `<!DOCTYPE html><html><head><title>GNU Guix Substitute Server</title></head><body>` +
	`<h1>GNU Guix Substitute Server</h1><p>Hi, <tt>ersatz publish</tt> speaking.  Welcome!</p>` +
	`<p>Here is the <a href="signing-key.pub"><tt>signing key</tt></a> for this server. Knock yourselves out!</p></body></html>`

func home(w http.ResponseWriter, r *http.Request) {
	send(w, r, http.StatusOK, "text/html;charset=UTF-8", []byte(homePage))
}

func (s *Server) cacheInfo(w http.ResponseWriter, r *http.Request) {
	text := fmt.Appendf(nil, "StoreDir: %s\nWantMassQuery: 0\nPriority: 100\n", s.store.StoreDir())
	send(w, r, http.StatusOK, "text/plain;charset=utf-8", text)
}

func (s *Server) signingKey(w http.ResponseWriter, r *http.Request) {
	send(w, r, http.StatusOK, "text/plain;charset=UTF-8", s.key.Public().Text())
}
