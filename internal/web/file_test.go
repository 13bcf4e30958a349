package web

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// shelf answers for the files of a folder at once, and for all else by way of
// net/http.
type shelf struct {
	folder *Folder
	sent   atomic.Int64
	open   atomic.Int32 // answers that are not over
	on     func()       // is called when something was sent
}

func (s *shelf) Quick(r Request) (Answer, bool) {
	f, err := s.folder.Open(string(r.Path[1:]))
	if err != nil {
		return Answer{}, false
	}
	n := f.Size()
	if start, part, ok := Span(r.Range, n); ok {
		f.Part(start, part)
		n = part
	}
	s.open.Add(1)
	h := http.Header{"Content-Length": {fmt.Sprint(n)}}
	return Answer{Head: AnswerHead(http.StatusOK, h), File: f, Meter: s}, true
}

func (s *shelf) Done() { s.open.Add(-1) }
func (s *shelf) Sent(n int) {
	s.sent.Add(int64(n))
	if s.on != nil {
		s.on()
	}
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	Send(w, r, http.StatusOK, "text/plain", []byte(r.URL.Path))
}

// newShelf returns the files of a folder. It checks in the end that each answer
// is over and its file closed.
func newShelf(t *testing.T, files map[string][]byte) *shelf {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	folder, err := OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{folder: folder}
	t.Cleanup(func() {
		if n := s.open.Load(); n != 0 {
			t.Errorf("%d answers are not over", n)
		}
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Error(err)
		}
		for _, fd := range fds {
			if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(to, dir+"/") {
				t.Errorf("%s is still open", to)
			}
		}
		if err := folder.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// serve serves the files at a listener, and returns what ends that.
func (s *shelf) serve(t *testing.T, l net.Listener) (end func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ServeQuick(ctx, []net.Listener{l}, s, s, slog.New(slog.DiscardHandler)) }()
	return sync.OnceValue(func() error {
		cancel()
		return <-done
	})
}

// dial serves the files over TCP.
func (s *shelf) dial(t *testing.T) *client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	end := s.serve(t, l)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	return &client{conn, bufio.NewReader(conn), end}
}

// pipe serves the files over a pipe, in a bubble: without sendfile.
func (s *shelf) pipe(t *testing.T, test func(*testing.T, *client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q := queue{make(chan net.Conn), make(chan struct{})}
		out, in := net.Pipe()
		defer out.Close()
		end := s.serve(t, q)
		q.conns <- pipe{in}
		test(t, &client{out, bufio.NewReader(out), end})
		if err := end(); err != nil {
			t.Error(err)
		}
	})
}

func pattern(n int) []byte { return bytes.Repeat([]byte("0123456789abcde"), n/15+1)[:n] }

// TestFiles: files are sent whole, between other answers, whether requests come
// one by one or at once, by sendfile and without.
func TestFiles(t *testing.T) {
	files := map[string][]byte{"empty": {}, "byte": {1}, "small": pattern(20_000), "piece": pattern(Piece), "large": pattern(5*Piece + 7)}
	s := newShelf(t, files)
	files["none"] = []byte("/none")
	sum := int64(0)
	all := func(t *testing.T, c *client, order ...string) {
		var text strings.Builder
		for _, name := range order {
			text.WriteString(get("/" + name))
			if name != "none" {
				sum += int64(len(files[name]))
			}
		}
		go io.WriteString(c, text.String())
		for _, name := range order {
			c.want(t, string(files[name]))
		}
	}
	t.Run("tcp", func(t *testing.T) {
		c := s.dial(t)
		order := []string{"byte", "small", "none", "large", "empty", "piece", "byte", "none", "small"}
		all(t, c, order...)
		for _, name := range order {
			all(t, c, name)
		}
	})
	t.Run("pipe", func(t *testing.T) {
		// To look out for the end of the client while net/http answers, a lane needs a socket.
		s.pipe(t, func(t *testing.T, c *client) { all(t, c, "byte", "small", "large", "empty", "piece", "none") })
	})
	if n := s.sent.Load(); n != sum {
		t.Errorf("%d bytes counted of %d", n, sum)
	}
}

