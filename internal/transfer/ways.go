package transfer

import (
	"cmp"
	"context"
	"slices"
	"time"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/internal/keep"
	"ersatz/internal/peers"
	"ersatz/internal/upstream"
)

// way is one way to the content of an item.
type way struct {
	source string // for people
	method string // compression
	id     keep.PartID
	item   keep.Item        // as it is kept when it has come
	server *upstream.Server // of a nar
	blame  func(error)      // told when the content was wrong; may be nil
	pieced func() bool      // whether the content is of several connections, unverified; may be nil
	done   func() bool      // whether another way has asked all whom this one would; may be nil

	// hurried is whether it is put off if it does not begin soon.
	hurried bool

	// open returns the part that is filled, and what fills it: it returns when
	// all is there and the part was told how long it is.
	open func(ctx context.Context, hurried bool) (*keep.Part, fillFunc, error)
	// have returns how many bytes the part had in the end.
	have func() int64
}

type fillFunc func(ctx context.Context, p *keep.Part) (keep.Tree, error)

// ways returns the ways to the item in the order in which they are tried:
// docs/node.md, "When to use what". What is known of peers will do the first time.
func (i *item) ways(ctx context.Context, first bool) []way {
	claims, ok := i.t.claimed(i.build.Signed.NarHash)
	inVain := i.unasked // it did not come by a nar alone
	i.unasked = first && !ok && i.narIsSooner()
	if !first || !ok && !i.unasked {
		claims = i.claims(ctx)
	}
	signed, last := i.contentWay(i.signedContent(claims))
	var nars, failing, hints, rumours []way
	if i.t.o.Policy != P2POnly {
		nars, failing = i.narWays()
	}
	for _, c := range i.hinted(claims) {
		w, _ := i.contentWay(c)
		if c.holders() == 0 && first {
			// Nobody is to blame should it be wrong, as often as it is said.
			rumours = append(rumours, w...)
		} else {
			hints = append(hints, w...)
		}
	}
	var all []way
	// What a near peer has takes no long round trips.
	if i.build.Signed.NarSize > small || inVain || slices.ContainsFunc(claims, isNear) {
		all = slices.Concat(signed, hints, nars, failing, rumours, last)
	} else {
		if len(signed) > 0 && len(i.t.o.Networks) > 0 {
			for k := range nars {
				nars[k].hurried = !i.waited[nars[k].server]
			}
		}
		all = slices.Concat(nars, signed, hints, failing, rumours, last)
	}
	return slices.DeleteFunc(all, func(w way) bool { return i.bad[w.id] })
}

// narIsSooner reports whether a small nar comes no later than the word of peers,
// all of them far ones, that they have it.
func (i *item) narIsSooner() bool {
	if i.t.o.Peers == nil || i.t.o.Policy != Mixed || i.build.Signed.NarSize > small || len(i.build.Nars) == 0 {
		return false
	}
	nodes := i.t.o.Peers.Nodes()
	return len(nodes) > 0 && !slices.ContainsFunc(nodes, (*peers.Peer).Near)
}

func isNear(c peers.Claim) bool { return !c.Held.Part && c.Peer.Near() }

// claims returns what peers say that they have of the item.
func (i *item) claims(ctx context.Context) []peers.Claim {
	if i.t.o.Peers == nil {
		return nil
	}
	return i.t.o.Peers.Have(ctx, [][32]byte{i.build.Signed.NarHash})[0]
}

// content is a compressed nar as blocks, and who is known to have it.
type content struct {
	readCap eris.ReadCap
	method  string
	format  string
	signed  bool
	magnet  string // of a torrent of the blocks, "" if none is known
	servers []*upstream.Server
	claims  []peers.Claim
}

// holders returns how many peers say that they have all of it.
func (c content) holders() (n int) {
	for _, claim := range c.claims {
		if !claim.Held.Part {
			n++
		}
	}
	return n
}

