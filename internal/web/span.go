package web

import "bytes"

// Span returns the part of a content of size bytes that a Range asks for:
// bytes=FIRST-LAST, bytes=FIRST- or bytes=-LAST, without blanks (RFC 9110,
// section 14.1.2). Where ok is false, it is another form, several parts, or
// nothing, and http.ServeContent knows what the answer is. The part is the one
// that ServeContent sends.
func Span(field []byte, size int64) (start, n int64, ok bool) {
	text, ok := bytes.CutPrefix(field, []byte("bytes="))
	if !ok {
		return 0, 0, false
	}
	from, to, ok := bytes.Cut(text, []byte("-"))
	first, hasFirst := decimal(from)
	last, hasLast := decimal(to)
	switch {
	case !ok, !hasFirst && len(from) > 0, !hasLast && len(to) > 0, !hasFirst && !hasLast:
		return 0, 0, false
	case !hasFirst:
		first, last = max(size-last, 0), size-1
	case hasLast && last < first:
		return 0, 0, false
	case !hasLast || last >= size:
		last = size - 1
	}
	return first, last - first + 1, first <= last
}

// decimal reads a number of at most 18 digits.
func decimal(b []byte) (n int64, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, 0 < len(b) && len(b) <= 18
}
