package bittorrent_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"expvar"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/torrent"
	"ersatz/internal/transport/bittorrent"
	"ersatz/internal/transport/bittorrent/trackertest"
)

// stranger is a peer that says what a test wants.
type stranger struct {
	net.Conn
	r *bufio.Reader
}

// call connects to a client about a torrent.
func call(t *testing.T, addr string, h [20]byte) *stranger {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	s := &stranger{conn, bufio.NewReader(conn)}
	hello := append([]byte("\x13BitTorrent protocol"), 0, 0, 0, 0, 0, 0x10, 0, 4)
	hello = fmt.Appendf(append(hello, h[:]...), "-NO0001-%012d", time.Now().UnixNano()%1e12)
	if _, err := conn.Write(hello); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s.r, make([]byte, 68)); err != nil {
		t.Fatal(err)
	}
	return s
}

// extension is an extended message.
func extension(id byte, body string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+2)), append([]byte{20, id}, body...)...)
}

// next returns the next message, with its type; nil at the end.
func (s *stranger) next() []byte {
	var n [4]byte
	if _, err := io.ReadFull(s.r, n[:]); err != nil {
		return nil
	}
	b := make([]byte, binary.BigEndian.Uint32(n[:]))
	if _, err := io.ReadFull(s.r, b); err != nil {
		return nil
	}
	return b
}

// TestTrackerLies has a tracker give answers that would end the program, and
// another that is honest.
func TestTrackerLies(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(bytes.Repeat([]byte("l"), 16<<20))
	z.Close()
	tr := makeTree(t, eris.Size32KiB, 500_000)
	for name, answer := range map[string]string{
		"a peer without an address": "d8:intervali60e5:peersld4:porti1eeee",
		"a short address":           "d8:intervali60e5:peers5:abcde6:peers61:xe",
		"nested":                    strings.Repeat("l", 100_000),
		"nested and packed":         bomb.String(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan struct{})
			var once sync.Once
			bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(answer, "\x1f") {
					w.Header().Set("Content-Encoding", "gzip")
				}
				io.WriteString(w, answer)
				once.Do(func() { close(asked) })
			}))
			defer bad.Close()
			good := trackertest.Start(t)
			link := magnet(tr.info(t), func(m *torrent.Magnet) { m.Trackers = []string{bad.URL, good.URL} })
			seed(t, tr, link, bittorrent.Options{})
			within(t, 10*time.Second, "it is at the honest one", func() bool { return good.Seeds(tr.info(t).Hash()) == 1 })
			<-asked
			wants(t, open(t, start(t, bittorrent.Options{}), tr, link), tr, tr.every()...)
		})
	}
}

// TestTrackerForgets: what is taken back is so at the tracker.
func TestTrackerForgets(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 500_000)
	at := trackertest.Start(t)
	link := magnet(tr.info(t), func(m *torrent.Magnet) { m.Trackers = []string{at.URL} })
	c, _ := seed(t, tr, link, bittorrent.Options{})
	within(t, 10*time.Second, "it is there", func() bool { return at.Seeds(tr.info(t).Hash()) == 1 })
	if err := c.Withdraw(t.Context(), shared(tr, link)); err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "it is gone", func() bool { return at.Peers(tr.info(t).Hash()) == 0 })
}

// TestReopen opens a content while it is closed, and while its seed is taken
// back: the session works.
func TestReopen(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 300_000)
	_, addr := seed(t, tr, magnet(tr.info(t)), bittorrent.Options{})
	link := magnet(tr.info(t), peer(addr))
	c := start(t, bittorrent.Options{})
	for range 20 {
		s := open(t, c, tr, link)
		wants(t, s, tr, 1)
		go s.Close()
		s = open(t, c, tr, link)
		wants(t, s, tr, 2)
		s.Close()
		if err := c.Offer(t.Context(), shared(tr, link), tr.open); err != nil {
			t.Fatal(err)
		}
		go c.Withdraw(t.Context(), shared(tr, link))
		var again block.Session
		within(t, 5*time.Second, "it may be fetched", func() bool {
			again = c.Open(block.Wanted{ReadCap: tr.cap, Magnet: link, Where: tr.where})
			return again != nil
		})
		wants(t, again, tr, 3)
		again.Close()
	}
	if s := c.Open(block.Wanted{ReadCap: tr.cap, Magnet: "magnet:?xt=urn:btih:" + strings.Repeat("0", 40), Where: tr.where}); s != nil {
		t.Error("a session without an info hash")
	}
}

