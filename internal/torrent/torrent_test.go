package torrent_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ersatz/eris"
	"ersatz/internal/torrent"
)

// content is the blocks of a content in the order of the tree.
func content(t testing.TB, size eris.BlockSize, length int) (eris.ReadCap, []byte) {
	t.Helper()
	levels := map[int][]byte{}
	text := bytes.Repeat([]byte("All this is the content. "), length/25+1)[:length]
	c, _, err := eris.Encode(bytes.NewReader(text), size, eris.Secret{}, func(b eris.Block) error {
		levels[b.Level] = append(levels[b.Level], b.Data...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for level := range int(c.Level) + 1 {
		all = append(all, levels[level]...)
	}
	return c, all
}

// build makes the torrent of blocks, written n bytes at a time.
func build(t testing.TB, c eris.ReadCap, blocks []byte, n int) torrent.Info {
	t.Helper()
	b := torrent.NewBuilder()
	for rest := blocks; len(rest) > 0; {
		part := rest[:min(n, len(rest))]
		rest = rest[len(part):]
		if got, err := b.Write(part); got != len(part) || err != nil {
			t.Fatal(got, err)
		}
	}
	if b.Length() != int64(len(blocks)) {
		t.Errorf("%d bytes, not %d", b.Length(), len(blocks))
	}
	return b.Finish(c.Root)
}

// TestResume goes on after the whole pieces of another Builder.
func TestResume(t *testing.T) {
	data := make([]byte, 3*torrent.PieceLength+100)
	for i := range data {
		data[i] = byte(i / 1000)
	}
	whole, first := torrent.NewBuilder(), torrent.NewBuilder()
	whole.Write(data)
	first.Write(data[:2*torrent.PieceLength+5])
	then, err := torrent.Resume(first.Pieces())
	if err != nil || then.Length() != 2*torrent.PieceLength {
		t.Fatal(then.Length(), err)
	}
	then.Write(data[then.Length():])
	if got, want := then.Finish(eris.Ref{}), whole.Finish(eris.Ref{}); got.Hash() != want.Hash() {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, n := range []int{1, 19, 21, torrent.MaxLength/torrent.PieceLength*20 + 20} {
		if _, err := torrent.Resume(make([]byte, n)); !errors.Is(err, torrent.ErrMalformed) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// contents are of one block, of less than a piece, of one piece to the byte, of
// one and a part, and of many.
var contents = []struct {
	size   eris.BlockSize
	length int
	pieces int
	hash   string // of what mktorrent 1.1 makes of the same file
}{
	{eris.Size1KiB, 5, 1, "8cfba4cf5e05d9b886a8fffed9b7470eb5c300e9"},
	{eris.Size1KiB, 10_000, 1, "1338e571c71493943473406737e373e3024937f7"},
	{eris.Size32KiB, 7*32<<10 - 1, 1, "ce8fbef3c34484fd66e380668453b2eb179d9176"},
	{eris.Size32KiB, 7 * 32 << 10, 2, "6d6e33089a6e0c569d79803adaa5901c01094080"},
	{eris.Size32KiB, 3_000_000, 12, "2092c34d6c32ab265129d075d0869f690722dcab"},
}

func TestInfo(t *testing.T) {
	for _, v := range contents {
		c, blocks := content(t, v.size, v.length)
		i := build(t, c, blocks, 1<<30)
		if len(i.Pieces) != v.pieces*sha1.Size || i.Name != c.Root.String() || i.Length != int64(len(blocks)) {
			t.Errorf("%d bytes: %d pieces, name %q, length %d", v.length, len(i.Pieces)/sha1.Size, i.Name, i.Length)
		}
		for n, sum := range [][]byte{i.Pieces[:20], i.Pieces[len(i.Pieces)-20:]} {
			from := n * (v.pieces - 1) * torrent.PieceLength
			if got := sha1.Sum(blocks[from:min(from+torrent.PieceLength, len(blocks))]); !bytes.Equal(got[:], sum) {
				t.Errorf("%d bytes: piece at %d is not hashed", v.length, from)
			}
		}
		if h := i.Hash(); hex.EncodeToString(h[:]) != v.hash {
			t.Errorf("%d bytes: info hash %x, want %s", v.length, h, v.hash)
		}
		for _, n := range []int{1 << 10, 100_003} {
			if again := build(t, c, blocks, n); !bytes.Equal(again.Bytes(), i.Bytes()) {
				t.Errorf("%d bytes: written by %d, it is another torrent", v.length, n)
			}
		}
		read, err := torrent.ParseInfo(i.Bytes())
		if err != nil || !bytes.Equal(read.Bytes(), i.Bytes()) {
			t.Errorf("%d bytes: read again: %v", v.length, err)
		}
		s, err := i.Shape(c)
		if err != nil || s.Nodes()*int64(v.size) != i.Length {
			t.Errorf("%d bytes: %d nodes, %v", v.length, s.Nodes(), err)
		}
	}
}

// TestForeign: what other programs make of the same file, and read in ours.
func TestForeign(t *testing.T) {
	for _, name := range []string{"mktorrent", "transmission-show", "aria2c"} {
		t.Run(name, func(t *testing.T) {
			program, err := exec.LookPath(name)
			if err != nil {
				t.Skipf("no %s", name)
			}
			for _, v := range contents {
				c, blocks := content(t, v.size, v.length)
				i := build(t, c, blocks, 1<<30)
				dir := t.TempDir()
				file, meta := filepath.Join(dir, i.Name), filepath.Join(dir, "x.torrent")
				args := []string{meta}
				write(t, file, blocks)
				switch name {
				case "mktorrent":
					args = []string{"-l", "18", "-d", "-o", meta, file} // pieces of 2^18 bytes, no date
				case "aria2c":
					args = []string{"-S", meta}
					fallthrough
				default:
					write(t, meta, i.Metainfo([]string{"http://a.example/announce", "udp://b.example:6969"}, []string{"http://c.example/eris/torrent/" + i.Name}))
				}
				out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				if name == "mktorrent" {
					text, err := os.ReadFile(meta)
					if err != nil || !bytes.Contains(text, append([]byte("4:info"), i.Bytes()...)) {
						t.Errorf("%d bytes: another info dictionary: %v", v.length, err)
					}
					continue
				}
				for _, want := range []string{v.hash, i.Name, "http://a.example/announce", "udp://b.example:6969"} {
					if !strings.Contains(string(out), want) {
						t.Errorf("%d bytes: no %q in\n%s", v.length, want, out)
					}
				}
			}
		})
	}
}

func write(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(name, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestMetainfo(t *testing.T) {
	c, blocks := content(t, eris.Size1KiB, 5)
	i := build(t, c, blocks, 1024)
	info := string(i.Bytes())
	for _, tt := range []struct {
		trackers, seeds []string
		want            string
	}{
		{nil, nil, "d4:info" + info + "e"},
		{[]string{"http://a"}, []string{"http://w"}, "d8:announce8:http://a4:info" + info + "8:url-listl8:http://wee"},
		{[]string{"http://a", "udp://b"}, nil, "d8:announce8:http://a13:announce-listll8:http://ael7:udp://bee4:info" + info + "e"},
	} {
		if got := string(i.Metainfo(tt.trackers, tt.seeds)); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// TestParseInfoRefuses: what anybody but us could call a torrent of the blocks.
func TestParseInfoRefuses(t *testing.T) {
	c, blocks := content(t, eris.Size32KiB, 300_000)
	i := build(t, c, blocks, 1<<30)
	good := string(i.Bytes())
	lower := i
	lower.Name = strings.ToLower(i.Name)
	long := i
	long.Length++
	for name, text := range map[string]string{
		"nothing":          "",
		"more behind":      good + "e",
		"cut":              good[:len(good)-1],
		"other pieces":     strings.Replace(good, "lengthi262144e", "lengthi524288e", 1),
		"a private one":    strings.TrimSuffix(good, "e") + "7:privatei1ee",
		"a sign":           strings.Replace(good, "lengthi", "lengthi+", 1),
		"a zero":           strings.Replace(good, "lengthi", "lengthi0", 1),
		"below zero":       strings.Replace(good, "lengthi", "lengthi-", 1),
		"a large number":   strings.Replace(good, "lengthi", "lengthi99999999999", 1),
		"beyond the limit": string(torrent.Info{Name: i.Name, Length: torrent.MaxLength + 1, Pieces: make([]byte, 20*(torrent.MaxLength/torrent.PieceLength+1))}.Bytes()),
		"another name":     string(lower.Bytes()),
		"a path":           strings.Replace(good, i.Name, "../../"+i.Name[6:], 1),
		"a hash too few":   string(torrent.Info{Name: i.Name, Length: i.Length, Pieces: i.Pieces[20:]}.Bytes()),
		"a hash too many":  string(torrent.Info{Name: i.Name, Length: i.Length, Pieces: append(i.Pieces, i.Pieces...)}.Bytes()),
		"too long by much": good + strings.Repeat("x", torrent.MaxInfo),
	} {
		if got, err := torrent.ParseInfo([]byte(text)); !errors.Is(err, torrent.ErrMalformed) {
			t.Errorf("%s: %v, %v", name, got.Name, err)
		}
	}
	// The same by the letter, and not the torrent of the content.
	other := c
	other.Root[3]++
	small := c
	small.Size = eris.Size1KiB
	high := c
	high.Level++
	for name, tt := range map[string]struct {
		info torrent.Info
		cap  eris.ReadCap
	}{
		"another root": {i, other}, "another block size": {i, small}, "another level": {i, high}, "part of a block": {long, c},
		"a block too few": {torrent.Info{Name: i.Name, Length: 2 * 32 << 10, Pieces: i.Pieces[:20]}, c},
	} {
		if _, err := tt.info.Shape(tt.cap); !errors.Is(err, torrent.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzParseInfo: what is accepted is printed byte for byte.
func FuzzParseInfo(f *testing.F) {
	for _, v := range contents {
		c, blocks := content(f, v.size, v.length)
		f.Add(build(f, c, blocks, 1<<30).Bytes())
	}
	f.Add([]byte("d6:lengthi1e4:name1:x12:piece lengthi262144e6:pieces0:e"))
	f.Fuzz(func(t *testing.T, text []byte) {
		i, err := torrent.ParseInfo(text)
		if err == nil && !bytes.Equal(i.Bytes(), text) {
			t.Fatalf("read as %q", i.Bytes())
		}
		if err == nil && (i.Length-1)/torrent.PieceLength+1 != int64(len(i.Pieces)/sha1.Size) {
			t.Fatalf("%d pieces of %d bytes", len(i.Pieces)/sha1.Size, i.Length)
		}
	})
}

// BenchmarkBuilder is what a torrent adds to the encoding of an item.
func BenchmarkBuilder(b *testing.B) {
	block := make([]byte, eris.Size32KiB)
	t := torrent.NewBuilder()
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		t.Write(block)
	}
}
