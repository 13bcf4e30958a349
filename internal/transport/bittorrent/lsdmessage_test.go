package bittorrent

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

const (
	hexA = "37ba461f4ed47c25465f96f8dca87d511a8550dd"
	hexB = "8cfba4cf5e05d9b886a8fffed9b7470eb5c300e9"
)

func unhash(s string) hash {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return hash(b)
}

// localForms are messages that must be read.
var localForms = map[string]struct {
	text string
	want localMessage
}{
	"aria2": {"BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6999\r\nInfohash: " + hexA + "\r\n\r\n\r\n",
		localMessage{port: 6999, hashes: []hash{unhash(hexA)}}},
	"several, with a cookie": {"BT-SEARCH * HTTP/1.1\r\nHost: [ff15::efc0:988f]:6771\r\nPort: 1\r\nInfohash: " + strings.ToUpper(hexA) + "\r\nInfohash: " + hexB + "\r\ncookie: a b\r\n\r\n\r\n",
		localMessage{port: 1, hashes: []hash{unhash(hexA), unhash(hexB)}, cookie: "a b"}},
	"other spellings": {"BT-SEARCH * HTTP/1.1\r\nINFOHASH:" + hexA + " \r\nx:\r\nport:65535\r\n\r\nwhat follows",
		localMessage{port: 65535, hashes: []hash{unhash(hexA)}}},
	"hashes that are none": {"BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: " + hexA + "00\r\nInfohash: " + hexA[:38] + "\r\nInfohash: " + strings.Repeat("g", 40) + "\r\nInfohash: " + hexB + "\r\n\r\n",
		localMessage{port: 1, hashes: []hash{unhash(hexB)}}},
}

// hostileLocal are datagrams that must be refused.
var hostileLocal = map[string]string{
	"nothing":          "",
	"another request":  "M-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: " + hexA + "\r\n\r\n",
	"another version":  "BT-SEARCH * HTTP/2\r\nPort: 1\r\nInfohash: " + hexA + "\r\n\r\n",
	"no port":          "BT-SEARCH * HTTP/1.1\r\nInfohash: " + hexA + "\r\n\r\n",
	"port 0":           "BT-SEARCH * HTTP/1.1\r\nPort: 0\r\nInfohash: " + hexA + "\r\n\r\n",
	"port of 17 bits":  "BT-SEARCH * HTTP/1.1\r\nPort: 65536\r\nInfohash: " + hexA + "\r\n\r\n",
	"port with a sign": "BT-SEARCH * HTTP/1.1\r\nPort: +1\r\nInfohash: " + hexA + "\r\n\r\n",
	"two ports":        "BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nPort: 2\r\nInfohash: " + hexA + "\r\n\r\n",
	"no hash":          "BT-SEARCH * HTTP/1.1\r\nPort: 1\r\n\r\n",
	"no end":           "BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: " + hexA + "\r\n",
	"no colon":         "BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash " + hexA + "\r\n\r\n",
	"too long":         "BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: " + hexA + "\r\n\r\n" + strings.Repeat("x", maxLocal),
}

func TestParseLocal(t *testing.T) {
	for name, tt := range localForms {
		if m, err := parseLocal([]byte(tt.text)); err != nil || !reflect.DeepEqual(m, tt.want) {
			t.Errorf("%s: %+v, %v; want %+v", name, m, err, tt.want)
		}
	}
	for name, text := range hostileLocal {
		if m, err := parseLocal([]byte(text)); !errors.Is(err, errLocal) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

// TestLocalBytes wants the form that BEP 14 has, and the longest message to fit.
func TestLocalBytes(t *testing.T) {
	m := localMessage{port: 6881, hashes: []hash{unhash(hexA), unhash(hexB)}, cookie: "me"}
	want := "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\nInfohash: " + hexA + "\r\nInfohash: " + hexB + "\r\ncookie: me\r\n\r\n\r\n"
	if got := m.bytes(localGroups[0]); string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
	long := localMessage{port: 65535, hashes: make([]hash, maxLocalHashes), cookie: strings.Repeat("c", 16)}
	for _, g := range localGroups {
		if b := long.bytes(g); len(b) > maxLocal || !bytes.Contains(b, []byte("Host: "+g.String()+"\r\n")) {
			t.Errorf("%d bytes: %.60q", len(b), b)
		}
	}
}

// FuzzParseLocal: what is accepted, is written so that it is read as the same.
func FuzzParseLocal(f *testing.F) {
	for _, tt := range localForms {
		f.Add([]byte(tt.text))
	}
	for _, text := range hostileLocal {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseLocal(b)
		if err != nil {
			if !errors.Is(err, errLocal) {
				t.Fatal(err)
			}
			return
		}
		out := m.bytes(localGroups[0])
		if len(out) > maxLocal {
			return // Host is longer than what was there
		}
		if again, err := parseLocal(out); err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%v\n%+v\n%+v", err, m, again)
		}
	})
}
