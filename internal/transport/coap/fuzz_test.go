package coap

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/plgd-dev/go-coap/v3/message"
	"github.com/plgd-dev/go-coap/v3/message/codes"

	"ersatz/eris"
	"ersatz/internal/block/memstore"
)

// count fails a fuzz target that has lost its seeds.
func count(f *testing.F, n, want int) {
	if n != want {
		f.Fatalf("%d seeds, want %d", n, want)
	}
}

// FuzzStore: printing what is accepted, and reading that, gives the same.
func FuzzStore(f *testing.F) {
	seeds := []string{
		"", "coap://h", "coap+tcp://example.org:5683?get&put", "coaps://[::1]:1/a/b?put", "coap://h/%2f", "coap://h/a//b",
		"coap://h/../x", "coap://h?get&get", "coap://u@h", "coap://h#f", "http://h", "coap://h:0", "coap://h/%zz", "coap://h/" + strings.Repeat("x", 256),
		"coap://h/" + strings.Repeat("a/", 20), "coap+tcp://[fe80::1%25eth0]/cap%20ability?put&get", "coap:h", "coap://h:05683", "CoAp://::",
	}
	for _, s := range seeds {
		f.Add(s)
	}
	count(f, len(seeds), 19)
	f.Fuzz(func(t *testing.T, s string) {
		st, err := ParseStore(s)
		if err != nil {
			return
		}
		if !st.Get && !st.Put {
			t.Fatalf("%q grants nothing", s)
		}
		again, err := ParseStore(st.String())
		if err != nil || again != st {
			t.Fatalf("%q is %+v, printed %q, which is %+v, %v", s, st, st.String(), again, err)
		}
		for _, o := range st.options() {
			if len(o.Value) == 0 || len(o.Value) > 255 {
				t.Fatalf("%q: option %v of %d bytes", s, o.ID, len(o.Value))
			}
		}
	})
}

// FuzzQuery: a reference has two spellings, its bytes and one of text.
func FuzzQuery(f *testing.F) {
	ref := eris.Ref{1, 2, 3}
	seeds := [][]byte{nil, ref[:], ref[:31], append(ref[:], 0), []byte(ref.String()), []byte(strings.ToLower(ref.String())), []byte(ref.String() + "A")}
	for _, s := range seeds {
		f.Add(s)
	}
	count(f, len(seeds), 7)
	f.Fuzz(func(t *testing.T, b []byte) {
		ref, ok := parseQuery(b)
		if ok && !bytes.Equal(b, ref[:]) && string(b) != ref.String() {
			t.Fatalf("%q is read as %s", b, ref)
		}
	})
}

// frames are messages, good and bad ones, as on a TCP connection.
func frames(f *testing.F) [][]byte {
	seeds := [][]byte{nil, {0}, {0, 0}, {0x0f, 1}, {0xf0, 0, 0, 0, 1, 1}, {0xd0}, {0xe0, 0xff, 0xff, 1}, {0x11, 1, 7, 0xff}, {0x10, 1, 0xf0}}
	for _, m := range []message.Message{
		csm(),
		{Code: codes.GET, Token: newToken(1), Options: Store{Path: "/a/b"}.options()},
		{Code: codes.PUT, Payload: make([]byte, 1024), Options: message.Options{part{num: 3, more: true, szx: 6}.option(message.Block1)}},
		{Code: codes.Content, Token: newToken(1 << 60), Payload: make([]byte, 32<<10)},
	} {
		b, err := appendFrame(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, b)
	}
	return seeds
}

// same reports whether two messages say the same.
func same(a, b message.Message) bool {
	if len(a.Options) != len(b.Options) {
		return false
	}
	for i := range a.Options {
		if a.Options[i].ID != b.Options[i].ID || !bytes.Equal(a.Options[i].Value, b.Options[i].Value) {
			return false
		}
	}
	return a.Code == b.Code && bytes.Equal(a.Token, b.Token) && bytes.Equal(a.Payload, b.Payload)
}

// FuzzFrame: a message that is accepted is no longer than it may be, and what is
// printed of it says the same.
func FuzzFrame(f *testing.F) {
	seeds := frames(f)
	for _, s := range seeds {
		f.Add(s)
	}
	count(f, len(seeds), 13)
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := readFrame(bufio.NewReader(bytes.NewReader(b)), make([]byte, 100))
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errMessage) {
				t.Fatal(err)
			}
			return
		}
		if len(frame) > maxMessage || !bytes.HasPrefix(b, frame) {
			t.Fatalf("%d bytes", len(frame))
		}
		var m, again message.Message
		if err := parseFrame(frame, &m); err != nil {
			if !errors.Is(err, errMessage) {
				t.Fatal(err)
			}
			return
		}
		printed, err := appendFrame(nil, m)
		if err == nil {
			err = parseFrame(printed, &again)
		}
		if err != nil || !same(m, again) {
			t.Fatalf("%+v is printed as %+v, %v", m, again, err)
		}
	})
}

