package web

import (
	"bytes"
	"encoding/hex"
)

// verdict says who answers a request.
type verdict int

const (
	// partial: its head has not come to its end yet.
	partial verdict = iota

	// plain: nothing in the head changes the answer but what head has.
	plain

	// single: net/http answers. The request is its head and nothing more.
	single

	// foreign: net/http answers. Where the request ends, or whether it is one,
	// is for net/http to say, so that all which follows is net/http's as well.
	foreign
)

// head is what was read of a request's head (RFC 9112, sections 3 to 5).
type head struct {
	verdict verdict
	size    int    // bytes, with the empty line; of plain and single
	path    []byte // of plain and single, as it was sent
	escaped bool   // path has escapes; of plain, those of isEscaped alone
	noBody  bool   // the method is HEAD
	span    []byte // of plain: Range; nil: there is none
	ifSpan  []byte // of plain: If-Range; nil: there is none
}

// parseHead reads the head that p begins with, and is stricter than net/http:
// lines end by CR LF, the version is 1.1, names are tokens. What it takes for
// plain or single, net/http takes for a request of that size, method and path,
// without a body.
func parseHead(p []byte) head {
	h := head{verdict: plain}
	line, rest, ok := cutLine(p)
	if !ok {
		return head{verdict: unfinished(p, line)}
	}
	if !h.request(line) {
		return head{verdict: foreign}
	}
	hosts := 0
	for {
		if line, rest, ok = cutLine(rest); !ok {
			return head{verdict: unfinished(p, line)}
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := cutField(line)
		if !ok {
			return head{verdict: foreign}
		}
		v := judge(name, value)
		if v == foreign {
			return head{verdict: foreign}
		}
		if v == single {
			h.verdict = single
		}
		switch {
		case fold(name, "host"):
			hosts++
		case fold(name, "range"):
			h.once(&h.span, value)
		case fold(name, "if-range"):
			h.once(&h.ifSpan, value)
		}
	}
	if hosts != 1 || h.span == nil && h.ifSpan != nil {
		h.verdict = single // net/http refuses it; or knows what is meant
	}
	h.size = len(p) - len(rest)
	return h
}

// once notes the value of a field. What it means to have none, or two, is for
// net/http to say.
func (h *head) once(field *[]byte, value []byte) {
	if *field != nil || len(value) == 0 {
		h.verdict = single
	}
	*field = value
}

// cutLine returns what comes before and after the first CR LF. Without one, ok
// is false, and line is nil if there is a bare LF or CR, which no more bytes
// make right, else all of p.
func cutLine(p []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(p, '\r')
	switch {
	case i >= 0 && i+1 < len(p) && p[i+1] == '\n' && bytes.IndexByte(p[:i], '\n') < 0:
		return p[:i], p[i+2:], true
	case i >= 0 && i+1 < len(p), bytes.IndexByte(p, '\n') >= 0:
		return nil, nil, false
	}
	return p, nil, false
}

// unfinished judges a head that lacks its end; line is its last one, nil if
// that is none.
func unfinished(p, line []byte) verdict {
	if line == nil {
		return foreign
	}
	for _, method := range []string{"GET /", "HEAD /"} {
		if n := min(len(p), len(method)); string(p[:n]) == method[:n] {
			return partial
		}
	}
	return foreign
}

// request reads the first line.
func (h *head) request(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("GET "))
	if !ok {
		if rest, h.noBody = bytes.CutPrefix(line, []byte("HEAD ")); !h.noBody {
			return false
		}
	}
	if h.path, ok = bytes.CutSuffix(rest, []byte(" HTTP/1.1")); !ok || len(h.path) == 0 || h.path[0] != '/' {
		return false
	}
	for i, c := range h.path {
		switch {
		case c <= ' ' || c >= 0x7f:
			return false
		case c == '%':
			h.escaped = true
			if e, ok := escape(h.path[i:]); !ok || !isEscaped[e] {
				h.verdict = single
			}
		case !isPlain[c]:
			h.verdict = single
		}
	}
	return true
}

// escape returns what the escape means that p begins with, with its percent sign
// (RFC 3986, section 2.1).
func escape(p []byte) (c byte, ok bool) {
	if len(p) < 3 {
		return 0, false
	}
	var b [1]byte
	_, err := hex.Decode(b[:], p[1:3])
	return b[0], err == nil
}

// unescape appends a path, whose escapes are ones, to b.
func unescape(b, path []byte) []byte {
	for len(path) > 0 {
		c, n := path[0], 1
		if c == '%' {
			c, _ = escape(path)
			n = 3
		}
		b, path = append(b, c), path[n:]
	}
	return b
}

// isPlain has what stands for itself in a path.
var isPlain = charSet("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/+=")

// isEscaped has what may be escaped in a path: what makes the same path if it is
// not, and the question mark, which may be in the name of a store item.
var isEscaped = charSet("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+=?")

// isToken has what the name of a field is made of (RFC 9110, section 5.6.2).
var isToken = charSet("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~")

// isHost has what the hosts that anybody uses are made of, with their ports.
var isHost = charSet("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:[]")

func charSet(chars string) (set [256]bool) {
	for i := range len(chars) {
		set[chars[i]] = true
	}
	return set
}

func allIn(b []byte, set *[256]bool) bool {
	for _, c := range b {
		if !set[c] {
			return false
		}
	}
	return true
}

// cutField takes a line of a head apart.
func cutField(line []byte) (name, value []byte, ok bool) {
	name, value, ok = bytes.Cut(line, []byte(":"))
	if !ok || len(name) == 0 || !allIn(name, &isToken) {
		return nil, nil, false
	}
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return nil, nil, false
		}
	}
	return name, bytes.Trim(value, " \t"), true
}

// judge says what a field makes of its request. Those that are not known can
// change the answer, but not where the request ends.
func judge(name, value []byte) verdict {
	switch name[0] | 0x20 {
	case 'a':
		if fold(name, "accept") || fold(name, "accept-encoding") || fold(name, "accept-language") {
			return plain
		}
	case 'c':
		switch {
		case fold(name, "connection") && fold(value, "keep-alive"), fold(name, "cache-control"):
			return plain
		case fold(name, "connection"), len(name) >= 8 && fold(name[:8], "content-"):
			return foreign
		}
	case 'e':
		switch {
		case fold(name, "ersatz-only-kept"): // is for nodes, which have no Quick
			return plain
		case fold(name, "expect"):
			return foreign
		}
	case 'f':
		if fold(name, "forwarded") {
			return plain
		}
	case 'h':
		switch {
		case fold(name, "host") && len(value) > 0 && allIn(value, &isHost):
			return plain
		case fold(name, "http2-settings"):
			return foreign
		}
	case 'i':
		if fold(name, "if-range") {
			return plain
		}
	case 'p':
		if fold(name, "pragma") {
			return plain
		}
	case 'r':
		if fold(name, "range") {
			return plain
		}
	case 't':
		if fold(name, "te") || fold(name, "trailer") || fold(name, "transfer-encoding") {
			return foreign
		}
	case 'u':
		switch {
		case fold(name, "user-agent"):
			return plain
		case fold(name, "upgrade"):
			return foreign
		}
	case 'v':
		if fold(name, "via") {
			return plain
		}
	case 'x':
		if fold(name, "x-forwarded-for") || fold(name, "x-forwarded-host") || fold(name, "x-forwarded-proto") || fold(name, "x-real-ip") {
			return plain
		}
	}
	return single
}

// fold reports whether b is s, which is in lower case, but for case.
func fold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range len(s) {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != s[i] {
			return false
		}
	}
	return true
}
