package substitute

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"

	"ersatz/guixsig"
	"ersatz/internal/upstream"
	"ersatz/internal/votes"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// find returns, for each path in order, what can be had of it.
func (s *Substituter) find(ctx context.Context, paths []storepath.Path) []upstream.Choice {
	r, err := s.rules()
	if err != nil && err.Error() != s.told {
		s.told = err.Error()
		s.log.Error("nothing can be accepted", slog.Any("error", err))
	}
	answers := s.answers(ctx, paths)
	choices := make([]upstream.Choice, len(paths))
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(paths)) {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(paths)); i = next.Add(1) - 1 {
				choices[i] = r.choose(paths[i], answers[i])
				if err != nil {
					choices[i].Refused = append(choices[i].Refused, err)
				}
			}
		})
	}
	group.Wait()
	return choices
}

// answers returns what servers say of items, by path.
func (s *Substituter) answers(ctx context.Context, paths []storepath.Path) [][]upstream.Answer {
	all := make([][]upstream.Answer, len(paths))
	var rest []storepath.Path
	var index []int
	for i, p := range paths {
		if a, ok := s.crawler.take(ctx, p); ok {
			all[i] = a
			continue
		}
		rest, index = append(rest, p), append(index, i)
	}
	if len(rest) > 0 {
		for k, a := range s.upstream.Ask(ctx, s.servers, rest) {
			all[index[k]] = a
		}
	}
	return all
}

// rules say which narinfos count. The zero rules have none count.
type rules struct {
	acl   guixsig.ACL
	votes *votes.Policy // nil: a key of the ACL is enough
}

// rules reads the files of now. If one cannot be read, nothing counts.
func (s *Substituter) rules() (rules, error) {
	acl, err := s.acl()
	if err != nil || s.o.Votes == "" {
		return rules{acl: acl}, err
	}
	policy, err := votes.Load(s.o.Votes)
	if err != nil {
		return rules{}, err
	}
	return rules{acl, &policy}, nil
}

func (r rules) choose(p storepath.Path, answers []upstream.Answer) upstream.Choice {
	judge := accepted(r.acl)
	if r.votes == nil {
		return upstream.Choose(p, answers, judge)
	}
	count := r.votes.Count(answers, r.acl, nil)
	c := upstream.Choose(p, answers, count.Judge(judge))
	if tooFew(c) {
		c.Refused = append(c.Refused, count.Missing())
	}
	return c
}

// tooFew reports whether an item could be had if more keys agreed.
func tooFew(c upstream.Choice) bool {
	return len(c.Builds) == 0 && errors.Is(errors.Join(c.Refused...), votes.ErrTooFew)
}

// maxTold bounds how many items of one query people are told of.
const maxTold = 5

// tellTooFew tells people, once per item, what lacks votes: the daemon does not
// ask for the substitution of what it is not told of.
func (s *Substituter) tellTooFew(choices []upstream.Choice) {
	lacking := 0
	for _, c := range choices {
		if !tooFew(c) || s.lacking[c.Path] {
			continue
		}
		s.lacking[c.Path] = true
		if lacking++; lacking <= maxTold {
			s.tell("%s\n", describe(c.Path, errors.Join(c.Refused...)))
		}
	}
	if lacking > maxTold {
		s.tell("and for %d more: too few votes\n", lacking-maxTold)
	}
}

// enough returns what says that a narinfo counts by the ACL as it was last read, nil
// where votes do.
func (s *Substituter) enough() func(*narinfo.Narinfo) bool {
	if s.o.Votes != "" {
		return nil
	}
	return func(n *narinfo.Narinfo) bool {
		acl := s.aclRead.Load()
		if acl == nil {
			return false
		}
		_, err := n.VerifyGuix(*acl)
		return err == nil
	}
}

// accepted has those narinfos count that a key in the ACL has signed.
func accepted(acl guixsig.ACL) upstream.Judge {
	return func(n *narinfo.Narinfo) (narinfo.Signed, error) { return n.VerifyGuix(acl) }
}
