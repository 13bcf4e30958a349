package node

import (
	"encoding/json"
	"fmt"
	"net/http"

	"ersatz/internal/nodeapi"
	"ersatz/internal/web"
	"ersatz/narinfo"
)

func (n *Node) socketStatus(w http.ResponseWriter, r *http.Request) {
	u := n.store.Usage()
	sendJSON(w, r, nodeapi.Status{
		Version: n.o.Version, Started: n.started, Listen: n.o.Listen, State: n.dir, Share: n.o.Share.String(), Upstreams: n.upstreams.status(),
		Networks: n.o.Networks(),
		Kept:     nodeapi.Kept{Items: u.Items, ItemBytes: u.ItemBytes, Parts: u.Parts, PartBytes: u.PartBytes, Quota: u.Quota},
	})
}

func (n *Node) socketPeers(w http.ResponseWriter, r *http.Request) {
	peers := n.o.Peers()
	if peers == nil {
		peers = []nodeapi.Peer{}
	}
	sendJSON(w, r, peers)
}

// socketHave asks peers what they hold of nars.
func (n *Node) socketHave(w http.ResponseWriter, r *http.Request) {
	var req nodeapi.HaveRequest
	if !n.readJSON(w, r, nodeapi.MaxHaveBody, &req) {
		return
	}
	if len(req.NarHashes) > nodeapi.MaxHave {
		web.Plain(w, r, http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d hashes", nodeapi.MaxHave))
		return
	}
	hashes := make([][32]byte, len(req.NarHashes))
	for i, text := range req.NarHashes {
		var err error
		if hashes[i], err = narinfo.ParseHash(text); err != nil {
			web.Plain(w, r, http.StatusBadRequest, err.Error())
			return
		}
	}
	if !n.haves.take(r.Context()) {
		return
	}
	defer n.haves.give()
	sendJSON(w, r, n.o.Have(r.Context(), hashes))
}

func sendJSON(w http.ResponseWriter, r *http.Request, v any) {
	text, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		web.Plain(w, r, http.StatusInternalServerError, err.Error())
		return
	}
	web.Send(w, r, http.StatusOK, "application/json", append(text, '\n'))
}
