package substitute

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/internal/compress"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// verifiers is how many narinfos are verified at once.
const verifiers = 8

// blocksFrom is the size of a nar, in bytes, above which its blocks are asked
// for before whole nars: below it, the round trips of a tree cost more than
// the nar.
const blocksFrom = 1 << 20

// choice is what can be had of an item.
type choice struct {
	path    storepath.Path
	builds  []*build // the first decides; the others are left when it cannot be had
	refused []error  // why the other answers do not count
}

// build is one content of an item: builds that cannot be reproduced differ.
type build struct {
	signed  narinfo.Signed // of the first authorized narinfo of this content
	nars    []offer        // cheapest first
	content content        // as blocks
}

// offer is a whole nar at a server.
type offer struct {
	server *server
	nar    narinfo.Nar
}

// content is what a signed URN names.
type content struct {
	urn     string // "" if there is none
	readCap eris.ReadCap
	method  string    // compression
	servers []*server // whose authorized narinfo names the URN
	size    int64     // bytes, as an unsigned nar of the same form says; -1 if unknown
}

// candidate is an answer that is a narinfo of the item.
type candidate struct {
	server *server
	n      *narinfo.Narinfo
	signed narinfo.Signed
	err    error // why it is not authorized
}

// choose sorts the answers of the servers, which are in order of preference:
// authorized, agreeing with an authorized one, or refused.
func choose(p storepath.Path, answers []answer, acl guixsig.ACL) choice {
	c := choice{path: p}
	candidates := c.read(answers, acl)
	for _, x := range candidates {
		// The daemon registers the references that it was told of first.
		if x.err == nil && c.buildOf(x.n) == nil && (len(c.builds) == 0 || c.builds[0].signed.SameReferences(x.signed)) {
			c.builds = append(c.builds, &build{signed: x.signed})
		}
	}
	for _, x := range candidates {
		b := c.buildOf(x.n)
		switch {
		case b != nil:
			for _, nar := range x.n.Nars {
				b.nars = append(b.nars, offer{x.server, nar})
			}
		case x.err != nil:
			c.refuse(x.server, x.err)
		default:
			c.refuse(x.server, errors.New("differs from the narinfo that was chosen"))
		}
	}
	for _, b := range c.builds {
		var err error
		if b.content, err = parseContent(b.signed); err != nil {
			c.refused = append(c.refused, err)
		}
		for _, x := range candidates {
			if b.content.urn != "" && x.err == nil && x.signed.ERIS == b.content.urn && x.signed.ERISFormat == b.signed.ERISFormat {
				b.content.servers = append(b.content.servers, x.server)
			}
		}
		c.sortNars(b)
	}
	return c
}

func (c *choice) refuse(sv *server, err error) {
	c.refused = append(c.refused, fmt.Errorf("%s: %w", sv, err))
}

// read parses and verifies the answers.
func (c *choice) read(answers []answer, acl guixsig.ACL) []candidate {
	var candidates []candidate
	for _, a := range answers {
		if a.err != nil {
			if !errors.Is(a.err, fs.ErrNotExist) {
				c.refuse(a.server, a.err)
			}
			continue
		}
		n, err := narinfo.Parse(a.text)
		if err == nil && n.StorePath != c.path.String() {
			err = fmt.Errorf("%w: %s", narinfo.ErrWrongPath, n.StorePath)
		}
		if err != nil {
			c.refuse(a.server, err)
			continue
		}
		signed, err := n.VerifyGuix(acl)
		if err == nil {
			err = plausible(signed, c.path)
		}
		candidates = append(candidates, candidate{a.server, n, signed, err})
	}
	return candidates
}

// buildOf returns the build that a narinfo agrees with, or nil.
func (c *choice) buildOf(n *narinfo.Narinfo) *build {
	for _, b := range c.builds {
		if b.signed.Agrees(n) {
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
func parseContent(s narinfo.Signed) (content, error) {
	if s.ERIS == "" || !s.HasNarSize {
		return content{}, nil
	}
	parse := eris.ParseURN
	if strings.HasPrefix(s.ERIS, "urn:erisx2:") {
		parse = eris.ParseLegacyURN
	}
	rc, err := parse(s.ERIS)
	if err != nil {
		return content{}, fmt.Errorf("blocks are not used: %w", err)
	}
	m, err := compress.ParseFormat(s.ERISFormat)
	if err != nil {
		return content{}, fmt.Errorf("blocks are not used: %w", err)
	}
	return content{urn: s.ERIS, readCap: rc, method: m.Name, size: -1}, nil
}

// sortNars puts the cheapest nar of a build first and leaves out what cannot be
// read.
func (c *choice) sortNars(b *build) {
	b.nars = slices.DeleteFunc(b.nars, func(o offer) bool {
		if compress.Readable(o.nar.Compression) {
			return false
		}
		c.refuse(o.server, fmt.Errorf("compression %.80q cannot be read", o.nar.Compression))
		return true
	})
	size := b.signed.NarSize
	slices.SortStableFunc(b.nars, func(x, y offer) int {
		return cmp.Compare(cost(x.nar, size), cost(y.nar, size))
	})
	for i, o := range b.nars {
		if o.nar.FileSize > math.MaxInt64 {
			b.nars[i].nar.FileSize = 0 // the daemon breaks off at a larger number
		}
		if o.nar.Compression == b.content.method && o.nar.FileSize > 0 && o.nar.FileSize <= math.MaxInt64 {
			b.content.size = int64(o.nar.FileSize)
			break
		}
	}
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

// blocksFirst reports whether blocks are asked for before nars.
func (b *build) blocksFirst() bool { return b.content.urn != "" && b.signed.NarSize > blocksFrom }

// downloadSize returns the size of what will be downloaded, 0 if unknown.
func (b *build) downloadSize() uint64 {
	switch {
	case b.blocksFirst():
		return uint64(max(b.content.size, 0))
	case len(b.nars) > 0:
		return b.nars[0].nar.FileSize
	}
	return 0
}
