package stores

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestParse has the spellings of URLs: what is written, the one spelling, and
// what logs show.
func TestParse(t *testing.T) {
	for _, c := range []struct{ in, full, shown string }{
		{"http://127.0.0.1:8080", "", ""},
		{"http://127.0.0.1:8080/", "", ""},
		{"HTTP://Server.Example/eris?put&get", "http://server.example/eris?get&put", ""},
		{"https://me:secret@server.example?get", "https://me:secret@server.example?get", "https://…@server.example?get"},
		{"http://[::1]:80", "", ""},
		{"http://[fe80::1%25eth0]", "", ""},
		{"coap+tcp://localhost", "coap+tcp://localhost/.well-known/eris", ""},
		{"coap://localhost:5683/s3cret/?get&put", "coap://localhost:5683/s3cret?get&put", "coap://localhost:5683/…?get&put"},
		{"coap://localhost/%E2%80%A6", "coap://localhost/%E2%80%A6", "coap://localhost/…"},
		{"coaps://h?identity=me&key-file=/k", "coaps://h/.well-known/eris?identity=me&key-file=/k", ""},
		{"coaps://h?put&identity=a%26b&key-file=/k%20k", "coaps://h/.well-known/eris?put&identity=a%26b&key-file=/k+k", ""},
		{"ipfs+http://127.0.0.1:5001", "", ""},
		{"ipfs+https://h/api?get&put", "", ""},
		{"gateway+https://h/path?manifest=bafy", "", ""},
		{"ipfs:", "", ""},
		{"ipfs:?peer=/ip4/127.0.0.1/udp/1/quic-v1/p2p/12D3&listen=/ip4/0.0.0.0/tcp/4001&dht=auto&peer=/dns4/h/tcp/1/p2p/12D3", "", ""},
		{"ndn:?face=tcp://h:1&prefix=/a/b", "", ""},
		{"bittorrent:", "", ""},
		{"bittorrent:?listen=127.0.0.1:0&tr=http://h:1/announce&dht=on&x.pe=h:1&x.pe=[::1]:2", "bittorrent:?listen=127.0.0.1:0&tr=http://h:1/announce&dht=on&x.pe=h:1&x.pe=%5B::1%5D:2", ""},
		{"magnet:?xt=urn:btih:C12FE1C06BBA254A9DC9F519B335AA7C1367A88A&xl=5&dn=a+b&xt=urn:eris:X", "bittorrent:?xt=urn:btih:c12fe1c06bba254a9dc9f519b335aa7c1367a88a&dn=a+b", ""},
		{"bittorrent:?ws=http://h/&xt=urn:btih:YEX6DQDLXISUVHOJ6UM3GNNKPQJWPKEK", "bittorrent:?ws=http://h/&xt=urn:btih:c12fe1c06bba254a9dc9f519b335aa7c1367a88a", ""},
		{"gnunet:", "gnunet:/run/gnunet/gnunet-service-dht.sock", ""},
		{"gnunet:///run//x.sock?expiry=48h", "gnunet:/run/x.sock?expiry=48h", ""},
		{"file:///srv/blocks", "", ""},
		{"file://localhost/srv//blocks/", "file:///srv/blocks", ""},
		{"file:/srv/a%20b%3F", "file:///srv/a%20b%3F", ""},
	} {
		if c.full == "" {
			c.full = c.in
		}
		if c.shown == "" {
			c.shown = c.full
		}
		u, err := Parse(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if u.Full() != c.full || u.String() != c.shown {
			t.Errorf("%s is %s, shown as %s, want %s and %s", c.in, u.Full(), u, c.full, c.shown)
		}
	}
}

// TestParseWrong wants errors that say what is wrong, and no secret.
func TestParseWrong(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "has no scheme"},
		{"blocks/dir", "has no scheme, such as file:///blocks/dir"},
		{"ftp://host/s3cret", "scheme is none of http, https, coap+tcp"},
		{"http://", "is not of the form http://HOST[:PORT]"},
		{"http:host", "is not of the form"},
		{"http://ho st/s3cret", "white space"},
		{"http://a_b*c", "not of the form"},
		{"http://host:0x1", "not well-formed"},
		{"http://host:099", "port \"099\""},
		{"http://host:65536", "port \"65536\""},
		{"http://host/#s3cret", "fragment"},
		{"http://host#", "fragment"},
		{"http://host?get&get", "stands twice"},
		{"http://host?name=s3cret", "knows get and put alone"},
		{"http://host/s3cret%zz", "not well-formed"},
		{"coap+tcp://user:s3cret@host", "has a user"},
		{"coap+tcp://host/s3cret//s3cret", "an empty or long segment"},
		{"coap+tcp://host//", "an empty or long segment"},
		{"coap+tcp://host/s3cret%00", "do not print"},
		{"ipfs+http://user:s3cret@host", "has a user"},
		{"coaps://host", "needs identity=ID"},
		{"coaps://host?identity=a&identity=b&key-file=/k", "identity twice"},
		{"coaps://host?identity=&key-file=/k", "no good value for \"identity\""},
		{"coaps://host?identity=%00&key-file=/k", "no good value for \"identity\""},
		{"coaps://host?ident=%zz", "no good value"},
		{"coaps://host?secret=s3cret", "knows get, put, identity, key-file"},
		{"ipfs:/path", "has a path"},
		{"ipfs:x", "not of the form ipfs:[?listen"},
		{"ipfs://host", "has a host"},
		{"ipfs:?peer=host:4001", "peer: \"host:4001\" is no multiaddr"},
		{"ipfs:?bootstrap=none", "bootstrap: \"none\" is no multiaddr"},
		{"ipfs:?dht=maybe", "dht: \"maybe\" is none of off, client, server, auto"},
		{"ipfs:?dht=off&dht=client", "dht twice"},
		{"ndn:/eris", "has a path"},
		{"magnet:?dn=x", "without xt="},
		{"bittorrent:?xt=urn:btih:12", "no info hash"},
		{"bittorrent:?xt=urn:eris:12", "without xt="},
		{"bittorrent:?dn=x", "has dn, but no xt"},
		{"bittorrent:?tr=file:///x", "tr: \"file:///x\" cannot be asked"},
		{"bittorrent:?x.pe=h", "x.pe: \"h\" cannot be asked"},
		{"bittorrent:?listen=6881", "listen: \"6881\" is not HOST:PORT"},
		{"bittorrent:/x", "has a path"},
		{"bittorrent:?lsd=1", "lsd"},
		{"gnunet:?expiry=soon", "expiry: \"soon\" is no time"},
		{"gnunet:?expiry=1s", "of a minute at least"},
		{"gnunet:?replication=02", "replication: \"02\" is no number"},
		{"file:blocks", "not of the form file:///FOLDER"},
		{"file://server/blocks", "has a host"},
		{"file://", "no absolute path"},
		{"http://host/\x01", "do not print"},
		{"http://host/\xff", "do not print"},
		{"http://host/" + strings.Repeat("a", maxURL), "more than 8192 bytes"},
	} {
		_, err := Parse(c.in)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.50q: %v, want %q", c.in, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "s3cret") && !strings.Contains(c.want, "s3cret")) || len(err.Error()) > 300 {
			t.Errorf("%.50q: %v", c.in, err)
		}
	}
}

