package eriscbor_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"ersatz/eris"
	"ersatz/eriscbor"

	"github.com/fxamacker/cbor/v2"
)

// The link to the first vector, byte for byte. The beginning is what programs
// know link files by.
func TestLinkBytes(t *testing.T) {
	_, _, c, _ := first(t)
	l := eriscbor.Link{Cap: c, Size: 12, Type: "text/plain"}
	b, err := l.Bytes()
	want := "d9d9f784d901145842" + hex.EncodeToString(c.Bytes()) + "0c" + "6a" + hex.EncodeToString([]byte("text/plain")) + "a0"
	if got := hex.EncodeToString(b); err != nil || got != want {
		t.Errorf("link is\n%s, not\n%s, %v", got, want, err)
	}
	got, err := eriscbor.ParseLink(b)
	if err != nil || !reflect.DeepEqual(got, l) {
		t.Errorf("%+v, %v", got, err)
	}
	var parts []any // without the tag 55799, which says nothing
	if err := cbor.Unmarshal(b, &parts); err != nil || len(parts) != 4 || parts[1] != uint64(12) || parts[2] != "text/plain" {
		t.Errorf("another module reads %v, %v", parts, err)
	}
}

// TestLinkAttributes: attributes are kept byte for byte, whatever they are.
func TestLinkAttributes(t *testing.T) {
	_, _, c, _ := first(t)
	for _, theirs := range []any{
		map[string]any{"title": "Ersatz", "year": 2024, "tags": []any{"a", 1.5, nil, true}}, map[int]any{-1: map[string]string{}},
		map[string]any{"when": cbor.Tag{Number: 1, Content: 1700000000}, "bytes": []byte{1, 2}},
	} {
		attributes, err := cbor.Marshal(theirs)
		if err != nil {
			t.Fatal(err)
		}
		l := eriscbor.Link{Cap: c, Size: 1 << 40, Type: "video/webm", Attributes: attributes}
		b, err := l.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := eriscbor.ParseLink(b); err != nil || !reflect.DeepEqual(got, l) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	for name, bad := range map[string][]byte{"no map": {0x80}, "two": {0xa0, 0xa0}, "cut": {0xa1, 0x00}} {
		if _, err := (eriscbor.Link{Cap: c, Attributes: bad}).Bytes(); !errors.Is(err, eris.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLinkMalformed(t *testing.T) {
	_, _, c, _ := first(t)
	cp := "d901145842" + hex.EncodeToString(c.Bytes())
	start := "d9d9f784" + cp
	for name, bad := range map[string]struct{ text, want string }{
		"nothing":                 {"", "cut short"},
		"no tag":                  {"84" + cp + "0c60a0", "55799"},
		"five":                    {"d9d9f785" + cp + "0c60a0a0", "array of 4"},
		"no capability":           {"d9d9f784" + "0c0c60a0", "instead of a read capability"},
		"negative size":           {start + "2060a0", "instead of the size"},
		"type of bytes":           {start + "0c40a0", "instead of the media type"},
		"type in pieces":          {start + "0c7f60ffa0", "instead of the media type"},
		"huge type":               {start + "0c7b7fffffffffffffff", "text of"},
		"type that is no text":    {start + "0c61ffa0", "UTF-8"},
		"attributes as array":     {start + "0c6080", "instead of attributes"},
		"key without value":       {start + "0c60bf00ff", "a break out of place"},
		"nested":                  {start + "0c60a100" + strings.Repeat("81", 20) + "00", "nested too deep"},
		"tags on tags":            {start + "0c60a100" + strings.Repeat("c1", 20) + "00", "nested too deep"},
		"pieces of another kind":  {start + "0c60a100" + "5f6161ff", "within"},
		"pieces in pieces":        {start + "0c60a100" + "5f5fffff", "within"},
		"huge value":              {start + "0c60a100" + "5b7fffffffffffffff", "cut short"},
		"simple value, long form": {start + "0c60a100" + "f810", "simple value"},
		"something behind":        {start + "0c60a000", "something follows"},
		"too long":                {start + "0c60a000" + strings.Repeat("00", eriscbor.MaxLink), "more than"},
	} {
		_, err := eriscbor.ParseLink(unhex(t, bad.text))
		if !errors.Is(err, eris.ErrCorrupt) || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzLink(f *testing.F) {
	_, _, c, _ := first(f)
	start := "d9d9f784" + "d901145842" + hex.EncodeToString(c.Bytes())
	for _, seed := range []string{"0c60a0", "1b00000100000000006a746578742f706c61696ea0", "0c60a161619f01ff", "0c60bf00c1fb3ff8000000000000ff", "0c60a1005f4101ff", "0c60a000"} {
		f.Add(unhex(f, start+seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := eriscbor.ParseLink(b)
		if err != nil {
			if !errors.Is(err, eris.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if err := cbor.Wellformed(b); err != nil {
			t.Fatalf("what is not well-formed is read: %v", err)
		}
		printed, err := l.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		again, err := eriscbor.ParseLink(printed)
		if err != nil || !bytes.Equal(again.Cap.Bytes(), l.Cap.Bytes()) || again.Size != l.Size || again.Type != l.Type || !bytes.Equal(again.Attributes, l.Attributes) {
			t.Fatalf("printed and read again: %+v, not %+v, %v", again, l, err)
		}
	})
}
