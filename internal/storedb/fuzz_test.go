package storedb

import (
	"bufio"
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"ersatz/internal/wire"
	"ersatz/storepath"
)

// tape is a connection whose other end has said everything already.
type tape struct {
	net.Conn // for the methods that nothing calls
	said     *bytes.Reader
}

func (t *tape) Read(p []byte) (int, error) { return t.said.Read(p) }
func (*tape) Write(p []byte) (int, error)  { return len(p), nil }
func (*tape) Close() error                 { return nil }
func (*tape) SetDeadline(time.Time) error  { return nil }

// FuzzDaemon: whatever the daemon answers, there is an end, no panic, and no
// item outside the store.
func FuzzDaemon(f *testing.F) {
	const store = "/gnu/store/"
	last := wire.AppendUint64(nil, stderrLast)
	text := func(b []byte, s string) []byte { return wire.AppendString(bytes.Clone(b), s) }
	number := func(b []byte, n uint64) []byte { return wire.AppendUint64(bytes.Clone(b), n) }
	one := text(number(text(text(last, ""), strings.Repeat("0f", 32)), 1), store+strings.Repeat("a", 32)+"-dep")
	seeds := [][]byte{
		nil, last, text(last, ""), text(last, store+strings.Repeat("b", 32)+"-x"), text(last, "/etc/passwd"),
		number(number(one, 1), 2), number(text(number(nil, stderrError), "not valid"), 1), number(text(number(nil, stderrError), "x"), 1),
		append(text(number(nil, stderrNext), "message"), last...), bytes.Repeat([]byte{0xff}, 64),
		number(last, 0), text(number(number(number(append(number(last, 1), one[8:]...), 1), 2), 0), ""),
	}
	if len(seeds) != 12 {
		f.Fatalf("%d seeds", len(seeds))
	}
	for _, s := range seeds {
		f.Add(s)
	}
	p, err := storepath.Parse(store + strings.Repeat("b", 32) + "-x")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		open := func(nix bool) *DB {
			conn := &tape{said: bytes.NewReader(b)}
			buf := bufio.NewWriter(conn)
			return &DB{storepath.Guix, "daemon", &socketDB{
				path: "/nonexistent", conn: conn, nix: nix, buf: buf, r: wire.NewReader(conn), w: wire.NewWriter(buf),
			}}
		}
		if p, err := open(false).ByHash(t.Context(), p.Hash); err == nil && p.Dir != storepath.Guix {
			t.Fatalf("an item of %s", p.Dir)
		}
		for _, nix := range []bool{false, true} {
			info, err := open(nix).Info(t.Context(), p)
			if err != nil {
				continue
			}
			for _, r := range info.References {
				if r.Dir != storepath.Guix {
					t.Fatalf("a reference to %s", r)
				}
			}
		}
	})
}
