package ndn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/block/blocktest"
)

// consumer is the far end of a connection of Serve, as a script.
type consumer struct {
	t     *testing.T
	face  *face
	ns    namespace
	heard chan packet // all that is no command
}

// ask sends an Interest.
func (c *consumer) ask(p place, lifetime time.Duration) {
	c.t.Helper()
	if err := c.face.send(appendInterest(nil, c.ns.appendName(nil, p), 1, lifetime)); err != nil {
		c.t.Error(err)
	}
}

// hear returns the next packet, false if none comes for a minute.
func (c *consumer) hear() (packet, bool) {
	select {
	case p := <-c.heard:
		return p, true
	case <-time.After(time.Minute):
		return packet{}, false
	}
}

// produced runs Serve, whose forwarder answers commands by a function, for the
// time of test. Within synctest.Test.
func produced(t *testing.T, blocks block.Getter, so ServerOptions, command func(n int) []byte, test func(*consumer)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	conns := make(chan *consumer, 10)
	var commands atomic.Int32
	o := Options{Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		c := &consumer{t, &face{conn: theirs}, testSpace(t, DefaultPrefix), make(chan packet, 1000)}
		work.Go(func() {
			_ = c.face.read(func(p packet) {
				p.name, p.token, p.content = bytes.Clone(p.name), bytes.Clone(p.token), bytes.Clone(p.content)
				if p.data {
					c.heard <- p
					return
				}
				if answer := command(int(commands.Add(1)) - 1); answer != nil {
					_ = c.face.send(appendData(nil, p.name, nil, nil, answer)) // it may have gone
				}
			})
			theirs.Close()
		})
		conns <- c
		return ours, nil
	}}
	registered := make(chan struct{}, 10)
	so.Registered = func() { registered <- struct{}{} }
	work.Go(func() {
		if err := Serve(ctx, blocks, o, so); err != nil {
			t.Error(err)
		}
	})
	<-registered
	for len(conns) > 1 {
		<-conns
	}
	test(<-conns)
	cancel()
	work.Wait()
}

func accepts(int) []byte { return response(200, "OK") }

// getter is blocks made of a function.
type getter func(ctx context.Context, ref eris.Ref) ([]byte, error)

func (g getter) Get(ctx context.Context, ref eris.Ref) ([]byte, error) { return g(ctx, ref) }

// TestServe asks for what is there, and for what is not; each block is read
// once.
func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		large, b32 := blocktest.Make(eris.Size32KiB, 1)
		small, b1 := blocktest.Make(eris.Size1KiB, 2)
		blocks := blocktest.Blocks{large: b32, small: b1}
		var reads atomic.Int32
		produced(t, getter(func(ctx context.Context, ref eris.Ref) ([]byte, error) {
			reads.Add(1)
			return blocks.Get(ctx, ref)
		}), ServerOptions{}, accepts, func(c *consumer) {
			for _, ref := range []eris.Ref{large, small} {
				b := blocks[ref]
				n := segments(len(b))
				for range 2 {
					for seg := range uint8(n) {
						c.ask(place{ref, seg}, time.Second)
					}
				}
				for range 2 * n {
					p, ok := c.hear()
					at, named := c.ns.parse(p.name)
					part := len(b) / n
					if !ok || !named || at.ref != ref || p.contentType != 0 || !bytes.Equal(p.content, b[int(at.seg)*part:][:part]) {
						t.Fatalf("%v of %v: %d bytes, %v", at.seg, at.ref, len(p.content), ok)
					}
				}
			}
			if n := reads.Load(); n != 2 {
				t.Errorf("2 blocks are read %d times", n)
			}
			for _, absent := range []place{{eris.Ref{1}, 0}, {large, 4}, {large, 255}, {small, 1}} {
				start := time.Now()
				c.ask(absent, time.Second)
				p, ok := c.hear()
				at, _ := c.ns.parse(p.name)
				if d := time.Since(start); !ok || at != absent || p.contentType != contentNack || len(p.content) != 0 || d != 200*time.Millisecond {
					t.Errorf("%v: %+v after %v", absent, p, d)
				}
			}
		})
	})
}

