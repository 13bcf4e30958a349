package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"ersatz/guixsig"
	"ersatz/internal/votes"
)

func (e *examination) checkACL() {
	const check = "acl"
	text, err := os.ReadFile(e.path(e.o.ACL))
	if errors.Is(err, fs.ErrNotExist) {
		e.add(check, Bad, fmt.Sprintf("%s is missing: no substitute is trusted", e.o.ACL),
			"authorize a server's key: sudo ersatz authorize < signing-key.pub")
		return
	}
	if err != nil {
		e.add(check, Bad, err.Error(), "make the file readable by the daemon's user")
		return
	}
	acl, err := guixsig.ParseACL(text)
	if err != nil {
		e.add(check, Bad, fmt.Sprintf("%s: %v", e.o.ACL, err), "mend the file, or move it away and authorize the keys again")
		return
	}
	n := len(acl.Keys())
	if n == 0 {
		e.add(check, Bad, fmt.Sprintf("%s has no keys: no substitute is trusted", e.o.ACL),
			"authorize a server's key: sudo ersatz authorize < signing-key.pub")
		return
	}
	e.add(check, OK, fmt.Sprintf("%s authorizes %s", e.o.ACL, count(n, "key")), "")
}

// checkVotes looks at the policy of how many keys have to agree.
func (e *examination) checkVotes() {
	const check = "votes"
	if e.o.Votes == "" {
		return
	}
	p, err := votes.Load(e.path(e.o.Votes))
	if err != nil {
		e.add(check, Bad, fmt.Sprintf("%s: %v: nothing is installed", e.o.Votes, err), "mend the file (docs/votes.md), or take votes out of the configuration")
		return
	}
	need, of := p.Size()
	if n := e.authorized(p); n < need {
		e.add(check, Bad, fmt.Sprintf("%s demands %d keys, and %s authorizes %d of its: nothing is installed", e.o.Votes, need, e.o.ACL, n),
			"authorize more of them: sudo ersatz authorize < signing-key.pub")
		return
	}
	e.add(check, OK, fmt.Sprintf("%s demands %d of %d keys", e.o.Votes, need, of), "")
}

// authorized returns how many keys of a policy the ACL has.
func (e *examination) authorized(p votes.Policy) (n int) {
	acl, err := e.acl()
	if err != nil {
		return 0 // checkACL says so
	}
	voters, _ := p.Keys() // Nix's are for the node
	for _, key := range voters.Keys() {
		if acl.Authorizes(key) {
			n++
		}
	}
	return n
}

// checkSigningKey looks at the key pair that only publish needs.
func (e *examination) checkSigningKey() {
	const check = "signing key"
	text, err := os.ReadFile(e.path(e.o.PublicKey))
	if errors.Is(err, fs.ErrNotExist) {
		e.add(check, Note, fmt.Sprintf("%s is missing; only publish needs it", e.o.PublicKey),
			"to publish: sudo ersatz keygen /etc/guix")
		return
	}
	if err != nil {
		e.add(check, Note, err.Error(), "")
		return
	}
	public, err := guixsig.ParsePublicKey(text)
	if err != nil {
		e.add(check, Bad, fmt.Sprintf("%s: %v", e.o.PublicKey, err), "restore it, or move both files away and run: sudo ersatz keygen /etc/guix")
		return
	}
	text, err = os.ReadFile(e.path(e.o.PrivateKey))
	if err != nil {
		advice := "run doctor as the user that publishes"
		if errors.Is(err, fs.ErrNotExist) {
			advice = "without it nothing can be signed: restore it, or move the public key away and run: sudo ersatz keygen /etc/guix"
		}
		e.add(check, Note, err.Error(), advice)
		return
	}
	private, err := guixsig.ParsePrivateKey(text)
	if err != nil {
		e.add(check, Bad, fmt.Sprintf("%s: %v", e.o.PrivateKey, err), "restore it, or move both files away and run: sudo ersatz keygen /etc/guix")
		return
	}
	if !private.Public().Equal(public) {
		e.add(check, Bad, fmt.Sprintf("%s and %s are not a pair", e.o.PublicKey, e.o.PrivateKey), "restore the one that belongs to the other")
		return
	}
	if fi, err := os.Stat(e.path(e.o.PrivateKey)); err == nil && fi.Mode().Perm()&0o077 != 0 {
		e.add(check, Bad, fmt.Sprintf("%s can be read by others (mode %04o)", e.o.PrivateKey, fi.Mode().Perm()),
			"sudo chmod 400 "+e.o.PrivateKey)
		return
	}
	e.add(check, OK, public.String(), "")
}

// count returns "1 key" or "2 keys".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
