package substitute_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/internal/substitute"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/n2r"
)

// isNar and isBlocks say what a request is for.
func isNar(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/nar/") }
func isBlocks(r *http.Request) bool {
	return r.URL.Path == n2r.BatchPath || r.URL.Path == n2r.BlockPath
}

func TestBlocksMixed(t *testing.T) {
	it := newItem(t, "big-1.0", tree(t, 3<<20), "zstd:3")
	a, b := newServer(t), newServer(t)
	a.add(t, it, key(t, 1))
	b.add(t, it, key(t, 1))
	// Each server lacks what the other has, but for the root.
	rc, err := eris.ParseURN(it.fields.ERIS)
	must(t, err)
	toA := false
	for ref := range it.blocks {
		if toA = !toA; ref == rc.Root {
			continue
		} else if toA {
			delete(b.blocks, ref)
		} else {
			delete(a.blocks, ref)
		}
	}
	m := newMachine(t, a.URL, b.URL)
	m.wantInstalled(m.substitute(it)[0], it)
	if m.source() != it.fields.ERIS {
		t.Errorf("source is %q, want the URN", m.source())
	}
	if a.count("POST /eris/blocks") == 0 || b.count("POST /eris/blocks") == 0 {
		t.Errorf("batches: %d and %d", a.count("POST"), b.count("POST"))
	}
}

func TestBlocksFromUnchangedN2RServer(t *testing.T) {
	it := newItem(t, "big-1.0", tree(t, 1<<20), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	server.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == n2r.BatchPath {
			http.NotFound(w, r)
			return true
		}
		return false
	})
	m := newMachine(t, server.URL)
	m.wantInstalled(m.substitute(it)[0], it)
	if m.source() != it.fields.ERIS || server.count("GET /uri-res/N2R") < len(it.blocks) {
		t.Errorf("source %q, %d single blocks of %d", m.source(), server.count("GET /uri-res/N2R"), len(it.blocks))
	}
}

func TestLyingBlocks(t *testing.T) {
	first := newItem(t, "first-1.0", tree(t, 2<<20), "zstd:3")
	second := newItem(t, "second-1.0", tree(t, 2<<20+1), "zstd:3")
	liar, honest := newServer(t), newServer(t)
	for _, it := range []*item{first, second} {
		liar.add(t, it, key(t, 1))
		honest.add(t, it, key(t, 1))
	}
	for ref, block := range liar.blocks {
		lie := bytes.Clone(block)
		lie[100] ^= 1
		liar.blocks[ref] = lie
	}
	liar.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if isBlocks(r) { // n2r.Handler does not lie
			serveUnverified(t, liar.blocks, w, r)
			return true
		}
		return false
	})
	m := newMachine(t, liar.URL, honest.URL)
	s := m.open()
	m.wantInstalled(m.substituteBy(s, first)[0], first)
	if liar.count("POST /eris/blocks") == 0 {
		t.Fatal("the liar was not asked")
	}
	if !strings.Contains(m.log.String(), liar.URL) || !strings.Contains(m.log.String(), "bytes do not match") {
		t.Errorf("the log does not name the liar:\n%s", m.log.String())
	}
	before := liar.count("POST /eris/blocks")
	reply := m.substituteBy(s, second)[0]
	if !strings.HasPrefix(reply, "success") || liar.count("POST /eris/blocks") != before {
		t.Errorf("%s; the liar was asked again: %d", reply, liar.count("POST /eris/blocks")-before)
	}
}

// serveUnverified answers a batch with whatever the map has.
func serveUnverified(t *testing.T, b blocks, w http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	_, err := body.ReadFrom(r.Body)
	must(t, err)
	w.Header().Set("Content-Type", "application/vnd.eris.blocks")
	for refs := body.Bytes(); len(refs) >= 32; refs = refs[32:] {
		block := b[eris.Ref(refs[:32])]
		w.Write([]byte{0, 0, byte(len(block) >> 8), byte(len(block))})
		w.Write(block)
	}
}

