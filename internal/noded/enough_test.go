package noded

import (
	"bytes"
	"errors"
	"testing"

	"ersatz/guixsig"
	"ersatz/internal/node"
	"ersatz/internal/votes"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// TestEnough: a slow server is not waited for where a narinfo counts.
func TestEnough(t *testing.T) {
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{1}, 32)))
	check(t, err)
	p, err := storepath.Parse("/gnu/store/00000000000000000000000000000000-x")
	check(t, err)
	text, err := narinfo.SignGuix(narinfo.Fields{StorePath: p, NarSize: 1}.Body(), key, "test")
	check(t, err)
	n, err := narinfo.Parse(text)
	check(t, err)
	keys := func(k node.Keys, err error) func() (node.Keys, error) {
		return func() (node.Keys, error) { return k, err }
	}
	signers := node.Keys{Guix: guixsig.ACL{}.Add(key.Public())}
	for name, c := range map[string]struct {
		o    node.Options
		want bool
	}{
		"all count":    {node.Options{}, true},
		"by its key":   {node.Options{Keys: keys(signers, nil)}, true},
		"by none":      {node.Options{Keys: keys(node.Keys{}, nil)}, false},
		"no such file": {node.Options{Keys: keys(signers, errors.New("file of keys"))}, false},
	} {
		if got := enough(c.o)(n); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if enough(node.Options{Votes: func() (votes.Policy, error) { return votes.Policy{}, nil }}) != nil {
		t.Error("with votes, nobody is not waited for")
	}
}
