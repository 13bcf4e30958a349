package main

import (
	"fmt"

	"ersatz/internal/node"
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
