// Package weather says what of a set of store items can be had, and where: at
// which servers, signed by which keys, as blocks under which URNs, and at which
// peers. As with `guix weather` (Guix 1.5.0, guix/scripts/weather.scm) only
// narinfos are asked for, no nars; docs/weather.md describes what is printed.
package weather

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/nodeapi"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/nixsig"
	"ersatz/storepath"
)

const (
	// batch is how many items are asked for at once: their narinfos are in
	// memory.
	batch = 1024

	// MaxItems bounds the items of a look, those of a closure among them.
	MaxItems = 1 << 18
)

// ErrTooMany means that there are more than MaxItems.
var ErrTooMany = errors.New("too many store items")

// Peers say what peers hold of nars, by their hashes: *nodeapi.Client.
type Peers interface {
	Have(ctx context.Context, hashes [][32]byte) ([][]nodeapi.Claim, error)
}

// Options are what may be left out.
type Options struct {
	// ACL and Nix are the keys that are authorized. Default: none, and nothing
	// can be had.
	ACL guixsig.ACL
	Nix []nixsig.PublicKey

	// Agree makes, of what all servers answer about an item, who says which of
	// the authorized narinfos count. Default: all do.
	Agree func(answers []upstream.Answer, judge upstream.Judge) upstream.Judge

	// Peers are asked about items of which a narinfo counts. Default: nobody.
	Peers Peers

	// Closure says that what the items refer to is looked at as well.
	Closure bool

	// Progress is told how many items of those that are known are done, from
	// many goroutines. Default: nobody is told.
	Progress func(done, total int)

	// Stall is how long a server may send nothing, of which it has three and
	// half a second per item. Default upstream.DefaultStall.
	Stall time.Duration

	// Now returns the time. Default time.Now.
	Now func() time.Time
}

// Report is what was found.
type Report struct {
	Items   []Item   `json:"items"` // as asked for, then what they refer to
	Servers []Server `json:"servers"`
	Peers   []Peer   `json:"peers"`
	// PeersError says why peers could not be asked; "" if they were, or if
	// there are none to be asked.
	PeersError string `json:"peers_error,omitempty"`
	Available  int    `json:"available"` // items that can be had
	AsBlocks   int    `json:"as_blocks"` // of these, as blocks under a signed URN
	AtPeers    int    `json:"at_peers"`  // of these, at a peer, at least in part
}

// Item is what can be had of a store item.
type Item struct {
	Path      string `json:"path"`
	Available bool   `json:"available"`
	// Why it cannot be had; "" if it can, or if all servers say that they have
	// no such item.
	Why     string `json:"why,omitempty"`
	NarHash string `json:"nar_hash,omitempty"` // of the build that would be installed
	NarSize uint64 `json:"nar_size,omitempty"`
	URN     string `json:"urn,omitempty"` // signed
	// Offers are what servers say of it, and Claims what peers do.
	Offers []Offer         `json:"offers,omitempty"`
	Claims []nodeapi.Claim `json:"claims,omitempty"`

	narHash [32]byte
}

// Offer is what one server says of an item.
type Offer struct {
	Server     string   `json:"server"`
	Keys       []string `json:"keys,omitempty"` // that are said to have signed it
	Authorized bool     `json:"authorized"`     // one of them has, and is authorized
	URN        string   `json:"urn,omitempty"`  // signed by an authorized key
}

// Server is what is found at one server.
type Server struct {
	URL        string `json:"url"`
	Found      int    `json:"found"`      // items of which it has a narinfo
	Authorized int    `json:"authorized"` // of these, signed by an authorized key
	AsBlocks   int    `json:"as_blocks"`  // of these, with a signed URN
	Keys       []Key  `json:"keys"`       // those that have signed most first

	// Bytes of the smallest nar of each item that was found and, if its size is
	// said, of what the nar unpacks to.
	Compressed   uint64 `json:"compressed"`
	Uncompressed uint64 `json:"uncompressed"`
	Unsized      int    `json:"unsized"` // items whose compressed size is not said

	// Unanswered counts items about which it did not answer, and Malformed
	// those for which it gave something else than their narinfo. Error is the
	// first reason.
	Unanswered int    `json:"unanswered"`
	Malformed  int    `json:"malformed"`
	Error      string `json:"error,omitempty"`

	// Seconds passed until its last answer, and First until its first.
	Seconds float64 `json:"seconds"`
	First   float64 `json:"first_seconds"`

	answered int
	gone     bool // it is not asked any more
}

