package node

import (
	"bytes"
	"fmt"

	"ersatz/eris"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// narPath is where nars are, below the prefix of their kind.
const narPath = "nar/"

// hint is the URN of an item's content where no signature covers one.
type hint struct {
	readCap eris.ReadCap
	format  string // "" if there is no hint
}

// rewrite returns a narinfo for this node's clients: all that a signature
// covers, byte for byte, and below that one nar, which this node has. narSize is
// that of the item; h stands in the text unless the signature covers a URN.
func rewrite(n *narinfo.Narinfo, p storepath.Path, narSize int64, h hint) []byte {
	out := n.Portable()
	if h.format != "" && !signsURN(n.SignedPart()) {
		out = fmt.Appendf(out, "ERISHintFormat: %s\nERISHint: %s\n", h.format, h.readCap.URN())
	}
	return n.AppendNar(out, narinfo.Nar{URL: narPath + escapeBase(p.Base()), Compression: "none", FileSize: uint64(narSize)})
}

// signsURN reports whether the text that a signature covers names blocks.
func signsURN(signed []byte) bool {
	return count(signed, "ERIS") > 0 && count(signed, "ERISFormat") > 0
}

// count returns how many lines of a field a text has.
func count(text []byte, field string) (n int) {
	for line := range bytes.Lines(text) {
		if name, _, _ := bytes.Cut(line, []byte(":")); string(name) == field {
			n++
		}
	}
	return n
}

// escapeBase writes the last component of a store path as a part of a URL: of
// its characters only "?" has another meaning there, and Guix encodes "+" and
// "=" too.
func escapeBase(base string) string {
	var b []byte
	for i := range len(base) {
		switch c := base[i]; c {
		case '?', '+', '=':
			b = fmt.Appendf(b, "%%%02X", c)
		default:
			b = append(b, c)
		}
	}
	return string(b)
}
