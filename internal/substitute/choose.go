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
	path       storepath.Path
	authorized bool           // whether signed and what follows is set
	signed     narinfo.Signed // of the first authorized narinfo, which decides
	nars       []offer        // cheapest first
	content    content        // as blocks
	refused    []error        // why the other answers do not count
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

// choose sorts the answers of the servers, which are in order of preference:
// authorized, agreeing with an authorized one, or refused.
func choose(p storepath.Path, answers []answer, acl guixsig.ACL) choice {
	c := choice{path: p}
	refuse := func(a answer, err error) { c.refused = append(c.refused, fmt.Errorf("%s: %w", a.server, err)) }
	type candidate struct {
		answer
		n      *narinfo.Narinfo
		signed narinfo.Signed
		err    error // why it is not authorized
	}
	var candidates []candidate
	for _, a := range answers {
		if a.err != nil {
			if !errors.Is(a.err, fs.ErrNotExist) {
				refuse(a, a.err)
			}
			continue
		}
		n, err := narinfo.Parse(a.text)
		if err == nil && n.StorePath != p.String() {
			err = fmt.Errorf("%w: %s", narinfo.ErrWrongPath, n.StorePath)
		}
		if err != nil {
			refuse(a, err)
			continue
		}
		signed, err := n.VerifyGuix(acl)
		if err == nil {
			err = plausible(signed, p)
		}
		if err == nil && !c.authorized {
			c.authorized, c.signed = true, signed
		}
		candidates = append(candidates, candidate{a, n, signed, err})
	}
	for _, x := range candidates {
		switch {
		case c.authorized && c.signed.Agrees(x.n):
			for _, nar := range x.n.Nars {
				c.nars = append(c.nars, offer{x.server, nar})
			}
		case x.err != nil:
			refuse(x.answer, x.err)
		default:
			refuse(x.answer, errors.New("differs from the narinfo that was chosen"))
		}
	}
	if !c.authorized {
		return c
	}
	var err error
	if c.content, err = parseContent(c.signed); err != nil {
		c.refused = append(c.refused, err)
	}
	for _, x := range candidates {
		if c.content.urn != "" && x.err == nil && x.signed.ERIS == c.content.urn && x.signed.ERISFormat == c.signed.ERISFormat {
			c.content.servers = append(c.content.servers, x.server)
		}
	}
	c.sortNars()
	return c
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

// sortNars puts the cheapest nar first and leaves out what cannot be read.
func (c *choice) sortNars() {
	c.nars = slices.DeleteFunc(c.nars, func(o offer) bool {
		if compress.Readable(o.nar.Compression) {
			return false
		}
		c.refused = append(c.refused, fmt.Errorf("%s: compression %.80q cannot be read", o.server, o.nar.Compression))
		return true
	})
	slices.SortStableFunc(c.nars, func(a, b offer) int {
		return cmp.Compare(cost(a.nar, c.signed.NarSize), cost(b.nar, c.signed.NarSize))
	})
	for _, o := range c.nars {
		if o.nar.Compression == c.content.method && o.nar.FileSize > 0 && o.nar.FileSize <= math.MaxInt64 {
			c.content.size = int64(o.nar.FileSize)
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
func (c *choice) blocksFirst() bool { return c.content.urn != "" && c.signed.NarSize > blocksFrom }

// downloadSize returns the size of what will be downloaded, 0 if unknown.
func (c *choice) downloadSize() uint64 {
	switch {
	case c.blocksFirst():
		return uint64(max(c.content.size, 0))
	case len(c.nars) > 0:
		return c.nars[0].nar.FileSize
	}
	return 0
}