// Rate returns how many answers came per second.
func (s Server) Rate() float64 {
	if s.Seconds <= 0 {
		return 0
	}
	return float64(s.answered) / s.Seconds
}

// Key is one that narinfos name as their signer.
type Key struct {
	ID         string `json:"id"`             // ed25519:HEX, or the name of a key of Nix
	Host       string `json:"host,omitempty"` // whose it is, as the first such narinfo says
	Authorized bool   `json:"authorized"`     // whether it has signed, and is authorized
	Items      int    `json:"items"`
}

// Peer is what is found at a peer.
type Peer struct {
	URL   string `json:"url"`
	Whole int    `json:"whole"`
	Part  int    `json:"part"` // items of which it has some blocks
}

// Missing returns the items that cannot be had.
func (r Report) Missing() []Item {
	var list []Item
	for _, it := range r.Items {
		if !it.Available {
			list = append(list, it)
		}
	}
	return list
}

// survey is a Look that is going on.
type survey struct {
	o       Options
	servers []*upstream.Server
	client  *upstream.Client
	r       Report
	seen    map[storepath.Path]bool
	peers   map[string]int // index in r.Peers by URL
	left    int            // items that are known and not in r
	clocks  []*clock       // of the batch that is being asked for, by server
}

// Look asks the servers by hc, such as httpclient.New makes, and nothing of
// what they answer is kept. The error matches ErrTooMany, or is ctx's; that
// servers do not answer is in the report.
func Look(ctx context.Context, hc *http.Client, servers []*upstream.Server, paths []storepath.Path, o Options) (Report, error) {
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &survey{o: o, servers: servers, seen: map[storepath.Path]bool{}, peers: map[string]int{}}
	l.client = upstream.New(hc, nil, upstream.Options{Stall: o.Stall, Now: o.Now, Progress: l.time})
	l.r = Report{Items: []Item{}, Peers: []Peer{}}
	for _, sv := range servers {
		l.r.Servers = append(l.r.Servers, Server{URL: sv.String(), Keys: []Key{}})
	}
	err := l.all(ctx, paths)
	for i := range l.r.Servers {
		slices.SortStableFunc(l.r.Servers[i].Keys, func(a, b Key) int { return b.Items - a.Items })
	}
	return l.r, errors.Join(err, l.client.Close())
}

// all looks at the paths and, if it is wanted, at all that they refer to.
func (l *survey) all(ctx context.Context, paths []storepath.Path) error {
	var queue []storepath.Path
	add := func(paths []storepath.Path) {
		for _, p := range paths {
			if !l.seen[p] {
				l.seen[p] = true
				queue = append(queue, p)
			}
		}
	}
	for add(paths); len(queue) > 0; {
		if total := len(l.r.Items) + len(queue); total > MaxItems {
			return fmt.Errorf("%w: more than %d", ErrTooMany, MaxItems)
		}
		n := min(batch, len(queue))
		l.left = len(queue)
		refs := l.some(ctx, queue[:n])
		queue = queue[n:]
		if err := ctx.Err(); err != nil {
			return err
		}
		if l.o.Closure {
			add(refs)
		}
		l.o.Progress(len(l.r.Items), len(l.r.Items)+len(queue))
	}
	return nil
}

// some looks at as many as are asked for at once, and returns what they refer
// to.
func (l *survey) some(ctx context.Context, paths []storepath.Path) (refs []storepath.Path) {
	var asked []*upstream.Server
	var index []int // in l.servers
	for i, sv := range l.servers {
		if !l.r.Servers[i].gone {
			asked, index = append(asked, sv), append(index, i)
		}
	}
	answers := l.client.Ask(ctx, asked, paths)
	if ctx.Err() != nil {
		return nil
	}
	before := make([]int, len(l.servers)) // how much each has answered
	for k, i := range index {
		l.clocks[k].stop(&l.r.Servers[i])
		before[i] = l.r.Servers[i].answered
	}
	items := make([]Item, len(paths))
	for n, p := range paths {
		items[n] = Item{Path: p.String()}
		for k, i := range index {
			l.offer(&items[n], p, &l.r.Servers[i], answers[n][k])
		}
		refs = append(refs, l.choose(&items[n], p, answers[n])...)
	}
	l.askPeers(ctx, items)
	for _, it := range items {
		l.count(it)
	}
	l.r.Items = append(l.r.Items, items...)
	for i := range l.r.Servers {
		sv := &l.r.Servers[i]
		switch {
		case sv.gone:
			sv.Unanswered += len(paths)
		case sv.answered == before[i]:
			sv.gone = true // each batch would wait for it again
		}
	}
	return refs
}