// signedContent returns what the signed URN names; its read capability is zero
// if there is none.
func (i *item) signedContent(claims []peers.Claim) content {
	s := i.build.Content
	if s.URN == "" {
		return content{}
	}
	c := content{readCap: s.ReadCap, method: s.Method, format: i.build.Signed.ERISFormat, signed: true, magnet: s.Magnet}
	if i.t.o.Policy == Mixed {
		c.servers = s.Servers
	}
	for _, claim := range claims {
		if claim.Held.ReadCap == s.ReadCap {
			c.claims = append(c.claims, claim)
		}
	}
	return c
}

// hinted returns what peers say that the nar can be had by, the content that
// most have whole first. Nobody has signed that: NarSize bounds it, and NarHash
// judges.
func (i *item) hinted(claims []peers.Claim) []content {
	var all []content
	for _, claim := range claims {
		m, err := compress.ParseFormat(claim.Held.Format)
		if err != nil || !fixed(claim.Held.ReadCap) || claim.Held.ReadCap == i.build.Content.ReadCap && i.build.Content.URN != "" {
			continue
		}
		k := slices.IndexFunc(all, func(c content) bool { return c.readCap == claim.Held.ReadCap && c.method == m.Name })
		if k < 0 {
			k = len(all)
			all = append(all, content{readCap: claim.Held.ReadCap, method: m.Name, format: claim.Held.Format})
		}
		all[k].claims = append(all[k].claims, claim)
	}
	slices.SortStableFunc(all, func(a, b content) int { return cmp.Compare(b.holders(), a.holders()) })
	return all[:min(len(all), maxHints)]
}

// fixed reports whether a content can have been encoded by the rules of
// "Mirror": blocks of 1 KiB hold less than 16 KiB, which takes two levels.
func fixed(c eris.ReadCap) bool { return c.Size == eris.Size32KiB || c.Level <= 1 }

// maxHints bounds how many contents are tried that nobody has signed.
const maxHints = 4

// narWays returns the ways by whole nars, those by servers that failed of late
// apart: from servers that are not known to be slow first; of those, in the form
// that the signed URN names, since blocks and nars complete each other, or else in
// the order in which all nodes choose, so that what they encode is the same.
func (i *item) narWays() (ways, failing []way) {
	offers := slices.Clone(i.build.Nars)
	slow := i.slowness(offers)
	slices.SortStableFunc(offers, func(a, b upstream.Offer) int {
		return cmp.Or(cmp.Compare(slow[a.Server], slow[b.Server]), cmp.Compare(i.form(a), i.form(b)))
	})
	for _, o := range offers {
		if w := i.narWay(o); slow[o.Server] == failed {
			failing = append(failing, w)
		} else {
			ways = append(ways, w)
		}
	}
	for _, list := range [][]way{ways, failing} {
		slices.SortStableFunc(list, func(a, b way) int { return i.rank(a) - i.rank(b) })
	}
	return ways, failing
}

// form is a number by which nars in one form come before those in another.
func (i *item) form(o upstream.Offer) int {
	if i.build.Content.URN == "" {
		if k := slices.Index([]string{"zstd", "gzip", "lzip", "xz", "bzip2", "none"}, o.Nar.Compression); k >= 0 {
			return k
		}
		return 6
	}
	if o.Nar.Compression == i.build.Content.Method {
		return 0
	}
	return 1
}

// muchSlower is by how much a server is slower than the fastest one for its nars
// to come behind those of all faster ones.
const muchSlower = 4

// failed is the slowness of servers that failed of late.
const failed = 2

// slowness is 0 for servers to be asked first, 1 for those known to be much
// slower than another, failed for those that failed.
func (i *item) slowness(offers []upstream.Offer) map[*upstream.Server]int {
	pace := map[*upstream.Server]time.Duration{}
	var fastest time.Duration
	for _, o := range offers {
		p := i.t.book.Prior(narName(o.Server)).Pace
		pace[o.Server] = p
		if p > 0 && (fastest == 0 || p < fastest) {
			fastest = p
		}
	}
	slow := map[*upstream.Server]int{}
	for sv, p := range pace {
		switch {
		case i.t.book.Usable(narName(sv)) != nil:
			slow[sv] = failed
		case p > muchSlower*fastest:
			slow[sv] = 1
		}
	}
	return slow
}

// narName is what a Book calls a server as a source of nars.
func narName(sv *upstream.Server) string { return "nar " + sv.String() }
