package bitswap

import (
	"slices"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
)

// Connected says how a Host is connected to a peer.
func (h *Host) Connected(id peer.ID) network.Connectedness { return h.host.Network().Connectedness(id) }

// Punches says whether a Host knows how it looks from outside, and takes part in
// making direct connections.
func (h *Host) Punches() bool { return slices.Contains(h.host.Mux().Protocols(), holepunch.Protocol) }
