package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"ersatz/internal/keep"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// What a look-up can find beside an item.
var (
	errAbsent   = errors.New("no upstream has it")
	errNoAnswer = errors.New("no upstream answers")
	errWithheld = errors.New("no narinfo of it counts")
)

// found is what can be said of an item.
type found struct {
	shown  *narinfo.Narinfo // the one that clients get
	size   int64            // NarSize
	hint   hint
	choice upstream.Choice // one build
	item   keep.Item       // if it is kept
	whole  bool            // it is kept
}

// want asks for the item.
func (x found) want(k Kind) Want { return Want{Path: x.choice.Path, Choice: x.choice, Kind: k} }

// choose takes what counts of the answers about an item, which are in order of
// preference. The error matches errWithheld if nothing does.
func choose(p storepath.Path, answers []upstream.Answer, judge upstream.Judge) (found, error) {
	c := upstream.Choose(p, answers, judge)
	if len(c.Builds) == 0 {
		return found{}, errors.Join(append(c.Refused, fmt.Errorf("%s: %w", p, errWithheld))...)
	}
	c.Builds = c.Builds[:1] // the one that clients are told of
	signed := c.Builds[0].Signed
	if !signed.HasNarSize {
		return found{}, fmt.Errorf("%s: %w: NarSize is not signed", p, errWithheld)
	}
	x := found{choice: c}
	var err error
	if x.shown, err = narinfo.Parse(c.Builds[0].Narinfos[0].Text); err != nil {
		return found{}, fmt.Errorf("%s: %w", p, err) // it has been parsed
	}
	x.size = int64(signed.NarSize) // Choose has looked at it
	return x, nil
}

// lookup finds the item with a hash part: what is kept first, then what the
// face's upstreams say, then what peers say. The error matches errAbsent,
// errNoAnswer or errWithheld. The duration says for how long the answer holds.
func (n *Node) lookup(ctx context.Context, f *face, hash string) (found, time.Duration, error) {
	var answers []upstream.Answer
	if n.o.Votes != nil { // of what is kept too
		answers = n.client.AskHash(ctx, f.servers, hash)
	}
	judge, err := n.judge(hash, answers)
	if err != nil {
		return found{}, 0, err
	}
	x, err := n.kept(f.storeDir, hash, judge)
	if err == nil {
		return x, keptTTL, nil
	}
	if !errors.Is(err, keep.ErrNone) && !errors.Is(err, errWithheld) {
		return found{}, 0, err
	}
	if answers == nil {
		answers = n.client.AskHash(ctx, f.servers, hash)
	}
	x, ttl, err := n.weigh(f, hash, answers, judge)
	if err != nil {
		if x, ttl, err := n.askPeers(ctx, f, hash, answers); err == nil {
			return x, ttl, nil
		}
	}
	return x, ttl, err
}

// Look finds an item as for a client of the loopback server, to be fetched
// ahead. The error matches ErrNone if its store is none of the upstreams'.
func (n *Node) Look(ctx context.Context, p storepath.Path) (Want, error) {
	f := n.upstreams.face(kindOf(p.Dir))
	if f == nil || f.storeDir != p.Dir {
		return Want{}, fmt.Errorf("%s: %w", p, ErrNone)
	}
	x, _, err := n.lookup(ctx, f, p.Hash)
	switch {
	case err != nil:
		return Want{}, err
	case x.choice.Path != p:
		return Want{}, fmt.Errorf("%s: %w: upstreams have %s", p, ErrNone, x.choice.Path)
	}
	return x.want(f.kind), nil
}

// askPeers asks peers for what no upstream gave. They do not have long: most of
// what clients ask for is nowhere, and the client waits. That they have nothing
// says little, since that changes at any time: how long it may be believed that
// nobody has an item is for upstreams to say.
func (n *Node) askPeers(ctx context.Context, f *face, hash string, answers []upstream.Answer) (found, time.Duration, error) {
	servers := n.o.PeerServers()
	if len(servers) == 0 {
		return found{}, 0, errAbsent
	}
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	answers = slices.Concat(answers, n.client.AskHash(ctx, servers, hash))
	judge, err := n.judge(hash, answers)
	if err != nil {
		return found{}, 0, err
	}
	x, ttl, err := n.weigh(f, hash, answers, judge)
	return x, min(ttl, keptTTL), err
}

