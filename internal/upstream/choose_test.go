package upstream

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"strings"
	"testing"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/narinfo"
)

func key(t testing.TB, n byte) *guixsig.PrivateKey {
	t.Helper()
	k, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	must(t, err)
	return k
}

// text prints a narinfo, signed by k, or unsigned.
func text(t testing.TB, f narinfo.Fields, k *guixsig.PrivateKey, nars ...narinfo.Nar) []byte {
	t.Helper()
	body := f.Body()
	if k != nil {
		var err error
		body, err = narinfo.SignGuix(body, k, "test")
		must(t, err)
	}
	return append(body, narinfo.Locations(nars)...)
}

func TestChoose(t *testing.T) {
	good := fields(t, nil)
	zstd := narinfo.Nar{URL: "nar/zstd/x", Compression: "zstd", FileSize: 100}
	plain := narinfo.Nar{URL: "nar/x", Compression: "none", FileSize: good.NarSize}
	odd := narinfo.Nar{URL: "nar/odd/x", Compression: "odd"}
	otherBuild := fields(t, func(f *narinfo.Fields) { f.NarHash[0] = 9 })
	otherRefs := fields(t, func(f *narinfo.Fields) { f.References = []string{hash + "-ref"} })
	wrongPath := fields(t, func(f *narinfo.Fields) { f.StorePath.Name = "item-2.0" })
	answers := []Answer{
		{Server: server(t, "http://unsigned"), Text: text(t, good, nil, zstd)},
		{Server: server(t, "http://first"), Text: text(t, good, key(t, 1), plain, odd)},
		{Server: server(t, "http://other-build"), Text: text(t, otherBuild, key(t, 1), zstd)},
		{Server: server(t, "http://other-refs"), Text: text(t, otherRefs, key(t, 1), zstd)},
		{Server: server(t, "http://wrong-path"), Text: text(t, wrongPath, key(t, 1), zstd)},
		{Server: server(t, "http://nobody"), Text: text(t, fields(t, func(f *narinfo.Fields) { f.NarHash[0] = 8 }), key(t, 2), zstd)},
		{Server: server(t, "http://page"), Text: []byte("<html>\n")},
		{Server: server(t, "http://none"), Err: fs.ErrNotExist},
		{Server: server(t, "http://broken"), Err: errors.New("on fire")},
	}
	c := Choose(good.StorePath, answers, signed(key(t, 1)))
	if len(c.Builds) != 2 || c.Builds[0].Signed.NarHash != good.NarHash || c.Builds[1].Signed.NarHash != otherBuild.NarHash || c.Path != good.StorePath {
		t.Fatalf("builds %+v", c.Builds)
	}
	if n := c.Builds[0].Narinfos; len(n) != 2 || n[0].Server.String() != "http://first" || !bytes.Equal(n[0].Text, answers[1].Text) || n[1].Server.String() != "http://unsigned" {
		t.Errorf("narinfos %v", n)
	}
	var urls []string
	for _, o := range c.Builds[0].Nars {
		urls = append(urls, o.URL())
	}
	if got := strings.Join(urls, " "); got != "http://unsigned/nar/zstd/x http://first/nar/x" {
		t.Errorf("nars at %s", got)
	}
	refused := errors.Join(c.Refused...)
	if len(c.Refused) != 6 || !errors.Is(refused, narinfo.ErrUnauthorized) || !errors.Is(refused, narinfo.ErrWrongPath) {
		t.Errorf("refused: %v", refused)
	}
	for _, want := range []string{"http://other-refs: differs", "http://wrong-path: ", "http://nobody: ", "http://page: ", "http://broken: on fire", "\"odd\""} {
		if !strings.Contains(refused.Error(), want) {
			t.Errorf("refused lacks %q:\n%v", want, refused)
		}
	}
	if n := c.Builds[0].DownloadSize(); n != 100 || c.Builds[0].BlocksFirst() {
		t.Errorf("download of %d bytes", n)
	}
}