func TestParseList(t *testing.T) {
	urls, others, err := ParseList(" http://a?get \n\tcoap+tcp://b?get&put badger+file:///s3cret?get file:///c ")
	if err != nil || len(urls) != 3 || urls[1].Full() != "coap+tcp://b/.well-known/eris?get&put" {
		t.Fatalf("%v, %v", urls, err)
	}
	if !slices.Equal(others, []string{`"badger+file://…"`}) {
		t.Errorf("others are %q", others)
	}
	if urls, others, err := ParseList(""); err != nil || len(urls)+len(others) != 0 {
		t.Errorf("%v, %v, %v", urls, others, err)
	}
	_, _, err = ParseList("http://a http://b?x file:///c nonsense")
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `"http://b…"`) || !strings.Contains(err.Error(), `"nonsense"`) {
		t.Errorf("two wrong ones: %v", err)
	}
	for _, s := range []string{strings.Repeat("http://a ", maxURLs+1), strings.Repeat(" ", maxList+1)} {
		if _, _, err := ParseList(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("a list that is too long: %v", err)
		}
	}
}

func TestGrants(t *testing.T) {
	for _, c := range []struct {
		url       string
		get, put  bool
		from, to  bool
		serve     bool
		wholePub  bool
		mentioned string
	}{
		{url: "http://h:1", get: true, from: true, serve: true, mentioned: "?put"},
		{url: "http://h:1?put", put: true, to: true, mentioned: "?get"},
		{url: "http://h:1?get&put", get: true, put: true, from: true, to: true},
		{url: "https://h:1?get&put", get: true, put: true, from: true, to: true},
		{url: "coap://h?get", get: true, from: true, serve: true},
		{url: "file:///d", get: true, from: true, to: true, serve: true},
		{url: "file:///d?get", get: true, from: true, serve: true},
		{url: "gateway+http://h?get&put", get: true, put: true, from: true},
		{url: "ipfs+http://h:5001", get: true, from: true, to: true, serve: true, wholePub: true},
	} {
		u, err := Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		if u.Gets() != c.get || u.Puts() != c.put || u.Whole() != c.wholePub || u.Public() != c.wholePub {
			t.Errorf("%s: get %v, put %v, whole %v, public %v", u, u.Gets(), u.Puts(), u.Whole(), u.Public())
		}
		for as, want := range map[use]bool{useFrom: c.from, useTo: c.to, useServe: c.serve} {
			sch, _ := schemeOf(u.Scheme())
			err := sch.allows(u, as)
			if (err == nil) != want || err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("%s, use %d: %v, want %v", u, as, err, want)
			}
		}
	}
}

