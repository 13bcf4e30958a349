package eriscbor_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"ersatz/eris"
	"ersatz/eriscbor"

	"github.com/fxamacker/cbor/v2"
)

// The bundle of the first vector ("Hello world!"), byte for byte: the tag, an
// array and a map of no definite length, the pair, the tagged read capability.
func TestBytes(t *testing.T) {
	block, ref, c, pair := first(t)
	var out bytes.Buffer
	w := eriscbor.NewWriter(&out)
	for range 2 { // the second time, it is there
		if err := w.Block(ref, block); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(c); err != nil {
		t.Fatal(err)
	}
	want := "da65726973" + "9f" + "bf" + pair + "ff" + "d90114" + "5842" + hex.EncodeToString(c.Bytes()) + "ff"
	if got := hex.EncodeToString(out.Bytes()); got != want {
		t.Errorf("bundle is\n%s, not\n%s", got, want)
	}
	if err := w.Block(ref, block); err == nil {
		t.Error("a finished bundle takes a block")
	}
}

// TestForms: what may be written in several ways is read in all of them.
func TestForms(t *testing.T) {
	block, _, c, pair := first(t)
	cp := "d9011458" + "42" + hex.EncodeToString(c.Bytes())
	longCap := "da00000114" + "5900" + "42" + hex.EncodeToString(c.Bytes())
	for name, text := range map[string]string{
		"indefinite":           "da65726973" + "9f" + "bf" + pair + "ff" + cp + "ff",
		"definite":             "da65726973" + "82" + "a1" + pair + cp,
		"mixed":                "da65726973" + "82" + "bf" + pair + "ff" + cp,
		"mixed the other way":  "da65726973" + "9f" + "a1" + pair + cp + "ff",
		"without a tag":        "82" + "a1" + pair + cp,
		"described":            "d9d9f7" + "da65726973" + "9f" + "bf" + pair + "ff" + cp + "ff",
		"longer than needed":   "db0000000065726973" + "9b0000000000000002" + "b801" + pair + longCap,
		"a block in two pairs": "82" + "a2" + pair + pair + cp,
	} {
		for way, r := range map[string]io.Reader{
			"at once": bytes.NewReader(unhex(t, text)), "byte by byte": iotest.OneByteReader(bytes.NewReader(unhex(t, text))),
		} {
			v, err := read(r)
			if err != nil || len(v.blocks) != 1 || len(v.wrong) != 0 || len(v.caps) != 1 || v.caps[0].URN() != c.URN() {
				t.Errorf("%s, %s: %+v, %v", name, way, v.caps, err)
			}
			for _, b := range v.blocks {
				if !bytes.Equal(b, block) {
					t.Errorf("%s, %s: another block", name, way)
				}
			}
		}
	}
	for name, text := range map[string]string{"empty": "9fbfffff", "definite and empty": "81a0"} {
		if v, err := read(bytes.NewReader(unhex(t, text))); err != nil || len(v.blocks)+len(v.caps) != 0 {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
}

func TestMalformed(t *testing.T) {
	_, _, c, pair := first(t)
	cp := "d9011458" + "42" + hex.EncodeToString(c.Bytes())
	good := "da65726973" + "9f" + "bf" + pair + "ff" + cp + "ff"
	for name, bad := range map[string]struct{ text, want string }{
		"nothing":                 {"", "cut short"},
		"text":                    {hex.EncodeToString([]byte("StorePath: /gnu")), "no bundle"},
		"a map":                   {"a0", "no bundle"},
		"an empty array":          {"80", "no map stands first"},
		"an array first":          {"8180", "no map stands first"},
		"another tag":             {"d90114" + "81a0", "no bundle"},
		"described, another tag":  {"d9d9f7" + "81a0", "55799"},
		"described twice":         {"d9d9f7d9d9f7" + "da65726973" + "81a0", "55799"},
		"tagged twice":            {"da65726973da65726973" + "81a0", "no bundle"},
		"reserved":                {"9c", "no head"},
		"a tag without an end":    {"df", "no head"},
		"short reference":         {"81a1" + "581f" + strings.Repeat("00", 31) + "590400", "instead of a reference"},
		"reference in pieces":     {"81a1" + "5f", "instead of a reference"},
		"reference as text":       {"81a1" + "7820", "instead of a reference"},
		"a break as reference":    {"81a1" + "ff", "instead of a reference"},
		"a block of 1,023 bytes":  {"81a1" + pair[:68] + "5903ff", "byte string of 1023 bytes instead of a block"},
		"a block of 2 EiB":        {"81a1" + pair[:68] + "5b1fffffffffffffff", "instead of a block"},
		"a block in pieces":       {"81a1" + pair[:68] + "5f590400", "instead of a block"},
		"no block":                {"9fbf" + pair[:68] + "ffff", "a break instead of a block"},
		"cut in a block":          {good[:500], "cut short"},
		"cut after the blocks":    {strings.TrimSuffix(good, cp+"ff"), "cut short"},
		"cut before its end":      {strings.TrimSuffix(good, "ff"), "cut short"},
		"fewer than it says":      {"da65726973" + "83" + "bf" + pair + "ff" + cp, "cut short"},
		"2^64 blocks":             {"81" + "bbffffffffffffffff" + pair, "cut short"},
		"more than it says":       {"81" + "a1" + pair + cp, "something follows"},
		"two in a row":            {good + good, "something follows"},
		"a capability without":    {"9fa0" + "5842" + hex.EncodeToString(c.Bytes()) + "ff", "instead of a read capability"},
		"a short capability":      {"9fa0" + "d901145841" + hex.EncodeToString(c.Bytes()[1:]) + "ff", "instead of 66 bytes"},
		"an unknown block size":   {"9fa0" + "d9011458420b" + hex.EncodeToString(c.Bytes()[1:]) + "ff", "block size"},
		"a map behind the blocks": {"82a0a0", "instead of a read capability"},
	} {
		_, err := read(bytes.NewReader(unhex(t, bad.text)))
		if !errors.Is(err, eris.ErrCorrupt) || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A reader that fails is no corruption.
	broken := errors.New("broken")
	for n := range len(good) / 2 {
		r := io.MultiReader(bytes.NewReader(unhex(t, good)[:n]), iotest.ErrReader(broken))
		if _, err := read(r); !errors.Is(err, broken) || errors.Is(err, eris.ErrCorrupt) {
			t.Fatalf("broken after %d bytes: %v", n, err)
		}
	}
}

// TestWrongBlock: one flipped bit costs one block.
func TestWrongBlock(t *testing.T) {
	v := vectors(t)
	all := value{blocks: map[eris.Ref][]byte{}}
	for _, v := range v {
		for ref, block := range v.blocks {
			all.blocks[ref] = block
		}
		all.caps = append(all.caps, v.cap)
	}
	b := write(t, all)
	var ref eris.Ref
	copy(ref[:], b[9:41]) // of the first block
	b[200] ^= 4
	got, err := read(bytes.NewReader(b))
	if err != nil || len(got.wrong) != 1 || got.wrong[0] != ref || len(got.blocks) != len(all.blocks)-1 || len(got.caps) != len(all.caps) {
		t.Errorf("%v, %d blocks, wrong %v", err, len(got.blocks), got.wrong)
	}
	r := eriscbor.NewReader(bytes.NewReader(b))
	if _, err := r.Caps(); err == nil {
		t.Error("read capabilities before blocks")
	}
}

func TestWriterRefuses(t *testing.T) {
	w := eriscbor.NewWriter(io.Discard)
	if err := w.Block(eris.Ref{}, make([]byte, 1000)); !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("block of 1000 bytes: %v", err)
	}
	if err := w.Finish(); err != nil {
		t.Error(err)
	}
	full := errors.New("no space")
	w = eriscbor.NewWriter(writerFunc(func([]byte) (int, error) { return 0, full }))
	if err := w.Finish(); !errors.Is(err, full) {
		t.Errorf("full disk: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestOtherModule: an implementation of CBOR that is not ours reads what we
// write, and we read what it writes.
func TestOtherModule(t *testing.T) {
	all := value{blocks: map[eris.Ref][]byte{}}
	for _, v := range vectors(t) {
		for ref, block := range v.blocks {
			all.blocks[ref] = block
		}
		all.caps = append(all.caps, v.cap)
	}
	var tag cbor.RawTag
	if err := cbor.Unmarshal(write(t, all), &tag); err != nil || tag.Number != 1701996915 {
		t.Fatalf("tag %d, %v", tag.Number, err)
	}
	var parts []cbor.RawMessage
	if err := cbor.Unmarshal(tag.Content, &parts); err != nil || len(parts) != 1+len(all.caps) {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	var blocks map[cbor.ByteString]cbor.ByteString
	if err := cbor.Unmarshal(parts[0], &blocks); err != nil || len(blocks) != len(all.blocks) {
		t.Fatalf("%d blocks, %v", len(blocks), err)
	}
	for ref, block := range all.blocks {
		if string(blocks[cbor.ByteString(ref[:])]) != string(block) {
			t.Errorf("block %s is another one", ref)
		}
	}
	array := []any{blocks}
	for i, c := range all.caps {
		var got cbor.Tag
		if err := cbor.Unmarshal(parts[i+1], &got); err != nil || got.Number != 276 || !bytes.Equal(got.Content.([]byte), c.Bytes()) {
			t.Errorf("read capability %d: %+v, %v", i, got, err)
		}
		array = append(array, cbor.Tag{Number: 276, Content: c.Bytes()})
	}
	for _, content := range []any{array, cbor.Tag{Number: 1701996915, Content: array}} {
		theirs, err := cbor.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := read(bytes.NewReader(theirs)); err != nil || !got.equal(all) {
			t.Errorf("theirs: %d blocks, %v", len(got.blocks), err)
		}
	}
}

func FuzzReader(f *testing.F) {
	_, _, c, pair := first(f)
	cp := "d9011458" + "42" + hex.EncodeToString(c.Bytes())
	for _, seed := range []string{
		"da65726973" + "9f" + "bf" + pair + "ff" + cp + "ff", "82a1" + pair + cp, "d9d9f7da6572697381a0", "9fbfffff",
		"82a2" + pair + pair + cp, "9fbf" + pair[:68] + "5903ff",
	} {
		f.Add(unhex(f, seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := read(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, eris.ErrCorrupt) {
				t.Fatalf("%v", err)
			}
			return
		}
		if err := cbor.Wellformed(b); err != nil {
			t.Fatalf("what is not well-formed is read: %v", err)
		}
		again, err := read(bytes.NewReader(write(t, v)))
		if err != nil || !again.equal(v) {
			t.Fatalf("printed and read again: %v", err)
		}
	})
}