// judge returns who says which narinfos of an item count: the keys of now and,
// if they have to agree, the narinfos among the answers.
func (n *Node) judge(hash string, answers []upstream.Answer) (upstream.Judge, error) {
	if n.o.Keys == nil && n.o.Votes == nil {
		return n.signers.anything, nil
	}
	var keys Keys
	var err error
	if n.o.Keys != nil {
		keys, err = n.o.Keys()
	}
	if err != nil || n.o.Votes == nil {
		return keys.Verify, err
	}
	policy, err := n.o.Votes()
	if err != nil {
		return nil, err
	}
	if n.o.Keys == nil {
		keys.Guix, keys.Nix = policy.Keys()
	}
	switch item, err := n.store.Get(hash); { // what is kept is a vote as well
	case err == nil:
		answers = append(slices.Clip(answers), upstream.Answer{Text: item.Narinfo})
	case !errors.Is(err, keep.ErrNone):
		return nil, err
	}
	return policy.Count(answers, keys.Guix, keys.Nix).Judge(keys.Verify), nil
}

// kept finds an item of a store, "" for any, that is kept. The error matches
// keep.ErrNone or errWithheld.
func (n *Node) kept(storeDir, hash string, judge upstream.Judge) (found, error) {
	item, err := n.store.Get(hash)
	if err != nil {
		return found{}, err
	}
	if storeDir != "" && item.Path.Dir != storeDir {
		return found{}, fmt.Errorf("%w in %s", keep.ErrNone, storeDir)
	}
	// Who said so is one more place to get the nar from, should it be evicted. It
	// may have been a peer, which leads to no other host.
	sv, err := upstream.ParseServer(item.Server)
	if err == nil && !sv.IsFolder() {
		sv, err = upstream.ParsePeer(item.Server)
	}
	if err != nil {
		return found{}, fmt.Errorf("%w that can be used: %s: %w", keep.ErrNone, item.Path, err)
	}
	x, err := choose(item.Path, []upstream.Answer{{Server: sv, Text: item.Narinfo}}, judge)
	if err != nil {
		return found{}, err
	}
	x.item, x.whole, x.hint = item, true, hint{item.ReadCap, item.Format}
	return x, nil
}

// weigh takes what counts of the answers of a face's upstreams, or of peers.
func (n *Node) weigh(f *face, hash string, answers []upstream.Answer, judge upstream.Judge) (found, time.Duration, error) {
	var errs []error
	var texts []upstream.Answer
	absent, ttl := 0, negativeMost
	if len(answers) == 0 {
		ttl = soon // nobody has said so
	}
	for _, a := range answers {
		switch {
		case a.Err == nil:
			texts = append(texts, a)
		case errors.Is(a.Err, fs.ErrNotExist):
			absent++
			ttl = min(ttl, n.lifetime(a))
		default:
			ttl = soon
			errs = append(errs, fmt.Errorf("%s: %w", a.Server, a.Err))
		}
	}
	switch {
	case len(texts) == 0 && len(errs) > 0 && absent == 0:
		return found{}, soon, errors.Join(append(errs, errNoAnswer)...)
	case len(texts) == 0:
		return found{}, ttl, errAbsent
	}
	// Where every narinfo counts, one with a signature is worth more.
	slices.SortStableFunc(texts, func(a, b upstream.Answer) int { return rank(a.Text) - rank(b.Text) })
	p, err := pathOf(texts, f.storeDir+"/"+hash+"-", judge)
	if err != nil {
		return found{}, soon, errors.Join(append(errs, err)...)
	}
	x, err := choose(p, texts, judge)
	if err != nil {
		return found{}, soon, err
	}
	for _, a := range texts {
		if string(a.Text) == string(x.shown.Text()) {
			return x, n.lifetime(a), nil
		}
	}
	return x, soon, nil
}

// rank is 0 for a narinfo with a signature, 1 for others.
func rank(text []byte) int {
	for _, field := range []string{"Signature", "Sig"} {
		if count(text, field) > 0 {
			return 0
		}
	}
	return 1
}

// pathOf returns the store path of the first answer that counts; what it begins
// with is known.
func pathOf(answers []upstream.Answer, prefix string, judge upstream.Judge) (storepath.Path, error) {
	var errs []error
	for _, a := range answers {
		n, err := narinfo.Parse(a.Text)
		if err == nil && !strings.HasPrefix(n.StorePath, prefix) {
			err = fmt.Errorf("%w: %s, not %s…", narinfo.ErrWrongPath, n.StorePath, prefix)
		}
		if err == nil {
			_, err = judge(n)
		}
		if err == nil {
			return storepath.Parse(n.StorePath)
		}
		errs = append(errs, fmt.Errorf("%s: %w", a.Server, err))
	}
	return storepath.Path{}, errors.Join(append(errs, errWithheld)...)
}

// lifetime returns for how long an answer may be kept: a minute if nobody says.
func (n *Node) lifetime(a upstream.Answer) time.Duration {
	if a.Expires.IsZero() {
		return soon
	}
	return max(a.Expires.Sub(n.o.Now()), time.Second)
}
