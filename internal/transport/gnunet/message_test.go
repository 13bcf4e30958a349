package gnunet

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"ersatz/eris"
)

// ones is a reference, and its key as `printf %s REFERENCE | sha512sum` has it.
var ones = eris.Ref(bytes.Repeat([]byte{0x11}, 32))

const keyOfOnes = "b3443d2ec360a6bc975d6b36d62cbe8a25898e5299389904445e177a4c203a8debfdf7daf875c3bfb72b9e0cfd95b6083a5f4a6802957854988d6a57d81051d4"

func TestKey(t *testing.T) {
	if k := keyOf(ones); hex.EncodeToString(k[:]) != keyOfOnes {
		t.Errorf("%s has key %x", ones, k)
	}
}

// TestRequests compares messages with what GNUnet's structs make of them.
func TestRequests(t *testing.T) {
	k := key(bytes.Repeat([]byte{0xaa}, 64))
	keyText := strings.Repeat("aa", 64)
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"put": {
			appendPut(nil, k, 5, time.UnixMicro(0x0102030405060708), []byte{0xbb, 0xcc}),
			"005a008e" + "00000008" + "00000001" + "00000005" + "0102030405060708" + keyText + "bbcc",
		},
		"get":   {appendGet(nil, k, 16, 0xfffefdfcfbfaf9f8), "0058008f" + "00000001" + "00000010" + "00000008" + keyText + "fffefdfcfbfaf9f8"},
		"stop":  {appendStop(nil, k, 0xfffefdfcfbfaf9f8), "00500090" + "00000000" + "fffefdfcfbfaf9f8" + keyText},
		"hello": {appendHello(nil), "000400a1"},
		"after": {appendHello([]byte{1}), "01000400a1"},
	} {
		if hex.EncodeToString(c.got) != c.want {
			t.Errorf("%s:\n%x\n%s", name, c.got, c.want)
		}
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// results are messages of the service, all with the data "dd".
var results = map[string]string{
	"plain":     "0069" + "0091" + "00000008" + "00000000" + "00000001" + "00000000" + "00000000" + resultRest + "dd",
	"truncated": "0089" + "0091" + "00000008" + "00000000" + "00000009" + "00000000" + "00000000" + resultRest + strings.Repeat("01", 32) + "dd",
	"paths":     "0189" + "0091" + "00000008" + "00000000" + "00000003" + "00000001" + "00000002" + resultRest + strings.Repeat("02", 3*96) + "dd",
}

var resultRest = "0102030405060708" + "1112131415161718" + strings.Repeat("aa", 64)

func TestResult(t *testing.T) {
	for name, text := range results {
		kind, body, err := readMessage(bufio.NewReader(iotest.OneByteReader(bytes.NewReader(unhex(t, text)))), make([]byte, maxMessage))
		if err != nil || kind != typeResult {
			t.Errorf("%s: type %d, %v", name, kind, err)
			continue
		}
		r, err := parseResult(body)
		if err != nil || r.kind != 8 || r.id != 0x0102030405060708 || r.key != key(bytes.Repeat([]byte{0xaa}, 64)) || !bytes.Equal(r.data, []byte{0xdd}) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// TestBadMessages wants each broken message told from a line that was cut.
func TestBadMessages(t *testing.T) {
	huge := strings.Replace(results["plain"], "00000000"+"00000000"+resultRest, "ffffffff"+"ffffffff"+resultRest, 1)
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"nothing":         {"", io.EOF},
		"half a header":   {"0004", io.ErrUnexpectedEOF},
		"half a body":     {"00080091ffff", io.ErrUnexpectedEOF},
		"no body":         {"00080091", io.ErrUnexpectedEOF},
		"length 3":        {"00030091", errMessage},
		"short result":    {"00080091ffffffff", errMessage},
		"path too long":   {strings.Replace(results["plain"], "00000001"+"00000000", "00000001"+"00000001", 1), errMessage},
		"peer, no room":   {strings.Replace(results["plain"], "00000001"+"00000000", "00000009"+"00000000", 1), errMessage},
		"lengths wrapped": {huge, errMessage},
	} {
		_, body, err := readMessage(bufio.NewReader(bytes.NewReader(unhex(t, c.text))), make([]byte, maxMessage))
		if err == nil {
			_, err = parseResult(body)
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// FuzzMessages reads messages until the end: whatever a service sends, what is
// taken of a result lies within it, and says the same when it is sent again
// without its path.
func FuzzMessages(f *testing.F) {
	var all []byte
	for _, text := range results {
		b := unhex(f, text)
		f.Add(b)
		all = append(all, b...)
	}
	f.Add(all)
	f.Add(append(unhex(f, "0008009f"), "abc\x00"...))
	f.Add(unhex(f, "ffff0091"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, buf := bufio.NewReader(bytes.NewReader(b)), make([]byte, maxMessage)
		read := 0
		for {
			kind, body, err := readMessage(r, buf)
			if err != nil {
				break
			}
			if read += headerLen + len(body); read > len(b) {
				t.Fatalf("%d bytes read of %d", read, len(b))
			}
			if kind != typeResult {
				continue
			}
			got, err := parseResult(body)
			if err != nil {
				continue
			}
			if len(got.data) > len(body)-(resultLen-headerLen) {
				t.Fatalf("%d bytes of data in %d", len(got.data), len(body))
			}
			plain := append([]byte(nil), body[:resultLen-headerLen]...)
			clear(plain[12-headerLen : 24-headerLen]) // options and lengths of paths
			again, err := parseResult(append(plain, got.data...))
			if err != nil || again.id != got.id || again.key != got.key || again.kind != got.kind || !bytes.Equal(again.data, got.data) {
				t.Fatalf("%+v, then %+v, %v", got, again, err)
			}
		}
	})
}
