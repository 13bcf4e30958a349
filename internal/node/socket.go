package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"ersatz/internal/metrics"
	"ersatz/internal/nodeapi"
	"ersatz/internal/upstream"
	"ersatz/internal/web"
	"ersatz/narinfo"
	"ersatz/storepath"
)

const (
	// maxBodies bounds the requests of the socket that are read at once, of each
	// of the two groups of slots.
	maxBodies = 8

	// maxHaves bounds the requests for which peers are asked at once: anybody on
	// this machine can make them.
	maxHaves = 4
)

// slots bound what is done at once.
type slots chan struct{}

// take waits for a slot, and reports whether it has got one, which give gives
// back.
func (s slots) take(ctx context.Context) bool {
	select {
	case s <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s slots) give() { <-s }

// Socket returns the handler of the Unix socket. Nars are given to those who
// may change the store anyway, see mayFill. What they say of an item is kept and served to others.
func (n *Node) Socket() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+nodeapi.NarPath, n.socketNar)
	mux.HandleFunc("POST "+nodeapi.AheadPath, n.socketAhead)
	mux.HandleFunc("POST "+nodeapi.HavePath, n.socketHave)
	mux.HandleFunc("GET "+nodeapi.PeersPath, n.socketPeers)
	mux.HandleFunc("GET "+nodeapi.StatusPath, n.socketStatus)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.logRequest(r)
		kind := metrics.Other
		switch r.URL.Path {
		case nodeapi.NarPath:
			kind = metrics.NarFile
		case nodeapi.AheadPath:
			kind = metrics.Ahead
		case nodeapi.HavePath:
			kind = metrics.Have
		}
		n.o.Requests.Serve(w, r, metrics.Socket, kind, func(w http.ResponseWriter, r *http.Request) {
			timeBody(w, r)
			mux.ServeHTTP(newOutlet(w, r, nil), r)
		})
	})
}

func (n *Node) socketNar(w http.ResponseWriter, r *http.Request) {
	var req nodeapi.NarRequest
	if !n.readJSON(w, r, nodeapi.MaxNarBody, &req) {
		return
	}
	p, err := storepath.Parse(req.Path)
	if err != nil {
		web.Plain(w, r, http.StatusBadRequest, err.Error())
		return
	}
	if !n.mayFill(r, p.Dir) {
		forbid(w, r, p.Dir)
		return
	}
	if len(req.Narinfos) > nodeapi.MaxNarinfos {
		web.Plain(w, r, http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d narinfos", nodeapi.MaxNarinfos))
		return
	}
	x, err := n.chooseGiven(p, req.Narinfos)
	if err != nil {
		web.Plain(w, r, http.StatusBadRequest, err.Error())
		return
	}
	nar, err := n.transfers.Get(r.Context(), x.want(kindOf(p.Dir)))
	switch {
	case errors.Is(err, ErrNone):
		web.Plain(w, r, http.StatusNotFound, err.Error())
		return
	case err != nil:
		web.Plain(w, r, http.StatusBadGateway, err.Error())
		return
	}
	defer nar.Close()
	w.Header().Set(nodeapi.SourceHeader, headerText(nar.Source()))
	sendHead(w, x.size)
	n.sendNar(w, r, nar, x.size, p)
}

// socketAhead takes what may be asked for soon.
func (n *Node) socketAhead(w http.ResponseWriter, r *http.Request) {
	var req nodeapi.AheadRequest
	if !n.readJSON(w, r, nodeapi.MaxAheadBody, &req) {
		return
	}
	if len(req.Narinfos) > nodeapi.MaxAhead {
		web.Plain(w, r, http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d narinfos", nodeapi.MaxAhead))
		return
	}
	given := map[storepath.Path][]nodeapi.Narinfo{}
	var order []storepath.Path
	for _, g := range req.Narinfos {
		parsed, err := narinfo.Parse([]byte(g.Text))
		if err != nil {
			web.Plain(w, r, http.StatusBadRequest, err.Error())
			return
		}
		p, err := storepath.Parse(parsed.StorePath)
		if err != nil {
			web.Plain(w, r, http.StatusBadRequest, err.Error())
			return
		}
		if !n.mayFill(r, p.Dir) {
			forbid(w, r, p.Dir)
			return
		}
		if len(given[p]) == 0 {
			order = append(order, p)
		}
		if given[p] = append(given[p], g); len(given[p]) > nodeapi.MaxNarinfos {
			web.Plain(w, r, http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d narinfos of an item", nodeapi.MaxNarinfos))
			return
		}
	}
	var wants []Want
	for _, p := range order {
		x, err := n.chooseGiven(p, given[p])
		if err != nil {
			web.Plain(w, r, http.StatusBadRequest, err.Error())
			return
		}
		wants = append(wants, x.want(kindOf(p.Dir)))
	}
	n.transfers.Ahead(wants)
	w.WriteHeader(http.StatusAccepted)
}

func forbid(w http.ResponseWriter, r *http.Request, storeDir string) {
	web.Plain(w, r, http.StatusForbidden, "only root and, if this node serves it, the owner of "+storeDir+" may ask for its items")
}

// chooseGiven takes the narinfos of a client as those that count.
func (n *Node) chooseGiven(p storepath.Path, given []nodeapi.Narinfo) (found, error) {
	answers := make([]upstream.Answer, len(given))
	for i, g := range given {
		sv, err := upstream.ParseServer(g.Server)
		if err != nil {
			return found{}, err
		}
		if sv.IsFolder() {
			return found{}, fmt.Errorf("server %s: only http and https are asked for others", sv)
		}
		answers[i] = upstream.Answer{Server: sv, Text: []byte(g.Text)}
	}
	return choose(p, answers, n.signers.anything)
}

// readJSON reads a request, or answers that it is none. It waits while many are
// being read: those who may fill a usual store not for others.
func (n *Node) readJSON(w http.ResponseWriter, r *http.Request, most int64, to any) bool {
	reading := n.reading
	if n.mayFill(r, storepath.Guix) || n.mayFill(r, storepath.Nix) {
		reading = n.readingFirst
	}
	if !reading.take(r.Context()) {
		return false
	}
	defer reading.give()
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err == nil {
		err = json.Unmarshal(text, to)
	}
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		web.Plain(w, r, http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d bytes", most))
	case err != nil:
		web.Plain(w, r, http.StatusBadRequest, "JSON: "+err.Error())
	}
	return err == nil
}

// headerText makes a text fit for a header.
func headerText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, web.Clip(s))
}
