package discover

import (
	"encoding/hex"
	"errors"
	"maps"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// sample has a record of each type, and a name with dots in a label.
func sample() message {
	instance := makeName("guix-publish-a.example.org", "_guix_publish", "_tcp", "local")
	host := makeName("a", "local")
	return message{
		response:  true,
		questions: []question{{typesName, typePTR}},
		answers: []record{
			{name: serviceName(Publish), kind: typePTR, ttl: 4500, target: instance},
			{name: instance, kind: typeSRV, flush: true, ttl: 120, port: 8080, target: host},
			{name: instance, kind: typeTXT, flush: true, ttl: 4500},
			{name: instance, kind: typeTXT, ttl: 4500, text: []string{"v=1", "flag"}},
			{name: host, kind: typeA, flush: true, ttl: 120, addr: netip.MustParseAddr("192.168.1.5")},
			{name: host, kind: typeAAAA, flush: true, ttl: 120, addr: netip.MustParseAddr("fe80::5")},
		},
		authority: []record{{name: instance, kind: typeSRV, ttl: 120, port: 1, target: host}},
	}
}

func TestRoundTrip(t *testing.T) {
	m := sample()
	got, err := parse(m.append(nil))
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%v\n%+v\n%+v", err, got, m)
	}
	if label, _ := got.answers[0].target.split(); label != "guix-publish-a.example.org" {
		t.Errorf("instance %q", label)
	}
}

// TestCompressed reads names that point back.
func TestCompressed(t *testing.T) {
	b := unhex(t, "000084000000000200000000"+
		"0d5f677569785f7075626c697368045f746370056c6f63616c00"+"000c000100001194"+"0004"+"0161c00c"+
		"c030"+"0021800100000078"+"000b"+"000000001f90"+"0268 31c01f")
	m, err := parse(b)
	if err != nil {
		t.Fatal(err)
	}
	want := []record{
		{name: serviceName(Publish), kind: typePTR, ttl: 4500, target: makeName("a", "_guix_publish", "_tcp", "local")},
		{name: makeName("a", "_guix_publish", "_tcp", "local"), kind: typeSRV, flush: true, ttl: 120, port: 8080, target: makeName("h1", "local")},
	}
	if !m.response || !reflect.DeepEqual(m.answers, want) {
		t.Errorf("%+v", m)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// hostile are messages that must be refused.
var hostile = map[string]string{
	"nothing":                  "",
	"half a header":            "000084000000",
	"no record":                "000084000000000100000000",
	"too many records":         "000084000000010100000000" + strings.Repeat("00", 300),
	"pointer to itself":        "000000000001000000000000" + "c00c" + "000c0001",
	"pointer ahead":            "000000000001000000000000" + "c010" + "000c0001" + "00",
	"two pointers in a ring":   "000000000001000000000000" + "0161c00c" + "000c0001",
	"half a pointer":           "000000000001000000000000" + "c0",
	"label of a reserved sort": "000000000001000000000000" + "4061" + "000c0001",
	"name of 300 bytes":        "000000000001000000000000" + strings.Repeat("09616161616161616161", 30) + "00" + "000c0001",
	"data beyond the end":      "000084000000000100000000" + "00" + "0001" + "0001" + "00000001" + "0004" + "0a",
	"address of 3 bytes":       "000084000000000100000000" + "00" + "0001" + "0001" + "00000001" + "0003" + "0a0000",
	"IPv6 address of 4 bytes":  "000084000000000100000000" + "00" + "001c" + "0001" + "00000001" + "0004" + "0a000000",
	"TXT beyond its length":    "000084000000000100000000" + "00" + "0010" + "0001" + "00000001" + "0002" + "0561",
	"SRV without a target":     "000084000000000100000000" + "00" + "0021" + "0001" + "00000001" + "0006" + "000000000001",
	"name beyond its length":   "000084000000000100000000" + "00" + "000c" + "0001" + "00000001" + "0002" + "0161" + "00",
	"bytes behind a name":      "000084000000000100000000" + "00" + "000c" + "0001" + "00000001" + "0002" + "0000",
}

func TestHostileMessages(t *testing.T) {
	for what, text := range hostile {
		if m, err := parse(unhex(t, text)); !errors.Is(err, errFormat) {
			t.Errorf("%s: %v, %+v", what, err, m)
		}
	}
	if _, err := parse(make([]byte, maxPacket+1)); !errors.Is(err, errFormat) {
		t.Errorf("a packet too long: %v", err)
	}
}

// TestLeftOut wants what is not understood to be left out, and no more.
func TestLeftOut(t *testing.T) {
	m, err := parse(unhex(t, "000084000000000300000000"+
		"00"+"002f"+"0001"+"00000001"+"0001"+"ff"+ // NSEC
		"00"+"0001"+"0003"+"00000001"+"0004"+"0a000001"+ // class CHAOS
		"00"+"0001"+"0001"+"00000001"+"0004"+"0a000001"))
	if err != nil || len(m.answers) != 1 || m.answers[0].addr != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("%v, %+v", err, m)
	}
	b := sample().append(nil)
	b[3] |= 3 // "no such name"
	if m, err := parse(b); err != nil || len(m.answers) > 0 {
		t.Errorf("an error: %v, %+v", err, m)
	}
}

func TestFold(t *testing.T) {
	if a, b := makeName("ABC.z", "Local"), makeName("abc.Z", "local"); a.fold() != b.fold() {
		t.Errorf("%q, %q", a.fold(), b.fold())
	}
	if a, b := makeName("a.b"), makeName("a", "b"); a.fold() == b.fold() {
		t.Error("a dot in a label separates")
	}
	if label, rest := name("\x00").split(); label != "" || rest != "" {
		t.Errorf("%q, %q", label, rest)
	}
}

// FuzzParse: what is accepted, is written so that it is read as the same.
func FuzzParse(f *testing.F) {
	f.Add(sample().append(nil))
	f.Add(message{questions: []question{{serviceName(Node), typePTR}}}.append(nil))
	for text := range maps.Values(hostile) {
		f.Add(unhex(f, text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse(b)
		if err != nil {
			if !errors.Is(err, errFormat) {
				t.Fatal(err)
			}
			return
		}
		out := m.append(nil)
		if len(out) > maxPacket {
			return // compressed names may be longer than a packet
		}
		again, err := parse(out)
		if m.questions == nil && m.answers == nil && m.authority == nil {
			m.response = again.response // may not have been understood
		}
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%v\n%+v\n%+v", err, m, again)
		}
	})
}
