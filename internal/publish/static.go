package publish

import (
	"net/http"
	"strings"

	"ersatz/internal/bake"
	"ersatz/internal/web"
)

// The home page is what Guix shows, with this program's name, and the keys
// that there are.
const (
	homeTitle = "GNU Guix Substitute Server"
	homePage  = `<!DOCTYPE html><html><head><title>TITLE</title></head><body>` +
		`<h1>TITLE</h1><p>Hi, <tt>ersatz publish</tt> speaking.  Welcome!</p>KEYS</body></html>`
	homeKey    = `<p>Here is the <a href="` + bake.KeyFile + `"><tt>signing key</tt></a> for this server. Knock yourselves out!</p>`
	homeNixKey = `<p>Here is the <a href="` + bake.NixKeyFile + `"><tt>public key</tt></a> for Nix.</p>`
)

func (s *Server) home(w http.ResponseWriter, r *http.Request) {
	title, keys := homeTitle, ""
	if s.signer.Guix != nil {
		keys += homeKey
	} else {
		title = "Nix Binary Cache"
	}
	if s.signer.Nix != nil {
		keys += homeNixKey
	}
	page := strings.NewReplacer("TITLE", title, "KEYS", keys).Replace(homePage)
	web.Send(w, r, http.StatusOK, "text/html;charset=UTF-8", []byte(page))
}

func (s *Server) cacheInfo(w http.ResponseWriter, r *http.Request) {
	web.Send(w, r, http.StatusOK, "text/plain;charset=utf-8", s.signer.CacheInfo(s.store.StoreDir()))
}

func (s *Server) signingKey(w http.ResponseWriter, r *http.Request) {
	if s.signer.Guix == nil {
		web.NotFound(w, r, 0)
		return
	}
	web.Send(w, r, http.StatusOK, "text/plain;charset=UTF-8", s.signer.Guix.Public().Text())
}

func (s *Server) nixKey(w http.ResponseWriter, r *http.Request) {
	if s.signer.Nix == nil {
		web.NotFound(w, r, 0)
		return
	}
	web.Send(w, r, http.StatusOK, "text/plain;charset=UTF-8", []byte(s.signer.Nix.Public().String()+"\n"))
}