// TestFlood has a stranger ask for metadata again and again who does not read what
// comes: it is not kept for him.
func TestFlood(t *testing.T) {
	t.Parallel()
	shape := eris.NewShape(eris.Size32KiB, 1<<29)
	c := eris.ReadCap{Size: eris.Size32KiB, Level: uint8(shape.Level()), Root: eris.Ref{1}}
	length := shape.Nodes() * int64(eris.Size32KiB)
	big := imagined{cap: c, info: torrent.Info{Name: torrent.Name(c.Root), Length: length, Pieces: make([]byte, 20*((length-1)/torrent.PieceLength+1))}}
	seeder := start(t, bittorrent.Options{Listen: "127.0.0.1:0"})
	err := seeder.Offer(t.Context(), block.Shared{ReadCap: c, Magnet: magnet(big.info)}, func(context.Context) (block.Content, error) { return big, nil })
	if err != nil {
		t.Fatal(err)
	}
	s := call(t, seeder.Addr().String(), big.info.Hash())
	s.Write(extension(0, "d1:md11:ut_metadatai2eee"))
	const times = 2000
	for range times {
		if _, err := s.Write(extension(2, "d8:msg_typei0e5:piecei0ee")); err != nil {
			t.Fatal(err)
		}
	}
	s.SetReadDeadline(time.Now().Add(time.Second))
	n := 0
	for m := s.next(); m != nil; m = s.next() {
		if len(m) > 1<<14 {
			n++
		}
	}
	if most := (len(big.info.Bytes())+3*64<<10)/(16<<10) + 1; n == 0 || n > most {
		t.Errorf("%d answers, want at most %d", n, most)
	}
}

// TestHandshakes has a stranger say many handshakes of extensions: it counts as one
// peer at one address, and the names are not kept.
func TestHandshakes(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 500_000)
	h := tr.info(t).Hash()
	_, addr := seed(t, tr, magnet(tr.info(t)), bittorrent.Options{})
	const name = "strange_extension"
	bad := call(t, addr, h)
	for i := range 200 {
		if _, err := bad.Write(extension(0, fmt.Sprintf("d1:md6:ut_pexi1e%d:%s%03di9ee1:pi%dee", len(name)+3, name, i, 1000+i))); err != nil {
			t.Fatal(err)
		}
	}
	bad.Write(extension(2, "d8:msg_typei0e5:piecei0ee")) // so that all before was dealt with
	bad.Write([]byte{0, 0, 0, 13, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0})
	for m := bad.next(); m == nil || m[0] != 7; m = bad.next() {
		if m == nil {
			t.Fatal("it hangs up")
		}
	}
	other := call(t, addr, h)
	other.Write(extension(0, "d1:md6:ut_pexi7eee"))
	for {
		m := other.next()
		if m == nil {
			t.Fatal("nobody is told of")
		}
		if m[0] != 20 || m[1] != 7 {
			continue
		}
		if !bytes.Contains(m, []byte("5:added6:")) && !bytes.Contains(m, []byte("5:added12:")) {
			t.Errorf("told of %.300q", m)
		}
		break
	}
	expvar.Do(func(kv expvar.KeyValue) {
		if strings.Contains(kv.Value.String(), name) {
			t.Errorf("%s remembers what a stranger said", kv.Key)
		}
	})
}

// TestNested hangs up on extended messages that no program sends.
func TestNested(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 500_000)
	_, addr := seed(t, tr, magnet(tr.info(t)), bittorrent.Options{})
	for name, body := range map[string]string{
		"handshake": "d1:x" + strings.Repeat("l", 20_000) + strings.Repeat("e", 20_001),
		"metadata":  strings.Repeat("l", 40_000),
	} {
		s := call(t, addr, tr.info(t).Hash())
		s.Write(extension(map[string]byte{"handshake": 0, "metadata": 2}[name], body))
		for s.next() != nil {
		}
		if _, err := s.r.ReadByte(); err == nil {
			t.Errorf("%s: it goes on", name)
		}
	}
}

// TestCrowded has one address take what it can of a torrent's connections.
func TestCrowded(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 500_000)
	_, addr := seed(t, tr, magnet(tr.info(t)), bittorrent.Options{})
	left := 0
	for i := range 20 {
		s := call(t, addr, tr.info(t).Hash())
		if i >= 8 {
			for s.next() != nil { // it is hung up on
				left++
			}
		}
	}
	if left > 12*8 {
		t.Errorf("they are told %d messages", left)
	}
}
