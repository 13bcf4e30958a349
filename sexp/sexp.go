// Package sexp reads and writes the S-expressions of libgcrypt, in which Guix
// keeps keys, signatures and its ACL (libgcrypt manual, "S-expressions";
// Rivest's draft of 1997, without display hints).
//
// Read are tokens, "strings", #hexadecimal#, |base64| and 3:raw atoms in any
// mixture. Written is libgcrypt's advanced form, byte for byte.
package sexp

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// Limits of Parse.
const (
	// MaxSize bounds the text, in bytes.
	MaxSize = 4 << 20
	// MaxDepth bounds the nesting of lists.
	MaxDepth = 64
)

// Node is an atom or a list. The zero Node is the empty atom.
type Node struct {
	Atom []byte // of an atom
	List []Node // of a list
	list bool
}

// Atom returns an atom.
func Atom(s string) Node { return Node{Atom: []byte(s)} }

// Bytes returns an atom.
func Bytes(b []byte) Node { return Node{Atom: b} }

// List returns a list.
func List(nodes ...Node) Node { return Node{List: nodes, list: true} }

// IsList reports whether n is a list.
func (n Node) IsList() bool { return n.list }

// Equal reports whether n and m have the same structure and atoms.
func (n Node) Equal(m Node) bool {
	if n.list != m.list || len(n.List) != len(m.List) || !bytes.Equal(n.Atom, m.Atom) {
		return false
	}
	for i := range n.List {
		if !n.List[i].Equal(m.List[i]) {
			return false
		}
	}
	return true
}

// Head returns the atom that a list begins with, "" for anything else.
func (n Node) Head() string {
	if len(n.List) == 0 || n.List[0].list {
		return ""
	}
	return string(n.List[0].Atom)
}

// Find returns the first element of the list n that is a list headed by head.
func (n Node) Find(head string) (Node, bool) {
	for _, m := range n.List {
		if m.Head() == head {
			return m, true
		}
	}
	return Node{}, false
}

// Value returns the atom of the element (head ATOM) of the list n.
func (n Node) Value(head string) ([]byte, bool) {
	m, ok := n.Find(head)
	if !ok || len(m.List) != 2 || m.List[1].list {
		return nil, false
	}
	return m.List[1].Atom, true
}

// Parse reads one expression, with white space around it.
func Parse(text []byte) (Node, error) {
	if len(text) > MaxSize {
		return Node{}, fmt.Errorf("sexp: text of %d bytes, limit %d", len(text), MaxSize)
	}
	p := parser{text: text}
	n, err := p.node(0)
	if err == nil {
		if p.space(); p.at < len(text) {
			err = errors.New("something follows the expression")
		}
	}
	if err != nil {
		return Node{}, fmt.Errorf("sexp: byte %d: %w", p.at, err)
	}
	return n, nil
}

type parser struct {
	text []byte
	at   int
}

var errEnd = errors.New("text ends within the expression")

func (p *parser) space() {
	for p.at < len(p.text) && isSpace(p.text[p.at]) {
		p.at++
	}
}

func (p *parser) node(depth int) (Node, error) {
	p.space()
	if p.at == len(p.text) {
		return Node{}, errEnd
	}
	switch c := p.text[p.at]; {
	case c == '(':
		if depth == MaxDepth {
			return Node{}, fmt.Errorf("lists nested deeper than %d", MaxDepth)
		}
		p.at++
		return p.listRest(depth + 1)
	case c == '"':
		return p.quoted()
	case c == '#':
		return p.delimited('#', func(dst, src []byte) (int, error) { return hex.Decode(dst, src) })
	case c == '|':
		return p.delimited('|', base64.StdEncoding.Decode)
	case '0' <= c && c <= '9':
		return p.raw()
	case isToken(c):
		start := p.at
		for p.at < len(p.text) && isToken(p.text[p.at]) {
			p.at++
		}
		return Bytes(p.text[start:p.at:p.at]), nil
	default:
		return Node{}, fmt.Errorf("unexpected %q", c)
	}
}

func (p *parser) listRest(depth int) (Node, error) {
	var few [4]Node // most lists are as short
	nodes := few[:0]
	for {
		p.space()
		if p.at == len(p.text) {
			return Node{}, errEnd
		}
		if p.text[p.at] == ')' {
			p.at++
			return List(append([]Node(nil), nodes...)...), nil
		}
		m, err := p.node(depth)
		if err != nil {
			return Node{}, err
		}
		nodes = append(nodes, m)
	}
}

