package web

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// heads are heads of requests, and who answers them.
var heads = []struct {
	text    string
	verdict verdict
	path    string
}{
	{"GET /x.narinfo HTTP/1.1\r\nHost: h\r\n\r\n", plain, "/x.narinfo"},
	{"HEAD /x.narinfo HTTP/1.1\r\nhOST:h:80\r\n\r\n", plain, "/x.narinfo"},
	{"GET /a/b+c=~ HTTP/1.1\r\nHost: [::1]:8080\r\nUser-Agent: GNU Guile\r\nConnection: Keep-Alive\r\n\r\n", plain, "/a/b+c=~"},
	{"GET / HTTP/1.1\r\nHost: h\r\nAccept: */*\r\nAccept-Encoding: zstd, br\r\nX-Forwarded-For: 192.0.2.1\r\nVia: 1.1 x\r\n\r\nGET /", plain, "/"},
	{"GET /x HTTP/1.1\r\nHost: h\r\nErsatz-Only-Kept: 1\r\n\r\n", plain, "/x"},
	{"GET /x HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1\r\n\r\n", plain, "/x"},
	{"GET /x HTTP/1.1\r\nrange:x\r\nHost: h\r\nIF-RANGE: \"y\" \r\n\r\n", plain, "/x"},
	{"GET /x HTTP/1.1\r\nHost: h\r\nRange: bytes=0-\r\nRange: bytes=1-\r\n\r\n", single, "/x"},
	{"GET /x HTTP/1.1\r\nHost: h\r\nRange:\r\n\r\n", single, "/x"},
	{"GET /x HTTP/1.1\r\nHost: h\r\nIf-Range: \"y\"\r\n\r\n", single, "/x"},
	{"GET /x HTTP/1.1\r\nHost: h\r\nRange: bytes=0-\r\nIf-Range: a\r\nIf-Range: b\r\n\r\n", single, "/x"},
	{"GET /x HTTP/1.1\r\nHost: h\r\nRange: bytes=0-\r\nIf-Range:\r\n\r\n", single, "/x"},
	{"GET /x HTTP/1.1\r\nHost: h\r\nIf-None-Match: \"x\"\r\n\r\n", single, "/x"},
	{"GET /x HTTP/1.1\r\nHost: h\r\nSome-Thing: new\r\n\r\n", single, "/x"},
	{"GET /x?y=z HTTP/1.1\r\nHost: h\r\n\r\n", single, "/x?y=z"},
	{"GET /%78%2b%3D%3f+ HTTP/1.1\r\nHost: h\r\n\r\n", plain, "/%78%2b%3D%3f+"},
	{"GET /%2E%2e/%2E HTTP/1.1\r\nHost: h\r\n\r\n", plain, "/%2E%2e/%2E"},
	{"GET /x%2Fy HTTP/1.1\r\nHost: h\r\n\r\n", single, "/x%2Fy"},
	{"GET /x%00 HTTP/1.1\r\nHost: h\r\n\r\n", single, "/x%00"},
	{"GET /x%252B HTTP/1.1\r\nHost: h\r\n\r\n", single, "/x%252B"},
	{"GET /x%zz HTTP/1.1\r\nHost: h\r\n\r\n", single, "/x%zz"},
	{"GET /x%2 HTTP/1.1\r\nHost: h\r\n\r\n", single, "/x%2"},
	{"GET /x% HTTP/1.1\r\nHost: h\r\n\r\n", single, "/x%"},
	{"GET /x%%32%42 HTTP/1.1\r\nHost: h\r\n\r\n", single, "/x%%32%42"},
	{"GET /%e2%82%ac HTTP/1.1\r\nHost: h\r\n\r\n", single, "/%e2%82%ac"},
	{"GET /x HTTP/1.1\r\n\r\n", single, "/x"},
	{"GET /x HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", single, "/x"},
	{"GET /x HTTP/1.1\r\nHost: \r\n\r\n", single, "/x"},
	{"GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", single, "/x"},

	{"POST /x HTTP/1.1\r\nHost: h\r\n\r\n", foreign, ""},
	{"POST", foreign, ""},
	{"GET /x HTTP/1.0\r\nHost: h\r\n\r\n", foreign, ""},
	{"GET /x HTTP/1.1\nHost: h\n\n", foreign, ""},
	{"GET /x HTTP/1.1\r\nHost: h\n", foreign, ""},
	{"GET /x HTTP/1.1\r\nHost: h\r\r\n", foreign, ""},
	{"GET /x  HTTP/1.1\r\nHost: h\r\n\r\n", foreign, ""},
	{"GET /x y HTTP/1.1\r\nHost: h\r\n\r\n", foreign, ""},
	{"GET http://h/x HTTP/1.1\r\nHost: h\r\n\r\n", foreign, ""},
	{"\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n", foreign, ""},
	{"\x16\x03\x01", foreign, ""},
	{"GET /x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", foreign, ""},
	{"GET /x HTTP/1.1\r\nHost: h\r\ntransfer-encoding: chunked\r\n\r\n", foreign, ""},
	{"GET /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n", foreign, ""},
	{"GET /x HTTP/1.1\r\nHost: h\r\n Transfer-Encoding: chunked\r\n\r\n", foreign, ""},
	{"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", foreign, ""},
	{"GET /x HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, upgrade\r\n\r\n", foreign, ""},
	{"GET /x HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\n", foreign, ""},
	{"GET /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n", foreign, ""},
	{"GET /x HTTP/1.1\r\nHost: h\r\nAccept: \x00\r\n\r\n", foreign, ""},
	{"GET /x HTTP/1.1\r\nHost\r\n\r\n", foreign, ""},
	{"GET /x HTTP/1.1\r\n: h\r\n\r\n", foreign, ""},
	{"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", foreign, ""},
}