// TestFileParts: a part is sent and no more, by sendfile, in the packet of the
// head, and without sendfile.
func TestFileParts(t *testing.T) {
	data := pattern(5*Piece + 7)
	s := newShelf(t, map[string][]byte{"file": data})
	sum := 0
	all := func(t *testing.T, c *client) {
		for _, part := range []struct{ from, n int }{
			{0, 1}, {1, small}, {2, small + 1}, {3, Piece}, {4, Piece + 1}, {5, 3*Piece - 1}, {Piece + 7, 4 * Piece}, {5*Piece + 6, 1}, {0, len(data)},
		} {
			go io.WriteString(c, get("/file", fmt.Sprintf("Range: bytes=%d-%d", part.from, part.from+part.n-1))+get("/file", "Range: bytes=-3"))
			c.want(t, string(data[part.from:part.from+part.n]))
			c.want(t, string(data[len(data)-3:]))
			sum += part.n + 3
		}
	}
	t.Run("tcp", func(t *testing.T) { all(t, s.dial(t)) })
	t.Run("pipe", func(t *testing.T) { s.pipe(t, all) })
	if n := s.sent.Load(); n != int64(sum) {
		t.Errorf("%d bytes counted of %d", n, sum)
	}
}

// TestFilesBatch: a small file is written with its head, and what is held for a
// client that does not read stays within a bound.
func TestFilesBatch(t *testing.T) {
	s := newShelf(t, map[string][]byte{"tiny": pattern(1000), "small": pattern(small), "large": pattern(small + 1)})
	in, out := net.Pipe()
	defer in.Close()
	c := &lane{stream: pipe{in}, quick: &quickly{Quick: s}, between: true}
	var text strings.Builder
	for range 10 {
		text.WriteString(strings.Repeat(get("/tiny"), 20) + get("/small") + get("/small") + get("/tiny") + get("/large"))
	}
	done := make(chan error, 1)
	go func() {
		defer out.Close()
		used, _, err := c.answer([]byte(text.String()))
		if used != text.Len() {
			t.Errorf("%d bytes of %d", used, text.Len())
		}
		in.Close()
		done <- err
	}()
	sum, writes, p := 0, 0, make([]byte, 4*small)
	for {
		n, err := out.Read(p) // of a pipe, all that one write has
		if err != nil {
			break
		}
		if sum, writes = sum+n, writes+1; n > small+1000 {
			t.Errorf("a write of %d bytes", n)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	// 20 tiny ones, each small one, a tiny one, the head of the large one, which is copied here by two.
	if want := 10 * (2 + 2 + 3); sum < 10*(21*1000+3*small) || writes > want {
		t.Errorf("%d bytes in %d writes, want %d", sum, writes, want)
	}
}

// TestFileAborted: of a client that asks for much at once, reads some of it and
// goes away, nothing stays: newShelf looks for it.
func TestFileAborted(t *testing.T) {
	s := newShelf(t, map[string][]byte{"small": pattern(small), "large": pattern(40 * Piece)})
	for _, read := range []int64{0, 1, small, 2 * Piece} {
		c := s.dial(t)
		c.send(t, strings.Repeat(get("/small")+get("/large", "Range: bytes=9-")+get("/small", "Range: bytes=-9"), 20))
		if _, err := io.CopyN(io.Discard, c.r, read); err != nil {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := c.end(); err != nil {
			t.Error(err)
		}
	}
	if n, most := s.sent.Load(), int64(4*20*(41*Piece)); n >= most {
		t.Errorf("%d bytes sent to nobody", n)
	}
}

// TestFileUnread: who reads a piece within Stall gets all of a file, however
// long that takes; who does not is cut off.
func TestFileUnread(t *testing.T) {
	s := newShelf(t, map[string][]byte{"large": pattern(10 * Piece)})
	s.pipe(t, func(t *testing.T, c *client) {
		c.send(t, get("/large"))
		res, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			time.Sleep(Stall - time.Second)
			if _, err := io.CopyN(io.Discard, res.Body, Piece); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(Stall + time.Second)
		n, err := io.Copy(io.Discard, res.Body)
		if !errors.Is(err, io.ErrUnexpectedEOF) || n >= 2*Piece {
			t.Errorf("%d bytes more, %v", n, err)
		}
	})
}

// TestFilesUnread: who asks for many small files at once has time to read each, as
// who asks for them one by one.
func TestFilesUnread(t *testing.T) {
	data := pattern(small)
	s := newShelf(t, map[string][]byte{"small": data})
	s.pipe(t, func(t *testing.T, c *client) {
		c.send(t, strings.Repeat(get("/small"), 20))
		for range 20 {
			time.Sleep(Stall/2 - time.Second)
			c.want(t, string(data))
		}
	})
}

// TestFileEnds: when the server ends, a file that is being sent has as long as
// other answers have, and no more; however old the connection is.
func TestFileEnds(t *testing.T) {
	data := pattern(10 * Piece)
	s := newShelf(t, map[string][]byte{"byte": []byte("b"), "large": data})
	for _, c := range []struct{ before, pause time.Duration }{
		{0, graceTime / 20}, {time.Minute, graceTime / 20}, {0, graceTime}, {time.Minute, graceTime / 5},
	} {
		s.pipe(t, func(t *testing.T, client *client) {
			client.send(t, get("/byte"))
			client.want(t, "b")
			time.Sleep(c.before)
			client.send(t, get("/large"))
			res, err := http.ReadResponse(client.r, nil)
			if err != nil {
				t.Fatal(err)
			}
			begin, over := time.Now(), make(chan time.Duration, 1)
			go func() {
				if err := client.end(); err != nil {
					t.Error(err)
				}
				over <- time.Since(begin)
			}()
			var got bytes.Buffer
			for err == nil {
				time.Sleep(c.pause)
				_, err = io.CopyN(&got, res.Body, Piece)
			}
			if !bytes.HasPrefix(data, got.Bytes()) {
				t.Error("other bytes")
			}
			whole, took := got.Len() == len(data), <-over
			if want := 10*c.pause < graceTime; whole != want || took > graceTime || whole == errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%v later, a piece each %v: whole %v after %v, %v", c.before, c.pause, whole, took, err)
			}
		})
	}
}

// TestFileCutShort: where a file becomes shorter while it is sent, the
// connection ends, so that the client knows.
func TestFileCutShort(t *testing.T) {
	for name, send := range map[string]func(*lane, Answer) error{
		"sendfile": func(c *lane, a Answer) error { return c.writeFile(nil, a) },
		"copied":   func(c *lane, a Answer) error { return c.copyFile(nil, a) },
		"read": func(_ *lane, a Answer) error {
			b, err := a.appendFile(nil)
			if string(b) != string(pattern(1000)) {
				t.Errorf("%d bytes", len(b))
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t, map[string][]byte{"file": pattern(1000)})
			a, ok := s.Quick(Request{Path: []byte("/file")})
			if !ok {
				t.Fatal("no file")
			}
			defer a.drop()
			a.File.left += 10
			in, _ := connected(t)
			c := newLane(in, &quickly{Quick: s}).(*lane)
			if err := send(c, a); !errors.Is(err, io.ErrUnexpectedEOF) || s.sent.Load() != 1000 {
				t.Errorf("%d bytes, %v", s.sent.Load(), err)
			}
		})
	}
}

// shrinking has files that become 10 bytes shorter while they are sent.
type shrinking struct{ *shelf }

func (s shrinking) Quick(r Request) (Answer, bool) {
	path, cut := strings.CutSuffix(string(r.Path), "-cut")
	a, ok := s.shelf.Quick(Request{Path: []byte(path)})
	if ok && cut {
		a.File.left += 10
		a.Head = AnswerHead(http.StatusOK, http.Header{"Content-Length": {fmt.Sprint(a.File.left)}})
	}
	return a, ok
}

// TestFileCutShortBehindOthers: answers before that of a file which becomes
// shorter are sent, what there is of it too, and nothing behind that.
func TestFileCutShortBehindOthers(t *testing.T) {
	for _, size := range []int{1000, small, Piece} {
		data := pattern(size)
		s := newShelf(t, map[string][]byte{"file": data, "small": pattern(7)})
		in, out := connected(t)
		c := newLane(in, &quickly{Quick: shrinking{s}}).(*lane)
		done := make(chan error, 1)
		go func() {
			_, _, err := c.answer([]byte(get("/small") + get("/file-cut") + get("/small")))
			in.Close()
			done <- err
		}()
		r := bufio.NewReader(out)
		(&client{Conn: out, r: r}).want(t, string(pattern(7)))
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if got, err := io.ReadAll(res.Body); !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(got, data) {
			t.Errorf("%d bytes of %d, %v", len(got), size, err)
		}
		if err := <-done; !errors.Is(err, io.ErrUnexpectedEOF) || s.sent.Load() != int64(7+size) {
			t.Errorf("%d bytes: %d counted, %v", size, s.sent.Load(), err)
		}
	}
}

// TestFolder: only regular files below the folder are opened.
func TestFolder(t *testing.T) {
	s := newShelf(t, map[string][]byte{"file": pattern(3)})
	dir, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", s.folder.fd))
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "secret")
	err = errors.Join(os.WriteFile(outside, nil, 0o644), os.Mkdir(dir+"/sub", 0o755), os.WriteFile(dir+"/sub/file", nil, 0o644),
		os.Symlink("sub/file", dir+"/within"), os.Symlink(outside, dir+"/absolute"), os.Symlink("../"+filepath.Base(outside), dir+"/up"),
		os.Symlink("/proc/self/fd", dir+"/magic"), syscall.Mkfifo(dir+"/fifo", 0o644))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"file", "sub/file", "within"} {
		f, err := s.folder.Open(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || f.Size() != fi.Size() || !f.ModTime().Equal(fi.ModTime()) {
			t.Errorf("%s: %d bytes, changed %v, %v", name, f.Size(), f.ModTime(), err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"absolute", "up", "magic/0", "fifo", "sub", "none", "../" + filepath.Base(dir) + "/file", dir + "/file", "", "."} {
		if f, err := s.folder.Open(name); err == nil {
			t.Errorf("%q is opened, of %d bytes", name, f.Size())
		}
	}
	if _, err := s.folder.Open("none"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("none: %v", err)
	}
	if _, err := OpenFolder(dir + "/file"); err == nil {
		t.Error("a file is a folder")
	}
}

// TestFileOnTCP: the pieces of a file share packets, the last is not held back,
// and what a file takes does not grow with it.
func TestFileOnTCP(t *testing.T) {
	s := newShelf(t, map[string][]byte{"pieces": pattern(4 * Piece), "more": pattern(12 * Piece)})
	in, out := connected(t)
	done := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, struct{ io.Reader }{out})
		done <- err
	}()
	raw, err := in.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	corked := func(want int) {
		err := raw.Control(func(fd uintptr) {
			if on, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK); on != want || err != nil {
				t.Errorf("TCP_CORK is %d, not %d, %v", on, want, err)
			}
		})
		if err != nil {
			t.Error(err)
		}
	}
	s.on = func() { corked(1) }
	c := newLane(in, &quickly{Quick: s}).(*lane)
	send := func(name string) func() {
		return func() {
			a, ok := s.Quick(Request{Path: []byte("/" + name)})
			if !ok {
				t.Fatalf("no %s", name)
			}
			if err := errors.Join(c.writeFile(a.Head, a), a.drop()); err != nil {
				t.Error(err)
			}
		}
	}
	send("pieces")()
	corked(0)
	s.on = nil
	few, many := testing.AllocsPerRun(20, send("pieces")), testing.AllocsPerRun(20, send("more"))
	if many >= few+1 {
		t.Errorf("%v allocations for 4 pieces, %v for 12", few, many)
	}
	in.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// connected returns both ends of a connection of TCP.
func connected(t *testing.T) (in, out net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if out, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	if in, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	return in, out
}
