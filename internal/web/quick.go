package web

import (
	"bytes"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Request is a GET or HEAD in which nothing changes the answer but the path.
type Request struct {
	// Path is made of ASCII letters, digits and -._~/+= alone. Its bytes are
	// another request's once the answer is given.
	Path []byte

	// Head says that the body is not sent.
	Head bool

	Time time.Time // now
}

// Answer is an answer that is at hand. Nothing changes its bytes.
type Answer struct {
	// Head is the status line and the fields in the order and form of net/http,
	// each with its CR LF, but without Date and the empty line: see AnswerHead.
	Head []byte
	Body []byte

	// File is the body, if there is one; not in answers to HEAD. Whoever has got
	// the answer sends it, telling Meter, and closes it.
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
	// written at once: each connection whose client does not read holds as many.
	batch = 16 << 10

	// keepBuffer bounds the buffers that are kept for other answers, in bytes.
	keepBuffer = 128 << 10
)

// quickly is what the lanes of a server have in common.
type quickly struct {
	Quick
	buffers sync.Pool // of *[]byte, empty
	date    atomic.Pointer[date]
}

// date is the Date field of a second.
type date struct {
	second int64
	field  []byte
}

// buffer returns an empty buffer.
func (q *quickly) buffer() *[]byte {
	if b, ok := q.buffers.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, 4<<10)
	return &b
}

func (q *quickly) free(b *[]byte) {
	if cap(*b) <= keepBuffer {
		*b = (*b)[:0]
		q.buffers.Put(b)
	}
}

// size returns how many bytes an answer takes.
func (a Answer) size(r Request) int {
	n := len(a.Head) + len("Date: \r\n\r\n") + len(http.TimeFormat)
	if !r.Head {
		n += len(a.Body)
	}
	return n
}

// drop gives an answer up.
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