func TestParams(t *testing.T) {
	u, err := Parse("ipfs:?peer=/a%26b&dht=off&peer=/c&peer=/c")
	if err != nil || !slices.Equal(u.Params("peer"), []string{"/a&b", "/c"}) || u.Params("relay") != nil {
		t.Errorf("%q, %v", u.Params("peer"), err)
	}
}

func TestMagnet(t *testing.T) {
	const link = "magnet:?xt=urn:btih:c12fe1c06bba254a9dc9f519b335aa7c1367a88a&dn=a&tr=http%3A%2F%2Fh%2Fa&ws=http%3A%2F%2Fh%2Fw&xs=http%3A%2F%2Fh%2Fx&x.pe=h:1"
	u, err := Parse(link)
	if err != nil || Magnet([]URL{{}, u}) != link {
		t.Errorf("%s, %v", Magnet([]URL{u}), err)
	}
	if m := Magnet([]URL{{scheme: schemeTorrent}}); m != "" {
		t.Errorf("a magnet link out of nothing: %s", m)
	}
}

func TestSchemes(t *testing.T) {
	names := Schemes()
	if !slices.Contains(names, "coap+tcp") || !slices.Contains(names, "file") {
		t.Errorf("schemes are %q", names)
	}
	for i, n := range names {
		if slices.Index(names, n) != i {
			t.Errorf("%s stands twice", n)
		}
	}
}

// FuzzParse: what is printed is read as the same, and shows no secret.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"http://127.0.0.1:8080?get&put", "https://me:pw@h/p/", "coap+tcp://[::1]:5683/secret?put",
		"coaps://h?identity=a%26b&key-file=/k", "ipfs+http://h:5001/api/v0", "file:///srv/a%20b", "file:///%3f%23",
		"magnet:?xt=urn:btih:c12fe1c06bba254a9dc9f519b335aa7c1367a88a&dn=x", "http://[fe80::1%25a]/", "coap://h/%E2%80%A6", "::", "a:b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := Parse(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		again, err := Parse(u.Full())
		if err != nil || !reflect.DeepEqual(u, again) {
			t.Fatalf("%q is printed as %q, which is read as %#v, not %#v (%v)", s, u.Full(), again, u, err)
		}
		if shown := u.String(); u.user != "" && strings.Contains(shown, u.user+"@") {
			t.Fatalf("%q shows its user", shown)
		}
	})
}