// TestForgets takes a block out of what is served: it is not given for much longer.
func TestForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, b := blocktest.Make(eris.Size32KiB, 1)
		blocks := blocktest.Blocks{ref: b}
		produced(t, blocks, ServerOptions{}, accepts, func(c *consumer) {
			for _, after := range []time.Duration{0, recentTime} {
				time.Sleep(after)
				c.ask(place{ref, 0}, time.Second)
				if p, ok := c.hear(); !ok || (p.contentType == contentNack) != (after > 0) {
					t.Errorf("after %v: %d bytes, %v", after, len(p.content), ok)
				}
				delete(blocks, ref)
			}
		})
	})
}

// TestStuck has a forwarder take the prefix and then read nothing: nobody waits
// for long.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, b := blocktest.Make(eris.Size32KiB, 1)
		ours, theirs := net.Pipe()
		defer theirs.Close()
		c, err := New(Options{Dial: func(context.Context, string, string) (net.Conn, error) { return ours, nil }})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		registered := make(chan struct{})
		var work sync.WaitGroup
		work.Go(func() {
			o := ServerOptions{Registered: func() { close(registered) }}
			if err := c.Serve(ctx, blocktest.Blocks{ref: b}, o); err != nil {
				t.Error(err)
			}
		})
		buf := make([]byte, maxPacket)
		n, err := theirs.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		p, err := parsePacket(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		far := &face{conn: theirs}
		packets := appendData(nil, p.name, nil, nil, accepts(0))
		packets = appendInterest(packets, c.ns.appendName(nil, place{ref, 0}), 1, time.Minute)
		if err := far.send(packets); err != nil {
			t.Fatal(err)
		}
		<-registered
		synctest.Wait() // it sends
		start := time.Now()
		cancel()
		work.Wait()
		if took := time.Since(start); took != 0 {
			t.Errorf("served for %v more", took)
		}
	})
}

// TestNotAsked passes over what is no Interest in a block.
func TestNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, b := blocktest.Make(eris.Size1KiB, 2)
		produced(t, blocktest.Blocks{ref: b}, ServerOptions{Absent: -1}, accepts, func(c *consumer) {
			name := c.ns.appendName(nil, place{ref, 0})
			frame := appendElement(nil, typeNack, nil)
			frame = appendElement(frame, typeFragment, appendInterest(nil, name, 1, time.Second))
			for _, p := range [][]byte{
				appendElement(nil, typeLink, frame),
				appendBlock(nil, name, nil, b, 1),
				appendInterest(nil, append(name[:len(name):len(name)], 8, 0), 1, time.Second),
				appendInterest(nil, testSpace(t, "/other").appendName(nil, place{ref, 0}), 1, time.Second),
				appendElement(nil, typeLink, nil),
				{5, 0},
			} {
				if err := c.face.send(p); err != nil {
					t.Fatal(err)
				}
				if p, ok := c.hear(); ok {
					t.Errorf("answered: %+v", p)
				}
			}
			token := []byte("a PIT token of up to 32 bytes...")
			frame = appendElement(nil, typeToken, token)
			frame = appendElement(frame, typeFragment, appendInterest(nil, name, 1, time.Second))
			if err := c.face.send(appendElement(nil, typeLink, frame)); err != nil {
				t.Fatal(err)
			}
			if p, ok := c.hear(); !ok || !bytes.Equal(p.token, token) || !bytes.Equal(p.content, b) {
				t.Errorf("token %q, %d bytes", p.token, len(p.content))
			}
		})
	})
}

// slow is blocks that take a second each.
func slow(most *atomic.Int32) block.Getter {
	var now atomic.Int32
	return getter(func(ctx context.Context, ref eris.Ref) ([]byte, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(time.Second)
		return make([]byte, eris.Size1KiB), nil
	})
}

