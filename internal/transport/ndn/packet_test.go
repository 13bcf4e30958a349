package ndn

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	enc "github.com/named-data/ndnd/std/encoding"
	ndnlib "github.com/named-data/ndnd/std/ndn"
	"github.com/named-data/ndnd/std/ndn/mgmt_2022"
	spec "github.com/named-data/ndnd/std/ndn/spec_2022"
	"github.com/named-data/ndnd/std/security/signer"
	"github.com/named-data/ndnd/std/types/optional"

	"ersatz/eris"
)

var here = place{eris.Ref{1, 2, 3, 31: 9}, 3}

func testSpace(t testing.TB, prefix string) namespace {
	t.Helper()
	ns, err := parsePrefix(prefix)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// library returns the name of a segment as ndnd has it.
func library(p place) enc.Name {
	return enc.Name{enc.NewGenericComponent("eris"), enc.NewKeywordComponent("eris1"),
		enc.NewGenericBytesComponent(p.ref[:]), enc.NewSegmentComponent(uint64(p.seg))}
}

// TestLibraryReads has ndnd's library read what is made here.
func TestLibraryReads(t *testing.T) {
	ns := testSpace(t, DefaultPrefix)
	name := ns.appendName(nil, here)
	for _, lifetime := range []time.Duration{defaultLifetime, 300 * time.Millisecond} {
		b := appendInterest(nil, name, 77, lifetime)
		i, _, err := spec.Spec{}.ReadInterest(enc.NewBufferView(b))
		if err != nil {
			t.Fatal(err)
		}
		if !i.Name().Equal(library(here)) || !i.MustBeFresh() || i.CanBePrefix() || i.Nonce().GetOr(0) != 77 ||
			i.Lifetime().GetOr(4*time.Second) != lifetime {
			t.Errorf("Interest: %s, %v, %v", i.Name(), i.Nonce(), i.Lifetime())
		}
	}
	segment := bytes.Repeat([]byte("segment!"), segmentSize/8)
	d, covered, err := spec.Spec{}.ReadData(enc.NewBufferView(appendBlock(nil, name, nil, segment, 4)))
	if err != nil {
		t.Fatal(err)
	}
	final, _ := d.FinalBlockID().Get()
	if !d.Name().Equal(library(here)) || d.ContentType().IsSet() || d.Freshness().GetOr(0) != freshness ||
		!final.Equal(enc.NewSegmentComponent(3)) || !bytes.Equal(d.Content().Join(), segment) || !signer.ValidateSha256(covered, d.Signature()) {
		t.Errorf("Data: %s, %v, %v, %v, %d bytes", d.Name(), d.ContentType(), d.Freshness(), final, len(d.Content().Join()))
	}
	token := []byte{1, 2, 3, 4, 5, 6}
	p, _, err := spec.ReadPacket(enc.NewBufferView(appendAbsent(nil, name, token)))
	if err != nil || p.LpPacket == nil || !bytes.Equal(p.LpPacket.PitToken, token) {
		t.Fatalf("frame: %v", err)
	}
	d, covered, err = spec.Spec{}.ReadData(enc.NewWireView(p.LpPacket.Fragment))
	if err != nil || d.ContentType().GetOr(0) != ndnlib.ContentTypeNack || d.Freshness().IsSet() || d.Content().Length() != 0 ||
		!signer.ValidateSha256(covered, d.Signature()) {
		t.Errorf("no such block: %v, %v", d, err)
	}
	now := time.UnixMilli(1_234_567_890_123)
	command, full := appendRegister(nil, true, ns, nonceOf(5), now)
	i, covered, err := spec.Spec{}.ReadInterest(enc.NewBufferView(command))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(i.Name().BytesInner(), full) || !signer.ValidateSha256(covered, i.Signature()) || !i.Signature().SigTime().Equal(now) {
		t.Errorf("command: %s, %v", i.Name(), i.Signature().SigTime())
	}
	c, err := mgmt_2022.ParseControlParameters(enc.NewBufferView(i.Name()[4].Val), false)
	if err != nil || !strings.HasPrefix(i.Name().String(), "/localhost/nfd/rib/register/") || !c.Val.Name.Equal(library(here)[:2]) {
		t.Errorf("command: %s, %v", i.Name(), err)
	}
	if remote, _ := appendRegister(nil, false, ns, nonceOf(5), now); !bytes.Contains(remote, []byte("localhop")) {
		t.Error("command to another machine is not for localhop")
	}
}

// libraryFrame makes a frame of NDNLPv2.
func libraryFrame(t testing.TB, lp *spec.LpPacket) []byte {
	t.Helper()
	e := spec.PacketEncoder{}
	p := &spec.Packet{LpPacket: lp}
	e.Init(p)
	return e.Encode(p).Join()
}

// TestReadsLibrary reads what ndnd's library makes.
func TestReadsLibrary(t *testing.T) {
	name := library(here)
	i, err := spec.Spec{}.MakeInterest(name, &ndnlib.InterestConfig{
		MustBeFresh: true, CanBePrefix: true, Nonce: optional.Some(uint32(7)), Lifetime: optional.Some(time.Second),
		HopLimit: new(byte(9)), ForwardingHint: []enc.Name{name},
	}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := spec.Spec{}.MakeData(name, &ndnlib.DataConfig{
		ContentType: optional.Some(ndnlib.ContentTypeNack), Freshness: optional.Some(time.Second), FinalBlockID: optional.Some(name[3]),
	}, enc.Wire{[]byte("content")}, signer.NewSha256Signer())
	if err != nil {
		t.Fatal(err)
	}
	token := []byte("token")
	for what, c := range map[string]struct {
		packet []byte
		want   packet
	}{
		"Interest":          {i.Wire.Join(), packet{lifetime: time.Second}},
		"Data":              {d.Wire.Join(), packet{data: true, contentType: 3, content: []byte("content")}},
		"Interest in frame": {libraryFrame(t, &spec.LpPacket{PitToken: token, IncomingFaceId: optional.Some(uint64(300)), Fragment: i.Wire}), packet{token: token, lifetime: time.Second}},
		"Nack": {
			libraryFrame(t, &spec.LpPacket{Nack: &spec.NetworkNack{Reason: spec.NackReasonNoRoute}, Fragment: i.Wire}),
			packet{nacked: true, reason: 150, lifetime: time.Second},
		},
		"marked": {
			libraryFrame(t, &spec.LpPacket{CongestionMark: optional.Some(uint64(1)), Sequence: optional.Some(uint64(1)), Fragment: d.Wire}),
			packet{data: true, marked: true, contentType: 3, content: []byte("content")},
		},
		"nothing in frame": {libraryFrame(t, &spec.LpPacket{}), packet{}},
	} {
		p, err := parsePacket(c.packet)
		if what != "nothing in frame" {
			c.want.name = name.BytesInner()
		}
		if err != nil || !same(p, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", what, p, err, c.want)
		}
	}
}

// same compares all that packets say.
func same(p, q packet) bool {
	return p.data == q.data && bytes.Equal(p.name, q.name) && bytes.Equal(p.token, q.token) && p.nacked == q.nacked && p.reason == q.reason &&
		p.marked == q.marked && p.lifetime == q.lifetime && p.contentType == q.contentType && bytes.Equal(p.content, q.content)
}

// malformed are packets, in hex, and what is wrong with them.
var malformed = map[string]string{
	"":                          "ends within an element",
	"05":                        "ends within an element",
	"0500":                      "begins without a name",
	"05020700":                  "empty name",
	"0503070108":                "ends within an element",
	"0504070208ff":              "ends within an element",
	"05050703080161ff":          "1 bytes follow",
	"fd000500":                  "number 5 in 3 bytes",
	"05fd000507030801610a":      "number 5 in 3 bytes",
	"05fff030303030303030":      "ends within an element",
	"05070703080161 3100":       "element of type 49",
	"05070703080161 12000000":   "2 bytes follow",
	"0509070308016112001200":    "element of type 18",
	"05090703080161 0a020001":   "nonce of 2 bytes",
	"05080703080161 0c01":       "ends within an element",
	"050a0703080161 0c03010203": "number of 3 bytes",
	"06050703080161":            "without a signature",
	"0606070308016115":          "ends within an element",
	"0700":                      "packet of type 7",
	"6402 5000":                 "ends within an element",
	"6404 5000 5000":            "frame goes on",
	"6405 530102 5000":          "packet in parts",
	"6404 6200 5000":            "PIT token of 0 bytes",
	"6402 5100 00":              "1 bytes follow",
	"6404 fd039b00":             "header field of type 923",
	"640f fd032000 50 09 06070703080161 1500": "packet of type 6",
	"000100":               "type 0",
	"ff000000010000000000": "type 4294967296",
}

func TestMalformed(t *testing.T) {
	for text, want := range malformed {
		b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parsePacket(b); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestIgnored passes over what need not be known.
func TestIgnored(t *testing.T) {
	for _, text := range []string{
		"050b 0703080161 1200 f000 f600", // Interest, two elements at the end
		"64 10 fd0398 00 50 0a 0508 0703080161 f601ff",
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if p, err := parsePacket(b); err != nil || string(p.name) != "\x08\x01a" {
			t.Errorf("%s: %q, %v", text, p.name, err)
		}
	}
}

// FuzzPacket: what is read says the same when it is written.
func FuzzPacket(f *testing.F) {
	ns := testSpace(f, DefaultPrefix)
	name := ns.appendName(nil, here)
	f.Add(appendInterest(nil, name, 1, defaultLifetime))
	f.Add(appendInterest(nil, name, 1<<31, time.Second))
	f.Add(appendBlock(nil, name, nil, []byte("segment"), 4))
	f.Add(appendAbsent(nil, name, []byte("token")))
	f.Add(libraryFrame(f, &spec.LpPacket{Nack: &spec.NetworkNack{Reason: 150}, Fragment: enc.Wire{appendInterest(nil, name, 1, time.Second)}}))
	for text := range malformed {
		b, _ := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePacket(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) || !same(p, packet{}) {
				t.Errorf("%+v, %v", p, err)
			}
			return
		}
		if p.name == nil {
			return
		}
		var again []byte
		if p.data {
			again = appendData(nil, p.name, p.token, appendUint(nil, typeContentType, p.contentType), p.content)
		} else {
			again = appendInterest(nil, p.name, 1, p.lifetime)
		}
		q, err := parsePacket(again)
		if p.marked = false; !p.data {
			p.token, p.nacked, p.reason = nil, false, 0
		}
		if err != nil || !same(p, q) {
			t.Errorf("%+v, again: %+v, %v", p, q, err)
		}
	})
}

// TestSpace: names are read as they are written, and no others.
func TestSpace(t *testing.T) {
	for _, prefix := range []string{"/eris", "/eris/", "/example/a%20b/%C3%A9", "/" + strings.Repeat("x", 252)} {
		ns := testSpace(t, prefix)
		name := ns.appendName(nil, here)
		if p, ok := ns.parse(name); !ok || p != here {
			t.Errorf("%s: %v, %v", prefix, p, ok)
		}
		for i := range name {
			other := slices.Clone(name)
			other[i] ^= 0x40
			if p, ok := ns.parse(other); ok && p == here {
				t.Errorf("%s: byte %d does not matter", prefix, i)
			}
			if _, ok := ns.parse(name[:i]); ok {
				t.Errorf("%s: %d bytes will do", prefix, i)
			}
		}
		if _, ok := ns.parse(append(name, 0)); ok {
			t.Errorf("%s: one byte more will do", prefix)
		}
		block := appendBlock(nil, name, make([]byte, 32), make([]byte, segmentSize), 4)
		if most := 8774; len(block) > most { // what ndnd sends in one frame
			t.Errorf("%s: a segment is %d bytes", prefix, len(block))
		}
	}
	for _, prefix := range []string{"", "eris", "/", "//", "/a//b", "/..", "/a/.", "/32=x", "/a?b", "/%zz", "/" + strings.Repeat("x", 253)} {
		if ns, err := parsePrefix(prefix); err == nil {
			t.Errorf("%q is %x", prefix, ns)
		}
	}
}

// FuzzPrefix: a prefix that is taken makes names that are.
func FuzzPrefix(f *testing.F) {
	for _, s := range []string{"/eris", "/a/b/", "/%00%ff", "/a=b", "/...", "//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ns, err := parsePrefix(s)
		if err != nil {
			return
		}
		name := ns.appendName(nil, here)
		if err := checkName(name); err != nil {
			t.Errorf("%q: %v", s, err)
		}
		if p, ok := ns.parse(name); !ok || p != here {
			t.Errorf("%q: %v, %v", s, p, ok)
		}
	})
}

// pipe is a connection from which bytes come.
type pipe struct {
	net.Conn
	io.Reader
}

func (p pipe) Read(b []byte) (int, error) { return p.Reader.Read(b) }

// TestRead reads packets that come in pieces, with some that are malformed in
// between, until something is none.
func TestRead(t *testing.T) {
	name := testSpace(t, DefaultPrefix).appendName(nil, here)
	var stream []byte
	const n = 50
	for i := range n {
		stream = append(stream, 0x05, 0)
		stream = appendBlock(stream, name, nil, bytes.Repeat([]byte{byte(i)}, segmentSize), 4)
	}
	for what, c := range map[string]struct {
		stream []byte
		want   error
	}{
		"whole":    {stream, io.EOF},
		"cut":      {append(stream[:len(stream):len(stream)], 5), io.ErrUnexpectedEOF},
		"too long": {append(stream[:len(stream):len(stream)], 5, 0xfd, 0x30, 0), ErrMalformed},
		"no TLV":   {append(stream[:len(stream):len(stream)], 0xfd, 0, 1, 0), ErrMalformed},
	} {
		for how, r := range map[string]io.Reader{
			"at once": bytes.NewReader(c.stream), "in bytes": iotest.OneByteReader(bytes.NewReader(c.stream)),
			"in halves": iotest.HalfReader(bytes.NewReader(c.stream)), "with the end": iotest.DataErrReader(bytes.NewReader(c.stream)),
		} {
			i := 0
			f := face{conn: pipe{nil, r}}
			err := f.read(func(p packet) {
				if !p.data || len(p.content) != segmentSize || p.content[0] != byte(i) {
					t.Errorf("%s, %s: packet %d: %d bytes", what, how, i, len(p.content))
				}
				i++
			})
			if i != n || !errors.Is(err, c.want) {
				t.Errorf("%s, %s: %d packets, %v", what, how, i, err)
			}
		}
	}
}

// FuzzRead: it does not matter in which pieces bytes come.
func FuzzRead(f *testing.F) {
	name := testSpace(f, DefaultPrefix).appendName(nil, here)
	two := appendInterest(appendBlock(nil, name, []byte("token"), []byte("segment"), 1), name, 1, time.Second)
	f.Add(two)
	f.Add(two[:len(two)-1])
	f.Add(append([]byte{5, 0}, two...))
	f.Add([]byte{5, 0xfd, 0xff, 0xff, 1})
	f.Add([]byte{0xff, 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		count := func(r io.Reader) (n, size int, malformed bool) {
			f := face{conn: pipe{nil, r}}
			err := f.read(func(p packet) { n++; size += len(p.name) + len(p.content) })
			return n, size, errors.Is(err, ErrMalformed)
		}
		n, size, bad := count(bytes.NewReader(b))
		if m, other, worse := count(iotest.OneByteReader(bytes.NewReader(b))); m != n || other != size || worse != bad {
			t.Errorf("%d packets, %d bytes, %v; in bytes: %d, %d, %v", n, size, bad, m, other, worse)
		}
	})
}

func response(status uint64, text string) []byte {
	return appendElement(nil, typeResponse, appendElement(appendUint(nil, typeStatusCode, status), typeStatusText, []byte(text)))
}

func TestResponse(t *testing.T) {
	if err := parseResponse(response(200, "OK")); err != nil {
		t.Error(err)
	}
	var refused *RefusedError
	if err := parseResponse(response(403, "no")); !errors.As(err, &refused) || refused.Status != 403 || refused.Text != "no" {
		t.Errorf("refused: %v", err)
	}
	if err := parseResponse(appendElement(nil, typeResponse, nil)); !errors.As(err, &refused) {
		t.Errorf("without a status: %v", err)
	}
	for _, b := range [][]byte{nil, {101}, {102, 0}, {101, 0, 0}, {101, 3, 102, 1}, {101, 5, 102, 3, 0, 0, 200}} {
		if err := parseResponse(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

// FuzzResponse: an answer is one of three.
func FuzzResponse(f *testing.F) {
	f.Add(response(200, "OK"))
	f.Add(response(403, "authorization rejected"))
	f.Add([]byte{101, 0})
	f.Add([]byte{101, 200})
	f.Fuzz(func(t *testing.T, b []byte) {
		err := parseResponse(b)
		var refused *RefusedError
		if err != nil && !errors.Is(err, ErrMalformed) && (!errors.As(err, &refused) || refused.Status == 200) {
			t.Error(err)
		}
	})
}
