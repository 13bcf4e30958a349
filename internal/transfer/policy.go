package transfer

import "fmt"

// Policy says where bytes may come from. Narinfos come from anyone.
type Policy int

// The policies of docs/node.md, "When to use what".
const (
	Mixed    Policy = iota // the best mix
	P2POnly                // blocks from peers and networks
	HTTPOnly               // whole nars from upstreams
)

// String returns what ParsePolicy reads.
func (p Policy) String() string { return [...]string{"mixed", "p2p-only", "http-only"}[p] }

// Policies are the names of all policies.
func Policies() []string { return []string{Mixed.String(), P2POnly.String(), HTTPOnly.String()} }

// ParsePolicy reads mixed, p2p-only or http-only.
func ParsePolicy(s string) (Policy, error) {
	for i, name := range Policies() {
		if s == name {
			return Policy(i), nil
		}
	}
	return 0, fmt.Errorf("%q is none of mixed, p2p-only and http-only", s)
}