// TestServeIsBounded sends far too much, and Interests that are dead before it
// is their turn.
func TestServeIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var most atomic.Int32
		produced(t, slow(&most), ServerOptions{Requests: 8}, accepts, func(c *consumer) {
			for i := range 1000 {
				lifetime := 100 * time.Second
				if i < 80 && i%10 == 9 {
					lifetime = 500 * time.Millisecond
				}
				c.ask(place{eris.Ref{byte(i), byte(i >> 8)}, 0}, lifetime)
			}
			n := 0
			for {
				if _, ok := c.hear(); !ok {
					break
				}
				n++
			}
			// Some of those that are dead in time are the first to be asked for.
			if most.Load() != 8 || n < maxQueue-8 || n > maxQueue+8 {
				t.Errorf("%d answers, %d at once", n, most.Load())
			}
		})
	})
}

// forbids is a Limiter that a segment is too much for.
type forbids struct{}

func (forbids) WaitN(context.Context, int) error { return errors.New("more than the burst") }

// TestForbidden says in the log why nothing is sent.
func TestForbidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, b := blocktest.Make(eris.Size1KiB, 1)
		var log strings.Builder
		o := ServerOptions{Limit: forbids{}, Log: slog.New(slog.NewTextHandler(&log, nil))}
		produced(t, blocktest.Blocks{ref: b}, o, accepts, func(c *consumer) {
			c.ask(place{ref, 0}, time.Second)
			if p, ok := c.hear(); ok {
				t.Errorf("%+v", p)
			}
		})
		if !strings.Contains(log.String(), "more than the burst") {
			t.Errorf("log: %s", log.String())
		}
	})
}

// limit is a Limiter that gives 16 KiB a second.
type limit struct{}

func (limit) WaitN(ctx context.Context, n int) error {
	select {
	case <-time.After(time.Duration(n) * time.Second / (16 << 10)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestServeIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, b := blocktest.Make(eris.Size32KiB, 1)
		produced(t, blocktest.Blocks{ref: b}, ServerOptions{Requests: 1, Limit: limit{}}, accepts, func(c *consumer) {
			start := time.Now()
			for seg := range uint8(4) {
				c.ask(place{ref, seg}, time.Minute)
			}
			for range 4 {
				c.hear()
			}
			if d := time.Since(start); d != 2*time.Second {
				t.Errorf("32 KiB took %v", d)
			}
		})
	})
}

// TestBroken says in the log what is wrong, and no more than that to others; the
// block is read anew the next time.
func TestBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ref, b := blocktest.Make(eris.Size1KiB, 1)
		broken := true
		var log strings.Builder
		blocks := getter(func(context.Context, eris.Ref) ([]byte, error) {
			if broken {
				return nil, errors.New("disk is broken")
			}
			return b, nil
		})
		produced(t, blocks, ServerOptions{Log: slog.New(slog.NewTextHandler(&log, nil))}, accepts, func(c *consumer) {
			c.ask(place{ref, 0}, time.Second)
			if p, ok := c.hear(); !ok || p.contentType != contentNack || len(p.content) != 0 {
				t.Errorf("%+v", p)
			}
			broken = false
			c.ask(place{ref, 0}, time.Second)
			if p, ok := c.hear(); !ok || !bytes.Equal(p.content, b) {
				t.Errorf("%+v", p)
			}
		})
		if !strings.Contains(log.String(), "disk is broken") || !strings.Contains(log.String(), ref.String()) {
			t.Errorf("log: %s", log.String())
		}
	})
}

