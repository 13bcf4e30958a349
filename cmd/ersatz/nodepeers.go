package main

import (
	"context"
	"fmt"

	"ersatz/internal/discover"
	"ersatz/internal/node"
	"ersatz/internal/nodeapi"
	"ersatz/internal/peers"
	"ersatz/internal/transfer"
)

// When a node looks for others on the local network: docs/peers.md, "Who looks".
const (
	discoverAuto = "auto"
	discoverYes  = "yes"
	discoverNo   = "no"
)

// browses reports whether the flags have the node look for others.
func (f nodeFlags) browses(share node.Share, policy transfer.Policy) (bool, error) {
	switch f.discover {
	case discoverYes:
		return true, nil
	case discoverNo:
		return false, nil
	case discoverAuto:
		return share != node.ShareNone && policy != transfer.HTTPOnly, nil
	}
	return false, fmt.Errorf("%q is none of %s, %s and %s", f.discover, discoverAuto, discoverYes, discoverNo)
}

// browser returns who looks for peers, nil if nobody is to.
func (p nodePlan) browser() peers.Browser {
	if !p.browse {
		return nil
	}
	return discover.New(discover.Options{Log: p.node.Log})
}

// usePeers has the node ask peers for narinfos, and say who they are. Where
// every narinfo counts, only those that were named are asked: anybody can be
// among the others, and a forged one that is kept would stand in the way.
func (p *nodePlan) usePeers(s *peers.Set) {
	p.node.Peers, p.node.NearServers = s.List, s.NearServers
	p.node.Have = func(ctx context.Context, narHashes [][32]byte) [][]nodeapi.Claim {
		all := make([][]nodeapi.Claim, len(narHashes))
		for i, claims := range s.Have(ctx, narHashes) {
			for _, c := range claims {
				all[i] = append(all[i], nodeapi.Claim{Peer: c.Peer.Name(), URN: c.Held.ReadCap.URN(), Format: c.Held.Format, Part: c.Held.Part})
			}
		}
		return all
	}
	p.node.PeerServers = s.Named
	if p.node.Keys != nil || p.node.Votes != nil {
		p.node.PeerServers = s.Servers
	}
}
