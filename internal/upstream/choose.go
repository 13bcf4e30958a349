package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// blocksFrom is the size of a nar, in bytes, above which its blocks are asked
// for before whole nars: below it, the round trips of a tree cost more than
// the nar.
const blocksFrom = 1 << 20

// Judge says whether a narinfo counts, and what of it is signed by whoever may
// sign. Its errors say why not.
type Judge func(n *narinfo.Narinfo) (narinfo.Signed, error)

// Choice is what can be had of an item.
type Choice struct {
	Path    storepath.Path
	Builds  []*Build // the first decides; the others are left when it cannot be had
	Refused []error  // why the other answers do not count
}

// Build is one content of an item: builds that cannot be reproduced differ.
type Build struct {
	Signed  narinfo.Signed // of the first authorized narinfo of this content
	Nars    []Offer        // cheapest first
	Content Content        // as blocks

	// Narinfos are the answers that count or agree, those that count first.
	Narinfos []Answer
	Counting int // how many of these count
}

// Offer is a whole nar at a server. Nothing of it is signed.
type Offer struct {
	Server *Server
	Nar    narinfo.Nar
}

// URL returns where the nar is, for people: without a password.
func (o Offer) URL() string {
	u, err := o.Server.Resolve(o.Nar.URL)
	if err != nil {
		return o.Nar.URL
	}
	return u.Redacted()
}

// Content is what a signed URN names: a compressed nar.
type Content struct {
	URN     string // "" if there is none
	ReadCap eris.ReadCap
	Method  string    // compression
	Magnet  string    // signed link of a torrent of the blocks, of the first of Servers that has one
	Servers []*Server // whose authorized narinfo names the URN
	Size    int64     // bytes, as an unsigned nar of the same form says; -1 if unknown
}

// candidate is an answer that is a narinfo of the item.
type candidate struct {
	server *Server
	n      *narinfo.Narinfo
	signed narinfo.Signed
	err    error // why it is not authorized
}

// Choose sorts the answers of the servers about an item, which are in order of
// preference: authorized, agreeing with an authorized one, or refused.
func Choose(p storepath.Path, answers []Answer, judge Judge) Choice {
	c := Choice{Path: p}
	candidates := c.read(answers, judge)
	for _, x := range candidates {
		// The daemon registers the references that it was told of first.
		if x.err == nil && c.buildOf(x.n) == nil && (len(c.Builds) == 0 || c.Builds[0].Signed.SameReferences(x.signed)) {
			c.Builds = append(c.Builds, &Build{Signed: x.signed})
		}
	}
	for _, x := range candidates {
		b := c.buildOf(x.n)
		switch {
		case b != nil:
			b.take(x)
		case x.err != nil:
			c.refuse(x.server, x.err)
		default:
			c.refuse(x.server, errors.New("differs from the narinfo that was chosen"))
		}
	}
	for _, b := range c.Builds {
		var err error
		if b.Content, err = parseContent(b.Signed); err != nil {
			c.Refused = append(c.Refused, err)
		}
		for _, x := range candidates {
			if b.Content.URN != "" && x.err == nil && x.signed.ERIS == b.Content.URN && x.signed.ERISFormat == b.Signed.ERISFormat {
				b.Content.Servers = append(b.Content.Servers, x.server)
				b.Content.Magnet = cmp.Or(b.Content.Magnet, x.signed.ERISMagnet)
			}
		}
		c.sortNars(b)
	}
	return c
}

// take adds what a candidate that agrees with the build has.
func (b *Build) take(x candidate) {
	for _, nar := range x.n.Nars {
		b.Nars = append(b.Nars, Offer{x.server, nar})
	}
	a := Answer{Server: x.server, Text: x.n.Text()}
	if x.err != nil {
		b.Narinfos = append(b.Narinfos, a)
		return
	}
	b.Narinfos = slices.Insert(b.Narinfos, b.Counting, a)
	b.Counting++
}

// Join adds what further servers, which were not asked at first, have of the
// build: their nars, one for each compression, go before those that are there,
// cheapest first. What their answers are signed with does not matter, since
// hashes judge what they give.
func (b *Build) Join(answers []Answer) {
	var nars []Offer
	var servers []*Server
	for _, a := range answers {
		n, err := narinfo.Parse(a.Text)
		if a.Err != nil || err != nil || !b.Signed.Agrees(n) {
			continue
		}
		seen := map[string]bool{}
		for _, nar := range n.Nars {
			if compress.Readable(nar.Compression) && nar.FileSize <= math.MaxInt64 && !seen[nar.Compression] {
				seen[nar.Compression] = true
				nars = append(nars, Offer{a.Server, nar})
			}
		}
		if b.Content.URN != "" && n.ERIS == b.Content.URN {
			servers = append(servers, a.Server)
		}
	}
	byCost(nars, b.Signed.NarSize)
	b.Nars = slices.Concat(nars, b.Nars)
	b.Content.Servers = slices.Concat(servers, b.Content.Servers)
}