// delimited reads an encoded atom between two delimiters, with white space
// anywhere in it.
func (p *parser) delimited(end byte, decode func(dst, src []byte) (int, error)) (Node, error) {
	n := bytes.IndexByte(p.text[p.at+1:], end)
	if n < 0 {
		return Node{}, errEnd
	}
	src := p.text[p.at+1 : p.at+1+n]
	if slices.ContainsFunc(src, isSpace) {
		src = slices.DeleteFunc(slices.Clone(src), isSpace)
	}
	dst := make([]byte, len(src))
	m, err := decode(dst, src)
	if err != nil {
		return Node{}, err
	}
	p.at += n + 2
	return Bytes(dst[:m]), nil
}

// quoted reads a string with C's escapes.
func (p *parser) quoted() (Node, error) {
	out := []byte{}
	for i := p.at + 1; i < len(p.text); i++ {
		switch c := p.text[i]; c {
		case '"':
			p.at = i + 1
			return Bytes(out), nil
		case '\\':
			b, n, err := escape(p.text[i+1:])
			if err != nil {
				p.at = i
				return Node{}, err
			}
			out = append(out, b...)
			i += n
		default:
			out = append(out, c)
		}
	}
	return Node{}, errEnd
}

// escape decodes what follows a backslash and returns how long it is.
func escape(s []byte) (out []byte, n int, err error) {
	if len(s) == 0 {
		return nil, 0, errEnd
	}
	if i := bytes.IndexByte([]byte(`btvnfr"'\`), s[0]); i >= 0 {
		return []byte("\b\t\v\n\f\r\"'\\")[i : i+1], 1, nil
	}
	switch {
	case s[0] == '\n':
		return nil, 1, nil // the line goes on
	case s[0] == 'x' && len(s) >= 3:
		v, err := strconv.ParseUint(string(s[1:3]), 16, 8)
		if err == nil {
			return []byte{byte(v)}, 3, nil
		}
	case len(s) >= 3:
		v, err := strconv.ParseUint(string(s[:3]), 8, 8)
		if err == nil {
			return []byte{byte(v)}, 3, nil
		}
	}
	return nil, 0, fmt.Errorf("unknown escape \\%c", s[0])
}

// raw reads LENGTH:BYTES.
func (p *parser) raw() (Node, error) {
	i := bytes.IndexByte(p.text[p.at:min(p.at+12, len(p.text))], ':')
	if i < 0 {
		return Node{}, errors.New("a token does not begin with a digit")
	}
	n, err := strconv.Atoi(string(p.text[p.at : p.at+i]))
	if err != nil || (i > 1 && p.text[p.at] == '0') {
		return Node{}, fmt.Errorf("length %q", p.text[p.at:p.at+i])
	}
	start := p.at + i + 1
	if n > len(p.text)-start {
		return Node{}, errEnd
	}
	p.at = start + n
	return Bytes(p.text[start:p.at:p.at]), nil
}

func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

func isToken(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		bytes.IndexByte([]byte("-./_:*+="), c) >= 0
}

// Advanced returns n in libgcrypt's advanced form: one list a line, indented
// by a space a level, with a space after the opening token and each closing
// parenthesis on a line of its own. Atoms are tokens where they can be, else
// strings where they are printable, else hexadecimal.
func (n Node) Advanced() []byte {
	if !n.list {
		return appendAtom(nil, n.Atom)
	}
	return n.appendList(nil, 0)
}

func (n Node) appendList(b []byte, indent int) []byte {
	b = append(append(b, bytes.Repeat([]byte(" "), indent)...), '(')
	fresh := false // at the start of a line
	for i, m := range n.List {
		if m.list {
			if !fresh {
				if i > 0 {
					b = append(b, ' ')
				}
				b = append(b, '\n')
			}
			b = m.appendList(b, indent+1)
			fresh = true
			continue
		}
		switch {
		case fresh:
			b = append(b, bytes.Repeat([]byte(" "), indent+1)...)
		case i > 0:
			b = append(b, ' ')
		}
		b = appendAtom(b, m.Atom)
		fresh = false
	}
	if fresh {
		b = append(b, bytes.Repeat([]byte(" "), indent+1)...)
	}
	return append(b, ")\n"...)
}

func appendAtom(b, atom []byte) []byte {
	token := len(atom) > 0 && (atom[0] < '0' || atom[0] > '9')
	printable := true
	for _, c := range atom {
		token = token && isToken(c)
		printable = printable && c >= ' ' && c < 0x7f
	}
	switch {
	case token:
		return append(b, atom...)
	case printable:
		b = append(b, '"')
		for _, c := range atom {
			if c == '"' || c == '\\' {
				b = append(b, '\\')
			}
			b = append(b, c)
		}
		return append(b, '"')
	}
	return append(appendHex(append(b, '#'), atom), '#')
}

func appendHex(b, atom []byte) []byte {
	for _, c := range atom {
		b = append(b, "0123456789ABCDEF"[c>>4], "0123456789ABCDEF"[c&15])
	}
	return b
}