// TestRegisterAgain has a forwarder that is silent, refuses, says what is none
// of its business, and loses connections.
func TestRegisterAgain(t *testing.T) {
	for what, c := range map[string]struct {
		command func(n int) []byte
		took    time.Duration
		log     string
	}{
		"at once": {accepts, 0, ""},
		"silent at first": {func(n int) []byte {
			if n < 2 {
				return nil
			}
			return response(200, "")
		}, 2 * maxAnswer, ""},
		"silent for long": {func(n int) []byte {
			if n < registerTries {
				return nil
			}
			return response(200, "")
		}, registerTries*maxAnswer + leastPause, "does not answer"},
		"refuses": {func(n int) []byte {
			if n < 3 {
				return response(403, "go away")
			}
			return response(200, "")
		}, (1 + 2 + 4) * time.Second, "403"},
		"talks nonsense": {func(n int) []byte {
			if n < 1 {
				return []byte("nonsense")
			}
			return response(200, "")
		}, time.Second, "malformed"},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ref, b := blocktest.Make(eris.Size1KiB, 1)
				start := time.Now()
				var log strings.Builder
				o := ServerOptions{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}
				produced(t, blocktest.Blocks{ref: b}, o, c.command, func(con *consumer) {
					if d := time.Since(start); d != c.took {
						t.Errorf("registered after %v", d)
					}
					con.ask(place{ref, 0}, time.Second)
					if p, ok := con.hear(); !ok || !bytes.Equal(p.content, b) {
						t.Errorf("%+v", p)
					}
				})
				if !strings.Contains(log.String(), c.log) || c.log == "" && log.Len() > 0 {
					t.Errorf("log: %s", log.String())
				}
			})
		})
	}
}

// TestServeOptions refuses what cannot be, at once.
func TestServeOptions(t *testing.T) {
	for _, o := range []Options{{Face: "http://x"}, {Prefix: "x"}} {
		if err := Serve(t.Context(), blocktest.Blocks{}, o, ServerOptions{}); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	if err := Serve(t.Context(), blocktest.Blocks{}, Options{}, ServerOptions{Requests: -1}); err == nil {
		t.Error("fewer than no requests")
	}
}

// TestServeOnce refuses a second producer, until the first has ended.
func TestServeOnce(t *testing.T) {
	c, err := New(Options{Face: "unix://" + t.TempDir() + "/none.sock"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	var log strings.Builder
	logged := make(chan struct{})
	o := ServerOptions{Log: slog.New(slog.NewTextHandler(tell{&log, sync.OnceFunc(func() { close(logged) })}, nil))}
	go func() { first <- c.Serve(ctx, blocktest.Blocks{}, o) }()
	<-logged // that there is no forwarder
	if err := c.Serve(t.Context(), blocktest.Blocks{}, ServerOptions{}); err == nil {
		t.Error("two at once")
	}
	cancel()
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := c.Serve(ctx, blocktest.Blocks{}, ServerOptions{}); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "none.sock") {
		t.Errorf("log: %s", log.String())
	}
}

// tell writes, and tells somebody.
type tell struct {
	io.Writer
	do func()
}

func (w tell) Write(b []byte) (int, error) {
	defer w.do()
	return w.Writer.Write(b)
}

// TestRecent keeps the last blocks, and none that failed.
func TestRecent(t *testing.T) {
	m := recent{blocks: map[eris.Ref]*reading{}}
	reads := map[eris.Ref]int{}
	blocks := getter(func(_ context.Context, ref eris.Ref) ([]byte, error) {
		if reads[ref]++; ref[1] == 1 {
			return nil, errors.New("broken")
		}
		return ref[:], nil
	})
	for i := range 2 * maxRecent {
		for range 2 {
			b, err := m.get(t.Context(), eris.Ref{byte(i)}, blocks)
			if err != nil || b[0] != byte(i) {
				t.Fatal(b, err)
			}
			if _, err := m.get(t.Context(), eris.Ref{byte(i), 1}, blocks); err == nil {
				t.Fatal("no error")
			}
		}
		if reads[eris.Ref{byte(i)}] != 1 || reads[eris.Ref{byte(i), 1}] != 2 {
			t.Errorf("%d: read %v", i, reads)
		}
	}
	if len(m.blocks) != maxRecent || len(m.order) != maxRecent || slices.Contains(m.order, eris.Ref{0}) {
		t.Errorf("%d blocks are kept, %d in order", len(m.blocks), len(m.order))
	}
}
