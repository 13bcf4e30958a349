package torrent_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"ersatz/internal/torrent"
)

const hash = "a1b2c3d4e5f60718293a4b5c6d7e8f9001020304"

var hashBytes = [20]byte{0xa1, 0xb2, 0xc3, 0xd4, 0xe5, 0xf6, 0x07, 0x18, 0x29, 0x3a, 0x4b, 0x5c, 0x6d, 0x7e, 0x8f, 0x90, 1, 2, 3, 4}

func TestMagnet(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want torrent.Magnet
		out  string // "": as in
	}{
		{"magnet:?xt=urn:btih:" + hash, torrent.Magnet{Hash: hashBytes}, ""},
		{"magnet:?xt=urn:btih:" + hash + "&dn=NAME&tr=http%3A%2F%2Ft%2Fa%3Fk%3D1%262&ws=https%3A%2F%2Fw%2F&xs=http%3A%2F%2Fx%2Fy.torrent&x.pe=[::1]:6881&x.pe=h-1.example:1",
			torrent.Magnet{Hash: hashBytes, Name: "NAME", Trackers: []string{"http://t/a?k=1&2"}, WebSeeds: []string{"https://w/"},
				Sources: []string{"http://x/y.torrent"}, Peers: []string{"[::1]:6881", "h-1.example:1"}}, ""},
		// As others write it: any order, upper case, Base32, what is unknown.
		{"magnet:?dn=a+b&xl=5&xt=urn:btih:" + strings.ToUpper(hash) + "&xt=urn:btmh:1220ab&tr=udp://t:80", torrent.Magnet{Hash: hashBytes, Name: "a b", Trackers: []string{"udp://t:80"}},
			"magnet:?xt=urn:btih:" + hash + "&dn=a+b&tr=udp%3A%2F%2Ft%3A80"},
		{"magnet:?xt=urn:btih:UGZMHVHF6YDRQKJ2JNOG27UPSAAQEAYE&x.pe=127.0.0.1%3A6881", torrent.Magnet{Hash: hashBytes, Peers: []string{"127.0.0.1:6881"}},
			"magnet:?xt=urn:btih:" + hash + "&x.pe=127.0.0.1:6881"},
		// Nothing that could be asked.
		{"magnet:?xt=urn:btih:" + hash + "&tr=wss://t&ws=file:///etc/passwd&ws=udp://w&xs=http:///x&ws=http://u:p@h/&tr=//&x.pe=:1&x.pe=a:0&x.pe=a:70000&x.pe=a/b:1&x.pe=[fe80::1%25eth0]:1&x.pe=a%0A:1",
			torrent.Magnet{Hash: hashBytes}, "magnet:?xt=urn:btih:" + hash},
		{"magnet:?xt=urn:btih:" + hash + "&tr=http://t&tr=http://t&xt=urn:btih:" + hash, torrent.Magnet{Hash: hashBytes, Trackers: []string{"http://t"}},
			"magnet:?xt=urn:btih:" + hash + "&tr=http%3A%2F%2Ft"},
	} {
		m, err := torrent.ParseMagnet(tt.in)
		if err != nil || !reflect.DeepEqual(m, tt.want) {
			t.Errorf("%s: %+v, %v", tt.in, m, err)
		}
		if tt.out == "" {
			tt.out = tt.in
		}
		if got := m.String(); got != tt.out {
			t.Errorf("%s: printed as\n%s", tt.in, got)
		}
	}
}

func TestMagnetRefuses(t *testing.T) {
	var many strings.Builder
	for i := range torrent.MaxSources + 1 {
		fmt.Fprintf(&many, "&tr=http://t%d", i)
	}
	for name, text := range map[string]string{
		"nothing":           "",
		"another scheme":    "http://?xt=urn:btih:" + hash,
		"no hash":           "magnet:?dn=x",
		"another network's": "magnet:?xt=urn:sha1:" + hash,
		"a short hash":      "magnet:?xt=urn:btih:" + hash[:39],
		"not hexadecimal":   "magnet:?xt=urn:btih:" + "g" + hash[1:],
		"not Base32":        "magnet:?xt=urn:btih:" + strings.Repeat("1", 32),
		"two hashes":        "magnet:?xt=urn:btih:" + hash + "&xt=urn:btih:b" + hash[1:],
		"a bad escape":      "magnet:?xt=urn:btih:" + hash + "&dn=%x",
		"many trackers":     "magnet:?xt=urn:btih:" + hash + many.String(),
		"a long text":       "magnet:?xt=urn:btih:" + hash + "&dn=" + strings.Repeat("x", torrent.MaxMagnet),
	} {
		if m, err := torrent.ParseMagnet(text); !errors.Is(err, torrent.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

// FuzzParseMagnet: what is printed of what was read reads as the same.
func FuzzParseMagnet(f *testing.F) {
	for _, s := range []string{
		"magnet:?xt=urn:btih:" + hash + "&dn=N&tr=http%3A%2F%2Ft%2Fa&ws=https%3A%2F%2Fw&xs=http%3A%2F%2Fx",
		"magnet:?xt=urn:btih:UGZMHVHF6YDRQKJ2JNOG27UPSAAQEAYE&x.pe=127.0.0.1:6881&x.pe=[::1]:2",
		"magnet:?dn=%00%ff+&xt=urn:btih:" + hash + "&xt=urn:x&&=&tr=udp://[::1]:9/a%20b",
		"magnet:?", "magnet:?xt=urn:btih:" + hash + "&x.pe=a.b-c:65535&tr=http://h/%2520",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := torrent.ParseMagnet(s)
		if err != nil {
			if !errors.Is(err, torrent.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if len(m.String()) > torrent.MaxMagnet {
			return // escapes make it longer
		}
		again, err := torrent.ParseMagnet(m.String())
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v\nprints as %s\nwhich reads as %+v, %v", m, m, again, err)
		}
	})
}
