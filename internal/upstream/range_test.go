package upstream

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ersatz/narinfo"
)

const digits = "0123456789"

// files serves digits under an ETag, as net/http does it.
func files(tag string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if tag != "" {
			w.Header().Set("ETag", tag)
		}
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(digits))
	}
}

func TestOpenRange(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "x"), []byte(digits), 0o644))
	c := newClient(t, Options{})
	for name, sv := range map[string]*Server{"http": serve(t, files(`"a"`)), "folder": server(t, "file://"+dir)} {
		for _, x := range []struct {
			r    Range
			want string // "": ErrChanged
		}{
			{Range{}, digits},
			{Range{Offset: 4}, digits[4:]},
			{Range{Offset: 4, Total: 10, ETag: `"a"`}, digits[4:]},
			{Range{Offset: 4, Length: 3, Total: 10}, digits[4:7]},
			{Range{Offset: 9, Length: 1}, digits[9:]},
			{Range{Offset: 4, Total: 11}, ""},
			{Range{Offset: 10}, ""},
			{Range{Offset: 9, Length: 2}, ""},
		} {
			b, err := c.OpenRange(t.Context(), sv, "x", x.r)
			if x.want == "" {
				if !errors.Is(err, ErrChanged) {
					t.Errorf("%s: %+v: %v", name, x.r, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %+v: %v", name, x.r, err)
				continue
			}
			got, err := io.ReadAll(b)
			if err != nil || string(got) != x.want || b.Size != int64(len(got)) || b.Close() != nil {
				t.Errorf("%s: %+v: %q of %d, %v", name, x.r, got, b.Size, err)
			}
		}
	}
	if _, err := c.OpenRange(t.Context(), server(t, "file://"+dir), "../x", Range{}); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("outside the folder: %v", err)
	}
	if _, err := c.OpenRange(t.Context(), server(t, "file://"+dir), "y", Range{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such file: %v", err)
	}
}

// TestChangedFile: a server that has another file by now says so, by If-Range,
// and one that gives no ETag is taken at its word.
func TestChangedFile(t *testing.T) {
	c := newClient(t, Options{})
	for tag, want := range map[string]error{`"a"`: nil, `"b"`: ErrChanged, `W/"a"`: ErrChanged, "": ErrChanged} {
		_, err := c.OpenRange(t.Context(), serve(t, files(tag)), "x", Range{Offset: 1, ETag: `"a"`})
		if !errors.Is(err, want) {
			t.Errorf("ETag %s: %v", tag, err)
		}
	}
}

// TestHostileRanges: answers that do not fit together.
func TestHostileRanges(t *testing.T) {
	c := newClient(t, Options{})
	r := Range{Offset: 4, Length: 4, Total: 10, ETag: `"a"`}
	for name, x := range map[string]struct {
		status       int
		header, body string // "Name: value"
		want         error
	}{
		"right":            {206, "Content-Range: bytes 4-7/10", "4567", nil},
		"whole":            {200, "ETag: \"a\"", digits, ErrChanged},
		"no Content-Range": {206, "ETag: \"a\"", "4567", ErrChanged},
		"wrong offset":     {206, "Content-Range: bytes 3-6/10", "3456", ErrChanged},
		"other total":      {206, "Content-Range: bytes 4-7/11", "4567", ErrChanged},
		"no total":         {206, "Content-Range: bytes 4-7/*", "4567", ErrChanged},
		"too long":         {206, "Content-Range: bytes 4-8/10", "45678", ErrChanged},
		"too short":        {206, "Content-Range: bytes 4-6/10", "456", ErrChanged},
		"other length":     {206, "Content-Range: bytes 4-7/10", "45678", ErrChanged},
		"backwards":        {206, "Content-Range: bytes 7-4/10", "4567", ErrChanged},
		"beyond":           {206, "Content-Range: bytes 4-10/10", "4567890", ErrChanged},
		"signs":            {206, "Content-Range: bytes +4-7/10", "4567", ErrChanged},
		"many":             {206, "Content-Type: multipart/byteranges; boundary=x", "--x--", ErrChanged},
		"huge":             {206, "Content-Range: bytes 4-7/99999999999999999999999", "4567", ErrChanged},
		"unsatisfiable":    {416, "Content-Range: bytes */10", "", ErrChanged},
		"gone":             {404, "X: y", "", fs.ErrNotExist},
	} {
		sv := serve(t, func(w http.ResponseWriter, q *http.Request) {
			if q.Header.Get("Range") != "bytes=4-7" || q.Header.Get("If-Range") != `"a"` {
				t.Errorf("request %v", q.Header)
			}
			k, v, _ := strings.Cut(x.header, ": ")
			w.Header().Set(k, v)
			w.WriteHeader(x.status)
			io.WriteString(w, x.body)
		})
		b, err := c.OpenRange(t.Context(), sv, "x", r)
		if !errors.Is(err, x.want) || (err == nil) != (x.want == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			b.Close()
		}
	}
	ok := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes 4-7/10")
		w.Header().Set("ETag", `"b"`)
		w.WriteHeader(206)
	})
	if _, err := c.OpenRange(t.Context(), ok, "x", r); !errors.Is(err, ErrChanged) {
		t.Errorf("a range of another ETag: %v", err)
	}
	endless := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes 4-7/10")
		w.WriteHeader(206)
		http.NewResponseController(w).Flush()
		io.WriteString(w, strings.Repeat("x", 100))
	})
	b, err := c.OpenRange(t.Context(), endless, "x", r)
	must(t, err)
	defer b.Close()
	if got, err := io.ReadAll(b); err != nil || len(got) != 4 {
		t.Errorf("%d bytes of an answer without end, %v", len(got), err)
	}
}