// FuzzDatagram does the same for UDP.
func FuzzDatagram(f *testing.F) {
	seeds := [][]byte{nil, {0x40, 0, 0, 1}, {0x40, 1, 0, 1}, {0x49, 1, 0, 1}, {0x80, 1, 0, 1}, {0x41, 1, 0, 1}}
	for _, m := range []message.Message{
		{Code: codes.GET, Type: message.Confirmable, Token: newToken(1), Options: Store{Path: "/a/b"}.options()},
		{Code: codes.Content, Type: message.Acknowledgement, MessageID: 65535, Payload: make([]byte, 1024)},
	} {
		b, err := appendDatagram(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, b)
	}
	for _, s := range seeds {
		f.Add(s)
	}
	count(f, len(seeds), 8)
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, again message.Message
		if err := parseDatagram(b, &m); err != nil {
			if !errors.Is(err, errMessage) {
				t.Fatal(err)
			}
			return
		}
		printed, err := appendDatagram(nil, m)
		if err == nil {
			err = parseDatagram(printed, &again)
		}
		if err != nil || !same(m, again) || m.Type != again.Type || m.MessageID != again.MessageID {
			t.Fatalf("%+v is printed as %+v, %v", m, again, err)
		}
	})
}

// FuzzPart: every number of 24 bits is a part, and stays it.
func FuzzPart(f *testing.F) {
	seeds := []uint32{0, 6, 7, 14, 1<<24 - 1, 1 << 24}
	for _, s := range seeds {
		f.Add(s)
	}
	count(f, len(seeds), 6)
	f.Fuzz(func(t *testing.T, v uint32) {
		p, ok := parsePart(v)
		if ok != (v < 1<<24) {
			t.Fatalf("%#x: %v", v, ok)
		}
		m := message.Message{Options: message.Options{p.option(message.Block2)}}
		if again, _ := findUint(&m, message.Block2); ok && again != v {
			t.Fatalf("%#x is printed as %#x", v, again)
		}
	})
}

// FuzzAnswer: whatever a client sends is answered by a code that there is, in
// one message; what is stored is whole blocks, and only by PUT to where that is
// allowed.
func FuzzAnswer(f *testing.F) {
	for _, s := range frames(f) {
		f.Add(s, true)
		f.Add(s, false)
	}
	get := message.Message{Code: codes.GET, Options: append(Store{Path: WellKnown}.options(),
		message.Option{ID: message.URIQuery, Value: make([]byte, 32)}, part{num: 1, szx: 6}.option(message.Block2))}
	put := message.Message{Code: codes.PUT, Options: Store{Path: "/p"}.options(), Payload: make([]byte, 1024)}
	for _, m := range []message.Message{get, put} {
		b, err := appendFrame(nil, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
	}
	held := memstore.New()
	zeros := make([]byte, eris.Size32KiB)
	if err := held.Put(f.Context(), eris.BlockRef(zeros), zeros); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, small bool) {
		var m message.Message
		if parseFrame(b, &m) != nil {
			return
		}
		sink := memstore.New()
		s, err := NewServer([]Resource{{Path: WellKnown, Blocks: held}, {Path: "/p", Sink: sink}}, ServerOptions{})
		if err != nil {
			t.Fatal(err)
		}
		room := maxMessage - overhead
		if small {
			room = maxPart
		}
		a := s.answer(t.Context(), "client", &m, room)
		if len(a.Payload) > room || !reflect.DeepEqual(a.Token, m.Token) {
			t.Fatalf("payload of %d bytes, token %v for %v", len(a.Payload), a.Token, m.Token)
		}
		if _, err := appendFrame(nil, a); err != nil {
			t.Fatal(err)
		}
		if sink.Len() != 0 && (m.Code != codes.PUT || a.Code != codes.Created) {
			t.Fatalf("%v stores, and is answered %v", m.Code, a.Code)
		}
		if class := a.Code >> 5; class != 2 && class != 4 && a.Code != codes.ProxyingNotSupported {
			t.Fatalf("answered by %v", a.Code)
		}
	})
}

// script is an exchanger that gives answers one after the other.
type script struct {
	answers []byte // what is left
	asked   int
}

func (s *script) next() (b byte) {
	if len(s.answers) > 0 {
		b, s.answers = s.answers[0], s.answers[1:]
	}
	return b
}

func (s *script) do(_ context.Context, _ message.Message, buf []byte) (answer, error) {
	if s.asked++; s.asked > 1000 {
		panic("asked for too much")
	}
	a := answer{code: []codes.Code{codes.Content, codes.Content, codes.Content, codes.NotFound, codes.Continue}[s.next()%5]}
	a.payload = buf[:min(len(buf), int(s.next())<<8)]
	if s.next()%4 != 0 {
		v := uint32(s.next())<<8 | uint32(s.next())
		a.block = &v
	}
	return a, nil
}

func (s *script) room(context.Context, message.Options) (int, error) { return int(s.next()) << 8, nil }
func (s *script) usable() bool                                       { return true }
func (s *script) close()                                             {}

// FuzzTransfer: whatever a server answers, both ways of transfer end, and what
// comes has at most one byte more than a block.
func FuzzTransfer(f *testing.F) {
	seeds := [][]byte{nil, {0, 4, 1, 0, 0x0e, 0, 4, 1, 0, 0x16}, {0, 128, 0}, {0, 4, 1, 0xff, 0xfe}, bytes.Repeat([]byte{0, 1, 1, 0, 0x0c}, 40)}
	for _, s := range seeds {
		f.Add(s)
	}
	count(f, len(seeds), 5)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
			got, err := getBlock(t.Context(), &script{answers: b}, nil, eris.Ref{}, make([]byte, size+1), time.Minute)
			if len(got) > int(size)+1 || err != nil && got != nil {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			// An error is as good as none.
			_ = putBlock(t.Context(), &script{answers: b}, nil, make([]byte, size), time.Minute)
		}
	})
}