// judge has those narinfos count that an authorized key has signed.
func (l *survey) judge(n *narinfo.Narinfo) (narinfo.Signed, error) {
	s, err := n.VerifyGuix(l.o.ACL)
	if err != nil && len(n.Sigs) > 0 {
		if s, nixErr := n.VerifyNix(l.o.Nix); nixErr == nil {
			return s, nil
		} else if n.Signature == "" {
			err = nixErr
		}
	}
	return s, err
}

// choose says whether the item can be had, and returns what it refers to.
func (l *survey) choose(it *Item, p storepath.Path, answers []upstream.Answer) (refs []storepath.Path) {
	judge := upstream.Judge(l.judge)
	if l.o.Agree != nil {
		judge = l.o.Agree(answers, judge)
	}
	c := upstream.Choose(p, answers, judge)
	if len(c.Builds) == 0 {
		if err := errors.Join(c.Refused...); err != nil {
			it.Why = err.Error()
		}
		return nil
	}
	b := c.Builds[0]
	it.narHash, it.NarHash, it.NarSize, it.URN = b.Signed.NarHash, narinfo.FormatHash(b.Signed.NarHash), b.Signed.NarSize, own(b.Content.URN)
	it.Available = slices.ContainsFunc(c.Builds, func(b *upstream.Build) bool { return len(b.Nars) > 0 || b.Content.URN != "" })
	if !it.Available {
		it.Why = "no server offers its nar"
	}
	for _, ref := range b.Signed.References {
		if r, err := storepath.ParseBase(p.Dir, own(ref)); err == nil {
			refs = append(refs, r)
		}
	}
	return refs
}

// askPeers asks what peers hold of the items of which a narinfo counts.
func (l *survey) askPeers(ctx context.Context, items []Item) {
	if l.o.Peers == nil || l.r.PeersError != "" {
		return
	}
	var hashes [][32]byte
	var of []int
	for i, it := range items {
		if it.NarHash != "" {
			hashes, of = append(hashes, it.narHash), append(of, i)
		}
	}
	if len(hashes) == 0 {
		return
	}
	claims, err := l.o.Peers.Have(ctx, hashes)
	if err != nil {
		l.r.PeersError = err.Error()
		return
	}
	for k, i := range of {
		it := &items[i]
		it.Claims = claims[k]
		for _, c := range it.Claims {
			if !c.Part && !it.Available {
				it.Available, it.Why = true, ""
			}
		}
	}
}

// count adds an item to the sums.
func (l *survey) count(it Item) {
	if it.Available {
		l.r.Available++
		if it.URN != "" {
			l.r.AsBlocks++
		}
		if len(it.Claims) > 0 {
			l.r.AtPeers++
		}
	}
	for _, c := range it.Claims {
		i, ok := l.peers[c.Peer]
		if !ok {
			i = len(l.r.Peers)
			l.peers[c.Peer] = i
			l.r.Peers = append(l.r.Peers, Peer{URL: c.Peer})
		}
		if c.Part {
			l.r.Peers[i].Part++
		} else {
			l.r.Peers[i].Whole++
		}
	}
}

// compressed returns the size of the smallest nar of a narinfo, in bytes, and
// whether it is said.
func compressed(n *narinfo.Narinfo) (uint64, bool) {
	var sizes []uint64
	for _, nar := range n.Nars {
		if size := cmp.Or(nar.FileSize, plainSize(n, nar)); size > 0 {
			sizes = append(sizes, size)
		}
	}
	if len(sizes) == 0 {
		return 0, false
	}
	return slices.Min(sizes), true
}

// plainSize is the size of a nar that is not compressed, else 0.
func plainSize(n *narinfo.Narinfo, nar narinfo.Nar) uint64 {
	if nar.Compression == "none" {
		return n.NarSize
	}
	return 0
}
