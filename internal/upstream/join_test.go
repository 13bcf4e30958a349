package upstream

import (
	"errors"
	"math"
	"strings"
	"testing"

	"ersatz/eris"
	"ersatz/narinfo"
)

// TestJoin: what agrees joins a build, whoever has signed it, and nothing else
// does. The build that it was copied from stays as it was.
func TestJoin(t *testing.T) {
	urn := eris.ReadCap{Size: eris.Size1KiB}.URN()
	good := fields(t, func(f *narinfo.Fields) { f.ERIS, f.ERISFormat = urn, "application/x-nix-archive+zstd" })
	otherURN := fields(t, func(f *narinfo.Fields) {
		f.ERIS, f.ERISFormat = eris.ReadCap{Size: eris.Size32KiB}.URN(), "application/x-nix-archive+zstd"
	})
	otherBuild := fields(t, func(f *narinfo.Fields) { f.NarHash[0], f.ERIS = 9, urn })
	zstd := narinfo.Nar{URL: "nar/zstd/x", Compression: "zstd", FileSize: 100}
	plain := narinfo.Nar{URL: "nar/x", Compression: "none"}
	c := Choose(good.StorePath, []Answer{{Server: server(t, "http://far"), Text: text(t, good, key(t, 1), zstd)}}, signed(key(t, 1)))
	before := c.Builds[0]
	b := *before
	b.Join([]Answer{
		{Server: server(t, "http://a"), Text: text(t, good, key(t, 7), plain, narinfo.Nar{URL: "again", Compression: "none"}, narinfo.Nar{URL: "huge", Compression: "zstd", FileSize: math.MaxInt64 + 1})},
		{Server: server(t, "http://b"), Text: text(t, otherURN, nil, zstd, narinfo.Nar{URL: "odd", Compression: "odd"})},
		{Server: server(t, "http://other-build"), Text: text(t, otherBuild, key(t, 1), zstd)},
		{Server: server(t, "http://page"), Text: []byte("<html>")},
		{Server: server(t, "http://down"), Err: errors.New("on fire")},
	})
	urls := func(b *Build) string {
		var list []string
		for _, o := range b.Nars {
			list = append(list, o.URL())
		}
		for _, sv := range b.Content.Servers {
			list = append(list, sv.String())
		}
		return strings.Join(list, " ")
	}
	if got := urls(&b); got != "http://b/nar/zstd/x http://a/nar/x http://far/nar/zstd/x http://a http://far" {
		t.Errorf("nars and servers: %s", got)
	}
	if got := urls(before); got != "http://far/nar/zstd/x http://far" {
		t.Errorf("before: %s", got)
	}
	if len(b.Narinfos) != 1 {
		t.Errorf("%d narinfos count", len(b.Narinfos))
	}
	before.Content = Content{}
	b = *before
	if b.Join([]Answer{{Server: server(t, "http://a"), Text: text(t, good, nil, zstd)}}); len(b.Content.Servers) != 0 || len(b.Nars) != 2 {
		t.Errorf("without a URN: %s", urls(&b))
	}
}