func TestBlocksDeadThenNar(t *testing.T) {
	for name, broken := range map[string]func(http.ResponseWriter, *http.Request){
		"missing": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"failing": func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusInternalServerError) },
		"closing": func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			it := newItem(t, "big-1.0", tree(t, 2<<20), "zstd:3")
			server := newServer(t)
			server.add(t, it, key(t, 1))
			server.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if isBlocks(r) {
					broken(w, r)
				}
				return isBlocks(r)
			})
			m := newMachine(t, server.URL)
			m.wantInstalled(m.substitute(it)[0], it)
			if want := server.URL + "/" + it.nars[0].URL; m.source() != want {
				t.Errorf("source is %q, want %q", m.source(), want)
			}
		})
	}
}

// TestBrokenNar: what is wrong with the nar of one server, another has right.
func TestBrokenNar(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 400_000), "zstd:3")
	file := it.files[it.nars[0].URL]
	for name, broken := range map[string]func(http.ResponseWriter, *http.Request){
		"truncated": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(file)))
			w.Write(file[:len(file)/2])
		},
		"short":   func(w http.ResponseWriter, r *http.Request) { w.Write(file[:len(file)/2]) },
		"missing": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"error":   func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusBadGateway) },
		"closed": func(w http.ResponseWriter, r *http.Request) {
			w.Write(file[:1000])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"stalled": func(w http.ResponseWriter, r *http.Request) {
			w.Write(file[:1000])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		},
		"silent":       func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"page":         func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>Sign in</html>") },
		"another nar":  func(w http.ResponseWriter, r *http.Request) { w.Write(otherNar(t)) },
		"garbage":      func(w http.ResponseWriter, r *http.Request) { w.Write(noise(len(file), 3)) },
		"more after":   func(w http.ResponseWriter, r *http.Request) { w.Write(append(bytes.Clone(file), 'x')) },
		"endless loop": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) },
		"too long": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(int64(1)<<40))
			w.Write(file)
		},
		"endless": func(w http.ResponseWriter, r *http.Request) { // frames without content
			for frame := []byte("\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"); r.Context().Err() == nil; {
				if _, err := w.Write(bytes.Repeat(frame, 1000)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad, good := newServer(t), newServer(t)
			bad.add(t, it, key(t, 1))
			good.add(t, it, key(t, 1))
			var asked atomic.Bool
			bad.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if isNar(r) {
					asked.Store(true)
					broken(w, r)
				}
				return isNar(r)
			})
			m := newMachine(t, bad.URL, good.URL)
			m.o.Stall = 300 * time.Millisecond
			m.wantInstalled(m.substitute(it)[0], it)
			if !asked.Load() {
				t.Error("the broken server was not asked")
			}
		})
	}
}

// TestOneMoreTry: the only server's connection breaks off once.
func TestOneMoreTry(t *testing.T) {
	for times, reply := range map[int]string{1: "success", 2: "not-found"} {
		it := newItem(t, "item-1.0", tree(t, 400_000), "zstd:3")
		it.fields.ERIS, it.fields.ERISFormat = "", ""
		server := newServer(t)
		server.add(t, it, key(t, 1))
		server.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if isNar(r) && server.count("GET /nar") <= times {
				w.Write(it.files[it.nars[0].URL][:200_000])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			return false
		})
		m := newMachine(t, server.URL)
		if got := m.substitute(it)[0]; !strings.HasPrefix(got, reply) {
			t.Errorf("broken off %d times: %q", times, got)
		}
	}
}

// TestIPFSAlone: no server has blocks or nars, the local daemon has.
func TestIPFSAlone(t *testing.T) {
	it := newItem(t, "big-1.0", tree(t, 2<<20), "zstd:3")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	clear(server.blocks)
	delete(server.files, it.nars[0].URL)
	byCID := map[string][]byte{}
	for ref, block := range it.blocks {
		byCID[ipfs.CID(ref)] = block
	}
	kubo := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		block, ok := byCID[r.FormValue("arg")]
		if r.URL.Path != "/api/v0/block/get" || !ok {
			http.Error(w, `{"Message":"not here"}`, http.StatusInternalServerError)
			return
		}
		w.Write(block)
	}))
	var open sync.WaitGroup // connections
	kubo.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Done()
		}
	}
	kubo.Start()
	defer kubo.Close()
	m := newMachine(t, server.URL)
	m.o.IPFS = kubo.URL
	s := m.start()
	m.wantInstalled(m.substituteBy(s, it)[0], it)
	must(t, s.Close())
	left := make(chan struct{})
	go func() {
		defer close(left)
		open.Wait()
	}()
	select {
	case <-left:
	case <-time.After(5 * time.Second):
		t.Error("connections are left, for which the daemon waits when it ends")
	}
	if m.source() != it.fields.ERIS {
		t.Errorf("source is %q, want the URN", m.source())
	}
	m.o.IPFS = "nonsense"
	if _, err := substitute.New(m.daemon, io.Discard, m.o); err == nil {
		t.Error("a daemon without an address is no error")
	}
}

