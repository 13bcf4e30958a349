package node

import (
	"errors"
	"sync"

	"ersatz/guixsig"
	"ersatz/narinfo"
)

// maxSigners bounds the keys that are remembered, at 220 KB of memory each.
const maxSigners = 8

// signers are keys under which signatures were good of late: what is computed of a
// key is computed once. That a key is among them says nothing of whom to trust. It
// is safe for concurrent use.
type signers struct {
	mu  sync.Mutex
	acl guixsig.ACL
}

// verify returns what Guix's signature covers if it is by the key that it names,
// whoever has that.
func (s *signers) verify(n *narinfo.Narinfo) (narinfo.Signed, error) {
	s.mu.Lock()
	acl := s.acl
	s.mu.Unlock()
	signed, err := n.VerifyGuix(acl)
	if !errors.Is(err, narinfo.ErrUnauthorized) {
		return signed, err
	}
	sig, _, err := n.ParsedSignature()
	if err != nil {
		return signed, err
	}
	if signed, err = n.VerifyGuix(guixsig.ACL{}.Add(sig.Key())); err != nil {
		return signed, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.acl.Keys()) >= maxSigners {
		s.acl = guixsig.ACL{}
	}
	s.acl = s.acl.Add(sig.Key())
	return signed, nil
}
