package bitswap

import (
	"strings"
	"testing"

	"github.com/ipfs/boxo/bitswap/message"
	pb "github.com/ipfs/boxo/bitswap/message/pb"
	blocks "github.com/ipfs/go-block-format"

	"ersatz/eris"
)

// messageOf returns a message with so many wants, blocks, and words on blocks.
func messageOf(wants, given, lacks int) message.BitSwapMessage {
	m := message.New(false)
	for i := range wants {
		m.AddEntry(toCID(eris.Ref{1, byte(i), byte(i >> 8)}), 1, pb.Message_Wantlist_Have, true)
	}
	for i := range given {
		m.AddBlock(blocks.NewBlock([]byte{byte(i), byte(i >> 8)}))
	}
	for i := range lacks {
		m.AddDontHave(toCID(eris.Ref{2, byte(i), byte(i >> 8)}))
	}
	return m
}

func TestParts(t *testing.T) {
	many := 1 << 19
	for name, c := range map[string]struct {
		text string
		want int // at least
	}{
		"empty wants":         {"\x0a\x80\x80\x40" + strings.Repeat("\x0a\x00", many), many},
		"empty old blocks":    {strings.Repeat("\x12\x00", many), many},
		"empty blocks":        {strings.Repeat("\x1a\x00", many), many},
		"empty words":         {strings.Repeat("\x22\x00", many), many},
		"lists of wants":      {strings.Repeat("\x0a\x02\x0a\x00", many), many},
		"behind a group":      {"\x4b\x4c" + strings.Repeat("\x22\x00", many), many},
		"behind other fields": {"\x50\x01\x59abcdefgh\x65abcd\x6a\x01a" + strings.Repeat("\x22\x00", many), many},
		"before an error":     {strings.Repeat("\x22\x00", many) + "\x22\x7f", many},
		"nothing":             {"", 0},
		"varint alone":        {"\xff\xff", 0},
	} {
		if n := parts([]byte(c.text), true); n < c.want || n > 2*c.want+6 {
			t.Errorf("%s: %d parts, want %d", name, n, c.want)
		}
	}
}

// FuzzParts: what boxo understands has no more than was counted.
func FuzzParts(f *testing.F) {
	for _, m := range []message.BitSwapMessage{messageOf(0, 0, 0), messageOf(3, 0, 0), messageOf(0, 2, 0), messageOf(1, 1, 5)} {
		b, err := wireForm(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("\x0a\x02\x0a\x00"))
	f.Add([]byte("\x4b\x4c\x22\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := parts(b, true)
		m, _, err := message.FromMsgReader(whole(b))
		if err != nil {
			return
		}
		if has := len(m.Wantlist()) + len(m.Blocks()) + len(m.BlockPresences()); has > n {
			t.Errorf("%d parts were counted of %d", n, has)
		}
	})
}

// wireForm returns a message as it is sent, without its length.
func wireForm(m message.BitSwapMessage) ([]byte, error) {
	var b strings.Builder
	if err := m.ToNetV1(&b); err != nil {
		return nil, err
	}
	text := b.String()
	for text != "" && text[0] >= 0x80 {
		text = text[1:]
	}
	return []byte(strings.TrimPrefix(text, text[:min(1, len(text))])), nil
}