// otherNar returns a sound nar of something else.
func otherNar(t *testing.T) []byte {
	it := newItem(t, "other-1.0", tree(t, 1000), "zstd:3")
	return it.files[it.nars[0].URL]
}

func TestHashMismatch(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1000), "zstd:3")
	it.fields.ERIS, it.fields.ERISFormat = "", ""
	it.fields.NarHash[0] ^= 1
	sound := newItem(t, "sound-1.0", tree(t, 2000), "none")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	server.add(t, sound, key(t, 1))
	m := newMachine(t, server.URL)
	replies := m.substitute(it, sound)
	if want := "hash-mismatch sha256 " + base32(it.fields.NarHash) + " " + base32(it.info.Hash); replies[0] != want {
		t.Errorf("reply %q, want %q", replies[0], want)
	}
	m.wantInstalled(replies[1], sound) // the process goes on
	m.wantMessage("not the signed " + base32(it.fields.NarHash))
}

func TestOpenEndedNar(t *testing.T) {
	// As a stock guix publish sends a live, uncompressed nar: without a
	// length, and the connection stays open.
	it := newItem(t, "item-1.0", tree(t, 100_000), "none")
	server := newServer(t)
	server.add(t, it, key(t, 1))
	server.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !isNar(r) {
			return false
		}
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		defer conn.Close()
		fmt.Fprint(buf, "HTTP/1.1 200 OK\r\nContent-Type: application/x-nix-archive\r\n\r\n")
		buf.Write(it.nar)
		buf.Flush()
		bufio.NewReader(conn).ReadByte() // until the client closes
		return true
	})
	m := newMachine(t, server.URL)
	m.o.Stall = time.Hour
	m.wantInstalled(m.substitute(it)[0], it)
}

func TestOrderOfNars(t *testing.T) {
	big := newItem(t, "big-1.0", tree(t, 2<<20), "gzip", "lzip:1", "zstd:3", "none")
	small := newItem(t, "small-1.0", tree(t, 10), "zstd:3", "lzip")
	big.fields.ERIS, big.fields.ERISFormat = "", ""
	small.nars[0].FileSize, small.nars[1].FileSize = 393, 374
	big.nars[0].FileSize, big.nars[1].FileSize, big.nars[2].FileSize = 700_000, 400_000, 500_000
	server := newServer(t)
	server.add(t, big, key(t, 1))
	server.add(t, small, key(t, 1))
	m := newMachine(t, server.URL)
	replies := m.substitute(big, small)
	for _, r := range replies {
		if !strings.HasPrefix(r, "success") {
			t.Errorf("reply %q", r)
		}
	}
	if server.count("GET /nar/zstd/"+big.path.Base()) != 1 {
		t.Error("of the big item, not the smallest nar that decompresses fast was asked for")
	}
	if server.count("GET /nar/lzip/"+small.path.Base()) != 1 {
		t.Error("of the small item, not the smallest nar was asked for")
	}
}

func TestFileSizeLies(t *testing.T) {
	for _, size := range []uint64{1, 1 << 62, 1<<64 - 1} {
		it := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
		it.fields.ERIS, it.fields.ERISFormat = "", ""
		it.nars[0].FileSize = size
		server := newServer(t)
		server.add(t, it, key(t, 1))
		m := newMachine(t, server.URL)
		m.wantInstalled(m.substitute(it)[0], it)
	}
}

