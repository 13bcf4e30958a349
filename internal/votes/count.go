package votes

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"ersatz/guixsig"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/nixsig"
)

// ErrTooFew means that too few keys agree with a narinfo.
var ErrTooFew = errors.New("too few votes")

// content is what keys agree on. References are a set.
type content struct {
	path       string
	hash       [32]byte
	size       uint64
	references string // sorted, each once
}

func contentOf(s narinfo.Signed) content {
	refs := slices.Sorted(slices.Values(s.References))
	return content{s.StorePath.String(), s.NarHash, s.NarSize, strings.Join(slices.Compact(refs), " ")}
}

// String describes the content for people.
func (c content) String() string {
	return fmt.Sprintf("NarHash %s, NarSize %d, %d References", narinfo.FormatHash(c.hash), c.size, len(strings.Fields(c.references)))
}

// Count is how the keys of a policy have voted on one item.
type Count struct {
	policy Policy
	barred map[string]bool      // points of the keys that are not authorized
	votes  map[content][]string // points of the keys that agree, each once
	absent []string             // servers that have no narinfo of the item
}

// Count counts what servers say of one item. The vote of a key is any narinfo
// that it has signed, with a NarSize and with or without a URL; only keys that
// are in acl or nix too have one. What a key has signed of two builds is a vote
// for each of them.
func (p Policy) Count(answers []upstream.Answer, acl guixsig.ACL, nix []nixsig.PublicKey) *Count {
	c := &Count{policy: p, votes: map[content][]string{}, barred: map[string]bool{}}
	authorized := map[string]bool{}
	for _, k := range acl.Keys() {
		authorized[guixPoint(k)] = true
	}
	for _, k := range nix {
		authorized[nixPoint(k)] = true
	}
	voters := map[string]bool{}
	var nixVoters []nixsig.PublicKey
	for _, v := range p.voters {
		voters[v.point], c.barred[v.point] = authorized[v.point], !authorized[v.point]
	}
	for _, k := range nix { // by the names that they have there
		if voters[nixPoint(k)] {
			nixVoters = append(nixVoters, k)
		}
	}
	for _, a := range answers {
		if errors.Is(a.Err, fs.ErrNotExist) {
			c.absent = append(c.absent, a.Server.String())
		}
		n, err := narinfo.Parse(a.Text)
		if a.Err != nil || err != nil {
			continue
		}
		if s, err := n.VerifyGuix(acl); err == nil && s.HasNarSize && voters[guixPoint(s.Key)] {
			c.add(s, guixPoint(s.Key))
		}
		for _, k := range nixVoters {
			if s, err := n.VerifyNix([]nixsig.PublicKey{k}); err == nil {
				c.add(s, nixPoint(k))
			}
		}
	}
	return c
}

// add counts a vote, unless it is counted already.
func (c *Count) add(s narinfo.Signed, point string) {
	of := contentOf(s)
	if !slices.Contains(c.votes[of], point) {
		c.votes[of] = append(c.votes[of], point)
	}
}

// Judge has only those narinfos count that do by judge and that agree with
// enough votes. Its errors match ErrTooFew, or are judge's.
func (c *Count) Judge(judge upstream.Judge) upstream.Judge {
	return func(n *narinfo.Narinfo) (narinfo.Signed, error) {
		s, err := judge(n)
		if err != nil {
			return narinfo.Signed{}, err
		}
		if !s.HasNarSize {
			return narinfo.Signed{}, fmt.Errorf("%w: without a signed NarSize nothing agrees with it", ErrTooFew)
		}
		of := contentOf(s)
		if votes := c.votes[of]; len(votes) < c.policy.need {
			return narinfo.Signed{}, fmt.Errorf("%w: %d of the %d that are needed for %s: %s", ErrTooFew, len(votes), c.policy.need, of, c.names(votes))
		}
		return s, nil
	}
}

// Missing says who has not voted, and which servers have no narinfo of the item.
// The error matches ErrTooFew.
func (c *Count) Missing() error {
	voted := map[string]bool{}
	for _, points := range c.votes {
		for _, point := range points {
			voted[point] = true
		}
	}
	var silent, barred []string
	for _, v := range c.policy.voters {
		switch {
		case c.barred[v.point]:
			barred = append(barred, v.name)
		case !voted[v.point]:
			silent = append(silent, v.name)
		}
	}
	text := fmt.Sprintf("%d of %d keys have to agree", c.policy.need, len(c.policy.voters))
	for _, part := range []struct {
		what string
		list []string
	}{{"no vote by", silent}, {"not authorized", barred}, {"no narinfo at", c.absent}} {
		if len(part.list) > 0 {
			text += "; " + part.what + " " + strings.Join(part.list, ", ")
		}
	}
	return fmt.Errorf("%w: %s", ErrTooFew, text)
}

// names returns the names of voters, in the order of the file.
func (c *Count) names(points []string) string {
	var names []string
	for _, v := range c.policy.voters {
		if slices.Contains(points, v.point) {
			names = append(names, v.name)
		}
	}
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}
