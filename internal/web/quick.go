package web

import (
	"bytes"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Request is a GET or HEAD in which nothing changes the answer but what is here.
// Its bytes are another request's once the answer is sent.
type Request struct {
	// Path is made of ASCII letters, digits and -._~/+=? alone. It has no escapes
	// any more; what of it was one is no slash.
	Path []byte

	// Head says that the body is not sent.
	Head bool

	// Range and IfRange are the values of these fields, as they were sent; nil
	// without them. IfRange is not there without Range. See Span.
	Range, IfRange []byte

	// Buffer is empty memory for the answer's Head.
	Buffer []byte

	Time time.Time // now
}

// Answer is an answer that is at hand. Nothing changes its bytes until it is
// sent.
type Answer struct {
	// Head is the status line and the fields in the order and form of net/http,
	// each with its CR LF, but without Date and the empty line: see AnswerHead.
	Head []byte
	Body []byte

	// File is the body, or the part of it that File.Part has chosen, if there is
	// one; not in answers to HEAD. Whoever has got the answer sends it, telling
	// Meter, and closes it.
	File  *File
	Meter Meter // with File
}

// Quick has answers at hand, to requests that need nothing of what net/http
// knows. It is safe for concurrent use.
type Quick interface {
	// Quick returns the answer that the http.Handler gives too, but for Date.
	// If ok is false, that one is asked. It allocates nothing if it can help it.
	Quick(r Request) (a Answer, ok bool)
}

// AnswerHead returns the Head of an Answer with these fields. Content-Length
// must be one of them.
func AnswerHead(status int, h http.Header) []byte {
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n")
	_ = h.Write(&b) // a bytes.Buffer has no errors
	return b.Bytes()
}

const (
	// batch bounds how many bytes of answers to requests that came together are
	// written at once, and small those of a file that is read and written with its
	// head, which takes less than a sendfile of its own: each connection whose
	// client does not read holds as many as the larger.
	batch = 16 << 10
	small = 32 << 10

	// keepBuffer bounds the buffers that are kept for other answers, in bytes.
	keepBuffer = 128 << 10
)

// quickly is what the lanes of a server have in common.
type quickly struct {
	Quick
	scratches sync.Pool // of *scratch
	date      atomic.Pointer[date]
}

// scratch is the memory for requests that came together, and their answers.
type scratch struct {
	out  []byte // what is to be written
	path []byte // of a request
	head []byte // of its answer
}

// date is the Date field of a second.
type date struct {
	second int64
	field  []byte
}

func (q *quickly) scratch() *scratch {
	if m, ok := q.scratches.Get().(*scratch); ok {
		return m
	}
	return &scratch{out: make([]byte, 0, 4<<10), head: make([]byte, 0, 512)}
}

func (q *quickly) free(m *scratch) {
	if cap(m.out) <= keepBuffer {
		m.out = m.out[:0]
		q.scratches.Put(m)
	}
}

// size returns how many bytes an answer takes.
func (a Answer) size(r Request) int {
	n := len(a.Head) + len("Date: \r\n\r\n") + len(http.TimeFormat)
	switch {
	case a.File != nil && a.File.left <= small:
		n += int(a.File.left)
	case !r.Head:
		n += len(a.Body)
	}
	return n
}

// appendFile appends the file of an answer to b, or what can be read of it.
func (a Answer) appendFile(b []byte) ([]byte, error) {
	at := len(b)
	b, err := a.File.append(b)
	a.Meter.Sent(len(b) - at)
	return b, err
}

// drop is done with an answer.
func (a Answer) drop() error {
	if a.File == nil {
		return nil
	}
	a.Meter.Done()
	return a.File.Close()
}

// append appends an answer as it is sent.
func (q *quickly) append(b []byte, a Answer, r Request) []byte {
	d := q.date.Load()
	if s := r.Time.Unix(); d == nil || d.second != s {
		d = &date{s, []byte("Date: " + r.Time.UTC().Format(http.TimeFormat) + "\r\n\r\n")}
		q.date.Store(d)
	}
	b = append(append(b, a.Head...), d.field...)
	if !r.Head {
		b = append(b, a.Body...)
	}
	return b
}