func TestOpen(t *testing.T) {
	c := newClient(t, Options{})
	for tag, want := range map[string]string{`"a"`: `"a"`, `W/"a"`: "", "": "", "a": ""} {
		b, err := c.Open(t.Context(), serve(t, files(tag)), "x")
		must(t, err)
		got, err := io.ReadAll(b)
		if err != nil || string(got) != digits || b.Size != 10 || b.ETag != want || b.Close() != nil {
			t.Errorf("ETag %s: %q of %d, %s, %v", tag, got, b.Size, b.ETag, err)
		}
	}
	for status, absent := range map[int]bool{404: true, 410: true, 202: true, 206: false, 403: false, 500: false} {
		sv := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		if _, err := c.Open(t.Context(), sv, "x"); err == nil || errors.Is(err, fs.ErrNotExist) != absent {
			t.Errorf("%d: %v", status, err)
		}
	}
	if _, err := c.Open(t.Context(), server(t, "file://"+t.TempDir()), "."); err == nil {
		t.Error("a folder is a file")
	}
}

// TestOpenNar: what is known of a nar's size where HTTP does not say it.
func TestOpenNar(t *testing.T) {
	c := newClient(t, Options{})
	chunked := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		http.NewResponseController(w).Flush()
		io.WriteString(w, digits)
	})
	open := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(buf, "HTTP/1.1 200 OK\r\n\r\n%s and more", digits)
		buf.Flush()
	})
	of := &Build{Signed: narinfo.Signed{NarSize: 10, HasNarSize: true}}
	for _, x := range []struct {
		sv   *Server
		nar  narinfo.Nar
		of   *Build
		size int64
		read int
	}{
		{serve(t, files("")), narinfo.Nar{Compression: "zstd", FileSize: 3}, of, 10, 10},
		{chunked, narinfo.Nar{Compression: "none"}, of, 10, 10},
		{chunked, narinfo.Nar{Compression: "zstd", FileSize: 7}, of, 7, 10},
		{chunked, narinfo.Nar{Compression: "zstd"}, of, -1, 10},
		{chunked, narinfo.Nar{Compression: "zstd", FileSize: 1 << 40}, of, -1, 10},
		{chunked, narinfo.Nar{Compression: "none"}, &Build{}, -1, 10},
		{open, narinfo.Nar{Compression: "none"}, of, 10, 10},
		{open, narinfo.Nar{Compression: "none"}, &Build{}, -1, 19},
	} {
		x.nar.URL = "x"
		b, err := c.OpenNar(t.Context(), Offer{x.sv, x.nar}, x.of)
		must(t, err)
		got, err := io.ReadAll(b)
		if err != nil || b.Size != x.size || len(got) != x.read || b.Close() != nil {
			t.Errorf("%+v: %d bytes of %d, %v", x.nar, len(got), b.Size, err)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes 4-7/10", "bytes 4-7/*", "bytes */10", "bytes 01-7/10", "", "bytes 7-4/10", "lines 0-1/2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		start, total, length, err := parseContentRange(s)
		if err != nil {
			if !errors.Is(err, ErrChanged) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if start < 0 || length < 1 || length > total-start {
			t.Fatalf("%q is %d bytes from %d of %d", s, length, start, total)
		}
		again := fmt.Sprintf("bytes %d-%d/%d", start, start+length-1, total)
		if a, b, c, err := parseContentRange(again); err != nil || a != start || b != total || c != length {
			t.Fatalf("%q is printed as %q, which is not the same (%v)", s, again, err)
		}
	})
}
