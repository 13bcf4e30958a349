package web

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// spans are values of Range, and whether they are one part of 100 bytes in the
// form that Span knows.
var spans = []struct {
	field    string
	start, n int64
	ok       bool
}{
	{"bytes=0-", 0, 100, true},
	{"bytes=0-0", 0, 1, true},
	{"bytes=10-19", 10, 10, true},
	{"bytes=99-", 99, 1, true},
	{"bytes=99-99", 99, 1, true},
	{"bytes=90-100", 90, 10, true},
	{"bytes=007-00000000000000011", 7, 5, true},
	{"bytes=90-999999999999999999", 90, 10, true},
	{"bytes=-1", 99, 1, true},
	{"bytes=-100", 0, 100, true},
	{"bytes=-101", 0, 100, true},
	{"bytes=-0", 0, 0, false},
	{"bytes=100-", 0, 0, false},
	{"bytes=100-200", 0, 0, false},
	{"bytes=300-200", 0, 0, false},
	{"bytes=11-10", 0, 0, false},
	{"bytes=0-9223372036854775808", 0, 0, false},
	{"bytes=0-1,2-3", 0, 0, false},
	{"bytes=0-1,", 0, 0, false},
	{"bytes= 0-1", 0, 0, false},
	{"bytes=0-1-2", 0, 0, false},
	{"bytes=0--1", 0, 0, false},
	{"bytes=--1", 0, 0, false},
	{"bytes=+1-2", 0, 0, false},
	{"bytes=-", 0, 0, false},
	{"bytes=", 0, 0, false},
	{"bytes=5", 0, 0, false},
	{"Bytes=0-1", 0, 0, false},
	{"items=0-1", 0, 0, false},
	{"", 0, 0, false},
}

func TestSpan(t *testing.T) {
	for _, c := range spans {
		start, n, ok := Span([]byte(c.field), 100)
		if ok != c.ok || ok && (start != c.start || n != c.n) {
			t.Errorf("%q: %d bytes from %d, %v", c.field, n, start, ok)
		}
		if _, _, ok := Span([]byte(c.field), 0); ok {
			t.Errorf("%q: a part of nothing", c.field)
		}
	}
}

// FuzzSpan: the part is the one that http.ServeContent sends.
func FuzzSpan(f *testing.F) {
	for _, c := range spans {
		f.Add(c.field, uint8(100))
	}
	f.Fuzz(func(t *testing.T, field string, size uint8) {
		start, n, ok := Span([]byte(field), int64(size))
		if !ok {
			return
		}
		content := strings.Repeat("0123456789abcde", 18)[:size]
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Range", field)
		w := httptest.NewRecorder()
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
		if w.Code != http.StatusPartialContent || w.Body.String() != content[start:start+n] ||
			w.Header().Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", start, start+n-1, size) {
			t.Errorf("%q of %d: %d bytes from %d, net/http says %d, %v", field, size, n, start, w.Code, w.Header())
		}
	})
}
