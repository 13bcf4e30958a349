package node

import (
	"encoding/json"
	"net/http"

	"ersatz/internal/nodeapi"
	"ersatz/internal/web"
)

func (n *Node) socketStatus(w http.ResponseWriter, r *http.Request) {
	u := n.store.Usage()
	sendJSON(w, r, nodeapi.Status{
		Started: n.started, Share: n.o.Share.String(), Upstreams: n.upstreams.status(),
		Kept: nodeapi.Kept{Items: u.Items, ItemBytes: u.ItemBytes, Parts: u.Parts, PartBytes: u.PartBytes, Quota: u.Quota},
	})
}

func (n *Node) socketPeers(w http.ResponseWriter, r *http.Request) {
	peers := n.o.Peers()
	if peers == nil {
		peers = []nodeapi.Peer{}
	}
	sendJSON(w, r, peers)
}

func sendJSON(w http.ResponseWriter, r *http.Request, v any) {
	text, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		web.Plain(w, r, http.StatusInternalServerError, err.Error())
		return
	}
	web.Send(w, r, http.StatusOK, "application/json", append(text, '\n'))
}
