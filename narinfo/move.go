package narinfo

import "bytes"

// Portable returns the text without what one server says of itself: where its
// nars are, and which blocks there are, as far as no signature covers it. All
// that a signature covers stays, byte for byte.
//
// Guix's covers all the text above it. An old narinfo has its URLs there: they
// stay, name nothing elsewhere, and Guix goes on to the next. Nix's signatures,
// and none, cover no lines of nars and of ERIS.
func (n *Narinfo) Portable() []byte {
	signed := n.SignedPart()
	out := bytes.Clone(signed)
	for line := range bytes.Lines(n.text[len(signed):]) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		switch string(name) {
		case "URL", "Compression", "FileSize", "FileHash", "ERIS", "ERISFormat", "ERISMagnet", "ERISHint", "ERISHintFormat":
		default:
			out = append(out, line...)
		}
	}
	return out
}

// AppendNar appends to what Portable has returned where a nar is.
func (n *Narinfo) AppendNar(text []byte, nar Nar) []byte {
	// Guix pairs the sizes with the URLs by their numbers, and leaves out URLs
	// beyond the last size: all have one or none.
	if signed := n.SignedPart(); countLines(signed, "URL") > countLines(signed, "FileSize") {
		nar.FileSize = 0
	}
	return append(text, Locations([]Nar{nar})...)
}

// countLines returns how many lines of a field a text has.
func countLines(text []byte, field string) (count int) {
	for line := range bytes.Lines(text) {
		if name, _, _ := bytes.Cut(line, []byte(":")); string(name) == field {
			count++
		}
	}
	return count
}
