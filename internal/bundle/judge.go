package bundle

import (
	"ersatz/guixsig"
	"ersatz/narinfo"
)

// AnyKey is the judge of those who leave it to whoever installs: a narinfo counts
// if it has a signature of Guix by the key that it names, whosever that is. Those
// of Nix name no key, and do not count.
func AnyKey(n *narinfo.Narinfo) (narinfo.Signed, error) {
	sig, _, err := n.ParsedSignature()
	if err != nil {
		return narinfo.Signed{}, err
	}
	return n.VerifyGuix(guixsig.ACL{}.Add(sig.Key()))
}
