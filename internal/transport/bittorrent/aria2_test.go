package bittorrent_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/torrent"
	"ersatz/internal/transport/bittorrent"
	"ersatz/internal/transport/bittorrent/trackertest"
)

// aria2 is aria2c in a folder.
type aria2 struct {
	dir  string
	out  bytes.Buffer
	done chan error
}

// startAria2 starts Debian's aria2c on loopback with nothing but what args say.
func startAria2(t *testing.T, dir string, args ...string) *aria2 {
	t.Helper()
	program, err := exec.LookPath("aria2c")
	if err != nil {
		t.Skip("no aria2c")
	}
	a := &aria2{dir: dir, done: make(chan error, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	cmd := exec.CommandContext(ctx, program, append([]string{"--no-conf", "--dir=" + dir, "--enable-dht=false", "--enable-dht6=false",
		"--bt-enable-lpd=false", "--enable-peer-exchange=false", "--listen-port=" + freePort(t), "--file-allocation=none",
		"--allow-overwrite=true", "--summary-interval=0", "--bt-tracker-connect-timeout=5"}, args...)...)
	cmd.Stdout, cmd.Stderr = &a.out, &a.out
	cmd.Env = append(os.Environ(), "HOME="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		a.done <- cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if t.Failed() {
			t.Logf("aria2c:\n%s", a.out.String())
		}
	})
	return a
}

// wait waits for the end of aria2c, and compares what it has.
func (a *aria2) wait(t *testing.T, name string, want []byte) {
	t.Helper()
	if err := <-a.done; err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(a.dir, name)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// TestAria2Downloads has aria2c get contents from us by a magnet link and a
// tracker: metadata, and all pieces.
func TestAria2Downloads(t *testing.T) {
	t.Parallel()
	for _, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
		t.Run(size.String(), func(t *testing.T) {
			t.Parallel()
			tr := makeTree(t, size, 3_000_000)
			info := tr.info(t)
			tracker := trackertest.Start(t)
			link := magnet(info, func(m *torrent.Magnet) { m.Trackers = []string{tracker.URL} })
			seed(t, tr, link, bittorrent.Options{})
			within(t, 10*time.Second, "we are at the tracker", func() bool { return tracker.Seeds(info.Hash()) == 1 })
			startAria2(t, t.TempDir(), "--seed-time=0", link).wait(t, info.Name, tr.file(t))
		})
	}
}

// TestAria2Seeds has aria2c seed a file, with its pieces hashed by it, and us get
// blocks of it.
func TestAria2Seeds(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 5_000_000)
	info := tr.info(t)
	tracker := trackertest.Start(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, info.Name), tr.file(t))
	write(t, filepath.Join(dir, "x.torrent"), info.Metainfo([]string{tracker.URL}, nil))
	startAria2(t, dir, "--seed-ratio=0", "--check-integrity=true", filepath.Join(dir, "x.torrent"))
	within(t, 20*time.Second, "aria2c is at the tracker", func() bool { return tracker.Peers(info.Hash()) == 1 })
	c := start(t, bittorrent.Options{Trackers: []string{tracker.URL}})
	s := open(t, c, tr, magnet(info))
	wants(t, s, tr, 3, 100, 99, int64(len(tr.refs))-1)
	wants(t, s, tr, tr.every()...)
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// webServer is what publish answers about a torrent. It counts the bytes of
// blocks that it gave.
type webServer struct {
	*httptest.Server
	given, metadata atomic.Int64
	fault           atomic.Pointer[func(http.ResponseWriter, *http.Request) bool] // true: it has answered
}

func startWebServer(t testing.TB, info torrent.Info, file []byte) *webServer {
	t.Helper()
	s := &webServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := s.fault.Load(); f != nil && (*f)(w, r) {
			return
		}
		switch r.URL.Path {
		case "/eris/torrent/" + info.Name:
			http.ServeContent(counting{w, &s.given}, r, "", time.Time{}, bytes.NewReader(file))
		case "/eris/torrent/" + info.Name + ".torrent":
			s.metadata.Add(1)
			w.Write(info.Metainfo(nil, nil))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c counting) Write(b []byte) (int, error) {
	c.n.Add(int64(len(b)))
	return c.ResponseWriter.Write(b)
}

// TestAria2WebSeed has aria2c get all from a web seed, which is what publish is.
func TestAria2WebSeed(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 3_000_000)
	info := tr.info(t)
	srv := startWebServer(t, info, tr.file(t))
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x.torrent"), info.Metainfo(nil, []string{srv.URL + "/eris/torrent/" + info.Name}))
	startAria2(t, dir, "--seed-time=0", filepath.Join(dir, "x.torrent")).wait(t, info.Name, tr.file(t))
	if srv.given.Load() < info.Length {
		t.Errorf("the web seed gave %d bytes of %d", srv.given.Load(), info.Length)
	}
}

// TestAria2DHT has aria2c find us by the DHT, with a node of ours that both know.
func TestAria2DHT(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 1_000_000)
	info := tr.info(t)
	node := start(t, bittorrent.Options{Listen: "127.0.0.1:0", DHT: true, Bootstrap: []string{deaf(t)}})
	entry := node.Addr().String()
	seed(t, tr, magnet(info), bittorrent.Options{DHT: true, Bootstrap: []string{entry}})
	a := startAria2(t, t.TempDir(), "--enable-dht=true", "--dht-listen-port="+freePort(t), "--dht-entry-point="+entry,
		"--dht-file-path="+filepath.Join(t.TempDir(), "dht.dat"), "--seed-time=0", fmt.Sprintf("magnet:?xt=urn:btih:%x", info.Hash()))
	a.wait(t, info.Name, tr.file(t))
}
