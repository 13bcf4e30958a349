package peer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"ersatz/eris"
)

const format = "application/x-nix-archive+zstd-19"

func hashOf(i int) [32]byte { return sha256.Sum256(fmt.Append(nil, i)) }

func capOf(t testing.TB, n int) eris.ReadCap {
	t.Helper()
	c, _, err := eris.Encode(bytes.NewReader(bytes.Repeat([]byte{byte(n)}, n)), eris.Size1KiB, eris.Secret{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// node serves what the map has.
func node(t *testing.T, has map[[32]byte]*Held) *Client {
	t.Helper()
	s := httptest.NewServer(Handler(func(_ context.Context, h [32]byte) *Held { return has[h] }))
	t.Cleanup(s.Close)
	return client(t, s.URL)
}

func client(t *testing.T, url string) *Client {
	t.Helper()
	c, err := New(url, http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHave(t *testing.T) {
	has := map[[32]byte]*Held{
		hashOf(1): {ReadCap: capOf(t, 100), Format: format},
		hashOf(2): {ReadCap: capOf(t, 5000), Format: "application/x-nix-archive", Part: true, Leaves: []byte{0b10100000}},
		hashOf(3): {ReadCap: capOf(t, 6000), Format: format, Part: true},
	}
	got, err := node(t, has).Have(t.Context(), [][32]byte{hashOf(3), hashOf(0), hashOf(1), hashOf(2)})
	if err != nil {
		t.Fatal(err)
	}
	want := []*Held{has[hashOf(3)], nil, has[hashOf(1)], has[hashOf(2)]}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("have %v, want %v", got, want)
	}
	for leaf, has := range map[int64]bool{-1: false, 0: true, 1: false, 2: true, 8: false, 1 << 40: false} {
		if got[3].Has(leaf) != has {
			t.Errorf("leaf %d: %v", leaf, !has)
		}
	}
	if !got[0].Has(77) || !got[2].Has(77) {
		t.Error("a part of which nothing was said, or a whole content, lacks a leaf")
	}
}

// TestClosure asks for more nars than one request has.
func TestClosure(t *testing.T) {
	has := map[[32]byte]*Held{}
	hashes := make([][32]byte, 2*MaxHashes+7)
	for i := range hashes {
		hashes[i] = hashOf(i)
		if i%3 == 0 {
			has[hashes[i]] = &Held{ReadCap: capOf(t, 1+i%50), Format: format}
		}
	}
	got, err := node(t, has).Have(t.Context(), hashes)
	if err != nil || len(got) != len(hashes) {
		t.Fatalf("%d answers, %v", len(got), err)
	}
	for i, h := range hashes {
		if !reflect.DeepEqual(got[i], has[h]) {
			t.Fatalf("answer %d is %v, want %v", i, got[i], has[h])
		}
	}
}

// TestManyBitmaps wants an answer to have an end: parts beyond it go without a
// bitmap.
func TestManyBitmaps(t *testing.T) {
	h := &Held{ReadCap: capOf(t, 9), Format: format, Part: true, Leaves: make([]byte, maxBitmap)}
	hashes := [][32]byte{hashOf(1), hashOf(2), hashOf(3), hashOf(4)}
	got, err := node(t, map[[32]byte]*Held{hashes[0]: h, hashes[1]: h, hashes[2]: h, hashes[3]: h}).Have(t.Context(), hashes)
	if err != nil {
		t.Fatal(err)
	}
	if len(got[0].Leaves) != maxBitmap || got[3].Leaves != nil || !got[3].Part {
		t.Fatalf("bitmaps of %d and %d bytes", len(got[0].Leaves), len(got[3].Leaves))
	}
}

func TestRefusals(t *testing.T) {
	s := httptest.NewServer(Handler(func(context.Context, [32]byte) *Held { return nil }))
	defer s.Close()
	long := strings.Repeat(printHashes([][32]byte{hashOf(1)}), MaxHashes+1)
	for _, c := range []struct {
		name, method, body string
		status             int
	}{
		{"nothing", http.MethodPost, "", http.StatusBadRequest},
		{"no hash", http.MethodPost, "sha256:zz\n", http.StatusBadRequest},
		{"too many", http.MethodPost, long, http.StatusBadRequest},
		{"too long", http.MethodPost, strings.Repeat("x", MaxHashes*72+1), http.StatusRequestEntityTooLarge},
		{"method", http.MethodGet, "", http.StatusMethodNotAllowed},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, s.URL+HavePath, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: %s, want %d", c.name, resp.Status, c.status)
		}
	}
}

func TestHostileAnswers(t *testing.T) {
	urn := capOf(t, 10).URN()
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   error
	}{
		{"no node", http.StatusNotFound, "", ErrNoPeer},
		{"does not share", http.StatusForbidden, "", ErrNoPeer},
		{"short", http.StatusOK, "-\n", ErrMalformed},
		{"long", http.StatusOK, "-\n-\n-\n", ErrMalformed},
		{"endless line", http.StatusOK, strings.Repeat("a", 2*maxBitmaps), ErrMalformed},
		{"state", http.StatusOK, "-\nall " + urn + " " + format + "\n", ErrMalformed},
		{"URN", http.StatusOK, "-\nwhole urn:eris:AAAA " + format + "\n", ErrMalformed},
		{"format", http.StatusOK, "-\nwhole " + urn + " text/html\n", ErrMalformed},
		{"bitmap of the whole", http.StatusOK, "-\nwhole " + urn + " " + format + " AA==\n", ErrMalformed},
		{"bitmap", http.StatusOK, "-\npart " + urn + " " + format + " A\n", ErrMalformed},
		{"empty bitmap", http.StatusOK, "-\npart " + urn + " " + format + " \n", ErrMalformed},
		{"page", http.StatusOK, "<html>\n<body>\n", ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(c.status)
				w.Write([]byte(c.body))
			}))
			defer s.Close()
			got, err := client(t, s.URL).Have(t.Context(), [][32]byte{hashOf(1), hashOf(2)})
			if !errors.Is(err, c.want) || got != nil {
				t.Fatalf("%v, error %v; want %v", got, err, c.want)
			}
		})
	}
	for _, base := range []string{"file:///tmp", "http://", "http://h/?q", "::"} {
		if _, err := New(base, http.DefaultClient); err == nil {
			t.Errorf("%q is taken for the URL of a peer", base)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	urn := capOf(f, 10).URN()
	for _, s := range []string{"-", "whole " + urn + " " + format, "part " + urn + " " + format, "part " + urn + " " + format + " gA==", "part", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		h, err := parseHeld(line)
		if err == nil && h.line(maxBitmaps) != line {
			t.Fatalf("%q is printed as %q", line, h.line(maxBitmaps))
		}
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatalf("error of another kind: %v", err)
		}
	})
}

func FuzzQuestion(f *testing.F) {
	for _, s := range []string{"", printHashes([][32]byte{hashOf(1)}), printHashes([][32]byte{hashOf(1), hashOf(2)}), "sha256:\n", "\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		hashes, err := parseHashes(text)
		if err != nil {
			return
		}
		again, err := parseHashes(printHashes(hashes))
		if err != nil || !reflect.DeepEqual(hashes, again) {
			t.Fatalf("%q is read as %x and then as %x (%v)", text, hashes, again, err)
		}
	})
}