func (c *Choice) refuse(sv *Server, err error) {
	c.Refused = append(c.Refused, fmt.Errorf("%s: %w", sv, err))
}

// read parses and verifies the answers.
func (c *Choice) read(answers []Answer, judge Judge) []candidate {
	var candidates []candidate
	path := c.Path.String()
	for _, a := range answers {
		if a.Err != nil {
			if !errors.Is(a.Err, fs.ErrNotExist) {
				c.refuse(a.Server, a.Err)
			}
			continue
		}
		n, err := a.n, error(nil)
		if n == nil {
			n, err = narinfo.Parse(a.Text)
		}
		if err == nil && n.StorePath != path {
			err = fmt.Errorf("%w: %s", narinfo.ErrWrongPath, n.StorePath)
		}
		if err != nil {
			c.refuse(a.Server, err)
			continue
		}
		signed, err := judge(n)
		if err == nil {
			err = plausible(signed, c.Path)
		}
		candidates = append(candidates, candidate{a.Server, n, signed, err})
	}
	return candidates
}

// buildOf returns the build that a narinfo agrees with, or nil.
func (c *Choice) buildOf(n *narinfo.Narinfo) *Build {
	for _, b := range c.Builds {
		if b.Signed.Agrees(n) {
			return b
		}
	}
	return nil
}

// plausible checks what a valid signature does not.
func plausible(s narinfo.Signed, p storepath.Path) error {
	if s.HasNarSize && (s.NarSize == 0 || s.NarSize > math.MaxInt64) {
		return fmt.Errorf("NarSize %d is not that of a nar", s.NarSize)
	}
	return s.Matches(p)
}

// parseContent reads what is signed of blocks. Without a signed NarSize nothing
// bounds them, and they are not used.
func parseContent(s narinfo.Signed) (Content, error) {
	if s.ERIS == "" || !s.HasNarSize {
		return Content{}, nil
	}
	parse := eris.ParseURN
	if strings.HasPrefix(s.ERIS, "urn:erisx2:") {
		parse = eris.ParseLegacyURN
	}
	rc, err := parse(s.ERIS)
	if err != nil {
		return Content{}, fmt.Errorf("blocks are not used: %w", err)
	}
	m, err := compress.ParseFormat(s.ERISFormat)
	if err != nil {
		return Content{}, fmt.Errorf("blocks are not used: %w", err)
	}
	return Content{URN: s.ERIS, ReadCap: rc, Method: m.Name, Size: -1}, nil
}

// sortNars puts the cheapest nar of a build first and leaves out what cannot be
// read.
func (c *Choice) sortNars(b *Build) {
	b.Nars = slices.DeleteFunc(b.Nars, func(o Offer) bool {
		if compress.Readable(o.Nar.Compression) {
			return false
		}
		c.refuse(o.Server, fmt.Errorf("compression %.80q cannot be read", o.Nar.Compression))
		return true
	})
	byCost(b.Nars, b.Signed.NarSize)
	for i := range b.Nars {
		n := &b.Nars[i].Nar
		if n.FileSize > math.MaxInt64 {
			n.FileSize = 0 // the daemon breaks off at a larger number
		}
		if b.Content.Size < 0 && n.Compression == b.Content.Method && n.FileSize > 0 {
			b.Content.Size = int64(n.FileSize)
		}
	}
}

// byCost puts the cheapest of some nars first.
func byCost(nars []Offer, narSize uint64) {
	slices.SortStableFunc(nars, func(x, y Offer) int {
		return cmp.Compare(cost(x.Nar, narSize), cost(y.Nar, narSize))
	})
}

// cost estimates what a nar costs, in bytes of transfer: those of the file and,
// for the methods that decompress slowly, a quarter of the nar's. A size that
// is not known is taken for half the nar's. What is said of sizes is not
// signed, and nothing but the order follows from it.
func cost(n narinfo.Nar, narSize uint64) float64 {
	c := float64(n.FileSize)
	switch {
	case n.Compression == "none":
		c = float64(narSize)
	case n.FileSize == 0:
		c = float64(narSize) / 2
	}
	switch n.Compression {
	case "lzip", "xz", "bzip2":
		if narSize > blocksFrom {
			c += float64(narSize) / 4
		}
	}
	return c
}

// BlocksFirst reports whether blocks are asked for before nars.
func (b *Build) BlocksFirst() bool { return b.Content.URN != "" && b.Signed.NarSize > blocksFrom }

// DownloadSize returns the size of what will be downloaded, in bytes, 0 if
// unknown.
func (b *Build) DownloadSize() uint64 {
	switch {
	case b.BlocksFirst():
		return uint64(max(b.Content.Size, 0))
	case len(b.Nars) > 0:
		return b.Nars[0].Nar.FileSize
	}
	return 0
}

// CompressedLimit bounds the compressed nar, in bytes: no method makes what it
// cannot compress larger than that.
func (b *Build) CompressedLimit() int64 {
	size := int64(b.Signed.NarSize)
	if !b.Signed.HasNarSize || size > math.MaxInt64/2 {
		return math.MaxInt64
	}
	return size + size/16 + 64<<10
}
