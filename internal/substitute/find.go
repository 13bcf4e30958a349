package substitute

import (
	"context"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"ersatz/guixsig"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// verifiers is how many narinfos are verified at once.
const verifiers = 8

// find returns, for each path in order, what can be had of it.
func (s *Substituter) find(ctx context.Context, paths []storepath.Path) []upstream.Choice {
	acl, aclErr := s.acl()
	if aclErr != nil && aclErr.Error() != s.told {
		s.told = aclErr.Error()
		s.log.Error("nothing can be accepted", slog.Any("error", aclErr))
	}
	answers := s.upstream.Ask(ctx, s.servers, paths)
	choices := make([]upstream.Choice, len(paths))
	var group errgroup.Group
	group.SetLimit(verifiers)
	for i, p := range paths {
		group.Go(func() error {
			choices[i] = upstream.Choose(p, answers[i], accepted(acl))
			if aclErr != nil {
				choices[i].Refused = append(choices[i].Refused, aclErr)
			}
			return nil
		})
	}
	group.Wait()
	return choices
}

// accepted has those narinfos count that a key in the ACL has signed.
func accepted(acl guixsig.ACL) upstream.Judge {
	return func(n *narinfo.Narinfo) (narinfo.Signed, error) { return n.VerifyGuix(acl) }
}