func TestParseHead(t *testing.T) {
	for _, c := range heads {
		h := parseHead([]byte(c.text))
		if h.verdict != c.verdict || c.path != "" && (string(h.path) != c.path || h.noBody != strings.HasPrefix(c.text, "HEAD")) {
			t.Errorf("%q: %+v", c.text, h)
		}
		if c.verdict != plain && c.verdict != single {
			continue
		}
		if end := strings.Index(c.text, "\r\n\r\n") + 4; h.size != end {
			t.Errorf("%q: %d bytes, not %d", c.text, h.size, end)
		}
		// Before its end has come, nothing is decided for good.
		for n := range h.size {
			if got := parseHead([]byte(c.text[:n])); got.verdict != partial {
				t.Errorf("%q: %+v", c.text[:n], got)
			}
		}
	}
}

// TestParseHeadKeepsNothing: looking at a head takes no memory.
func TestParseHeadKeepsNothing(t *testing.T) {
	for _, c := range heads {
		p := []byte(c.text)
		if n := testing.AllocsPerRun(10, func() { parseHead(p) }); n != 0 {
			t.Errorf("%q: %v allocations", p, n)
		}
	}
}

// FuzzParseHead: what is taken for a plain request, or one that is its head and
// nothing more, is that to net/http.
func FuzzParseHead(f *testing.F) {
	for _, c := range heads {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		h := parseHead(p)
		if h.verdict != plain && h.verdict != single {
			return
		}
		rest := bufio.NewReaderSize(bytes.NewReader(p), len(p)+16)
		r, err := http.ReadRequest(rest)
		if err != nil {
			if h.verdict == single {
				return // net/http says so to the client
			}
			t.Fatalf("%q: %v", p, err)
		}
		left, err := io.ReadAll(rest)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) != len(p)-h.size || r.ContentLength != 0 || r.TransferEncoding != nil || r.Trailer != nil {
			t.Errorf("%q: %d bytes, net/http leaves %d of %d: %+v", p, h.size, len(left), len(p), r)
		}
		if (r.Method == http.MethodHead) != h.noBody || r.Method != http.MethodGet && r.Method != http.MethodHead {
			t.Errorf("%q: method %s", p, r.Method)
		}
		if h.verdict == single {
			return
		}
		path := unescape(nil, h.path)
		if r.RequestURI != string(h.path) || r.URL.Path != string(path) || r.URL.RawQuery != "" || r.Close || r.Host == "" {
			t.Errorf("%q: %q, %+v", p, h.path, r)
		}
		if h.escaped == bytes.Equal(path, h.path) || bytes.Count(path, []byte("/")) != bytes.Count(h.path, []byte("/")) {
			t.Errorf("%q: %q is %q, escaped: %v", p, h.path, path, h.escaped)
		}
		for name, field := range map[string][]byte{"Range": h.span, "If-Range": h.ifSpan} {
			if got := r.Header.Values(name); field == nil && got != nil || field != nil && !slices.Equal(got, []string{string(field)}) {
				t.Errorf("%q: %s is %q, not %q", p, name, got, field)
			}
			r.Header.Del(name)
		}
		for name := range r.Header {
			if strings.HasPrefix(name, "If-") || name == "Upgrade" || name == "Expect" {
				t.Errorf("%q: plain with %s", p, name)
			}
		}
	})
}