// TestJudge: what counts is the caller's to say.
func TestJudge(t *testing.T) {
	f := fields(t, nil)
	answers := []Answer{{Server: server(t, "http://a"), Text: text(t, f, nil)}}
	all := func(*narinfo.Narinfo) (narinfo.Signed, error) {
		return narinfo.Signed{StorePath: f.StorePath, NarHash: f.NarHash, NarSize: f.NarSize, HasNarSize: true}, nil
	}
	if c := Choose(f.StorePath, answers, all); len(c.Builds) != 1 {
		t.Errorf("refused: %v", c.Refused)
	}
	for name, bad := range map[string]narinfo.Signed{
		"no size":   {StorePath: f.StorePath, HasNarSize: true},
		"too large": {StorePath: f.StorePath, HasNarSize: true, NarSize: math.MaxInt64 + 1},
		"another":   {StorePath: parsePath(t, "/gnu/store/"+hash+"-other"), HasNarSize: true, NarSize: 1},
	} {
		judge := func(*narinfo.Narinfo) (narinfo.Signed, error) { return bad, nil }
		if c := Choose(f.StorePath, answers, judge); len(c.Builds) != 0 || len(c.Refused) != 1 {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

func TestContent(t *testing.T) {
	rc, _, err := eris.Encode(strings.NewReader("x"), eris.Recommended(1), eris.Secret{}, func(eris.Block) error { return nil })
	must(t, err)
	blocks := fields(t, func(f *narinfo.Fields) {
		f.ERISFormat, f.ERIS = "application/x-nix-archive+zstd-19", rc.URN()
	})
	zstd := narinfo.Nar{URL: "nar/zstd/x", Compression: "zstd", FileSize: 77}
	torrent := func(magnet string) narinfo.Fields {
		f := blocks
		f.ERISMagnet = magnet
		return f
	}
	answers := []Answer{
		{Server: server(t, "http://a"), Text: text(t, blocks, key(t, 1), zstd)},
		{Server: server(t, "http://unsigned"), Text: text(t, blocks, nil)},
		{Server: server(t, "http://b"), Text: text(t, torrent("magnet:b"), key(t, 1), narinfo.Nar{URL: "nar/x", Compression: "zstd", FileSize: 1<<64 - 1})},
		{Server: server(t, "http://c"), Text: text(t, torrent("magnet:c"), key(t, 1))},
		{Server: server(t, "http://stranger"), Text: text(t, torrent("magnet:d"), key(t, 2))},
	}
	c := Choose(blocks.StorePath, answers, signed(key(t, 1)))
	if len(c.Builds) != 1 {
		t.Fatalf("refused: %v", c.Refused)
	}
	got := c.Builds[0].Content
	if got.URN != rc.URN() || got.ReadCap != rc || got.Method != "zstd" || got.Size != 77 || len(got.Servers) != 3 || got.Servers[1].String() != "http://b" ||
		got.Magnet != "magnet:b" {
		t.Errorf("content %+v", got)
	}
	if !c.Builds[0].BlocksFirst() || c.Builds[0].DownloadSize() != 77 {
		t.Error("nars first")
	}
	if nars := c.Builds[0].Nars; len(nars) != 2 || nars[1].Nar.FileSize != 0 {
		t.Errorf("a size that no file has: %+v", nars)
	}
}

func TestCompressedLimit(t *testing.T) {
	for _, x := range []struct {
		s    narinfo.Signed
		want int64
	}{
		{narinfo.Signed{}, math.MaxInt64},
		{narinfo.Signed{HasNarSize: true, NarSize: 1600}, 1700 + 64<<10},
		{narinfo.Signed{HasNarSize: true, NarSize: math.MaxInt64}, math.MaxInt64},
	} {
		if got := (&Build{Signed: x.s}).CompressedLimit(); got != x.want {
			t.Errorf("NarSize %d: %d, want %d", x.s.NarSize, got, x.want)
		}
	}
}