func TestFileServer(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
	dir := t.TempDir()
	it.nars = append(it.nars, it.nars[0])
	it.nars[0].URL = "../outside"
	must(t, os.WriteFile(filepath.Join(dir, it.path.Hash+".narinfo"), it.narinfo(t, key(t, 1)), 0o644))
	must(t, os.MkdirAll(filepath.Join(dir, "nar/zstd"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, it.nars[1].URL), it.files[it.nars[1].URL], 0o644))
	m := newMachine(t, "file://"+dir+"/")
	m.wantInstalled(m.substitute(it)[0], it)
	if strings.Contains(m.source(), "outside") {
		t.Errorf("source is %q", m.source())
	}
	other := newItem(t, "other-1.0", tree(t, 30), "none")
	m.wantNothingBut(m.substitute(other)[0], "not-found", it)
}

func TestUncheckedTLS(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 2<<20), "zstd:3")
	plain := newServer(t)
	plain.add(t, it, key(t, 1))
	server := httptest.NewTLSServer(plain)
	defer server.Close()
	m := newMachine(t, server.URL)
	m.wantInstalled(m.substitute(it)[0], it)
}

func TestServerCannotLeadToFiles(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1000), "none")
	name := filepath.Join(t.TempDir(), "nar")
	must(t, os.WriteFile(name, it.nar, 0o644))
	it.fields.ERIS, it.fields.ERISFormat = "", ""
	it.nars[0].URL = "file://" + name
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	m.wantNothing(m.substitute(it)[0], "not-found")
	m.wantMessage("not followed")
}

func TestDecompressionBomb(t *testing.T) {
	it := newItem(t, "item-1.0", tree(t, 1000), "zstd:3")
	it.fields.ERIS, it.fields.ERISFormat = "", ""
	server := newServer(t)
	server.add(t, it, key(t, 1))
	// The start of a nar that holds a file of 1 TiB, of zeros.
	head := narString("nix-archive-1") + narString("(") +
		narString("type") + narString("regular") + narString("contents") + "\x00\x00\x00\x00\x00\x01\x00\x00"
	bomb := compressed(t, append([]byte(head), make([]byte, 8<<20)...), compress.Method{Name: "zstd", Level: 3})
	server.set(it.nars[0].URL, bomb)
	m := newMachine(t, server.URL)
	m.wantNothing(m.substitute(it)[0], "not-found")
	m.wantMessage("goes beyond the archive")
}

// narString returns a string as nars have it.
func narString(s string) string {
	return string(rune(len(s))) + strings.Repeat("\x00", 7) + s + strings.Repeat("\x00", (8-len(s)%8)%8)
}

func TestHostileNar(t *testing.T) {
	// Well signed, and with the right hash: the builder is the attacker.
	archive := narString("nix-archive-1") + narString("(") + narString("type") + narString("directory") +
		narString("entry") + narString("(") + narString("name") + narString("..") + narString("node") +
		narString("(") + narString("type") + narString("symlink") + narString("target") + narString("/etc") + narString(")") +
		narString(")") + narString(")")
	it := narItem(t, "hostile-1.0", []byte(archive), sha256Sum(archive), "none")
	it.fields.ERIS, it.fields.ERISFormat = "", ""
	server := newServer(t)
	server.add(t, it, key(t, 1))
	m := newMachine(t, server.URL)
	m.wantNothing(m.substitute(it)[0], "not-found")
	m.wantMessage(`".."`)
}

// TestNextItem: what one process knows of a server, and its connections to it,
// serve for the next item.
func TestNextItem(t *testing.T) {
	srv := newServer(t)
	m := newMachine(t, srv.URL)
	s := m.open()
	var requests []int
	for k := range 4 {
		it := newItem(t, "item", tree(t, 3<<20+k), "none")
		srv.add(t, it, key(t, 1))
		before := srv.count("POST " + n2r.BatchPath)
		if reply := m.substituteBy(s, it)[0]; !strings.HasPrefix(reply, "success ") {
			t.Fatal(reply)
		}
		requests = append(requests, srv.count("POST "+n2r.BatchPath)-before)
	}
	if requests[1] >= requests[0] {
		t.Errorf("requests for blocks of items of one size: %d", requests)
	}
	if n := srv.accepts.Load(); n > 7 { // four at once, some that a busy machine has cut
		t.Errorf("%d connections", n)
	}
}
