package gnunet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/block/blocktest"
)

// partner is the other end of a connection, in a bubble of synctest. It notes what
// comes, and answers each Hello unless it is mute.
type partner struct {
	net  net.Conn
	mute bool
	work sync.WaitGroup

	mu  sync.Mutex
	got map[uint16][][]byte // bodies by type
}

// connect returns a connection whose service may be silent for 5 s. Both ends are
// closed, and waited for, by the returned function.
func connect(mute bool) (*conn, *partner, func()) {
	ours, theirs := net.Pipe()
	c, p := newConn(ours, 5*time.Second), &partner{net: theirs, mute: mute, got: map[uint16][][]byte{}}
	p.work.Go(c.read)
	p.work.Go(p.read)
	return c, p, func() {
		_ = c.end(net.ErrClosed)
		theirs.Close()
		p.work.Wait()
	}
}

func (p *partner) read() {
	r, buf := bufio.NewReader(p.net), make([]byte, maxMessage)
	for {
		kind, body, err := readMessage(r, buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.got[kind] = append(p.got[kind], bytes.Clone(body))
		p.mu.Unlock()
		if kind == typeHello && !p.mute {
			p.send(append([]byte{0, 8, 0, typeURL}, "url\x00"...))
		}
	}
}

func (p *partner) send(b []byte) { _, _ = p.net.Write(b) } // a test that ends closes the pipe

func (p *partner) bodies(kind uint16) [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got[kind]
}

// answer sends what a service says to the request with a body, changed by
// change.
func (p *partner) answer(get, data []byte, change func(m []byte)) {
	m := make([]byte, resultLen, resultLen+len(data))
	binary.BigEndian.PutUint16(m, uint16(resultLen+len(data)))
	m[3], m[7] = typeResult, blockType
	copy(m[24:], get[76:84])
	copy(m[40:], get[12:76])
	m = append(m, data...)
	if change != nil {
		change(m)
	}
	p.send(m)
}

// TestMissing wants a block given up after idle, and the service told so.
func TestMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, end := connect(false)
		defer end()
		ref, _ := blocktest.Make(eris.Size1KiB, 1)
		start := time.Now()
		b, err := c.get(t.Context(), ref, eris.Size1KiB, 7, new(moment))
		if b != nil || err != nil || time.Since(start) != 5*time.Second {
			t.Errorf("%d bytes, %v, after %v", len(b), err, time.Since(start))
		}
		synctest.Wait()
		gets, stops := p.bodies(typeGet), p.bodies(typeStop)
		if len(gets) != 1 || len(stops) != 1 {
			t.Fatalf("%d requests, %d ended", len(gets), len(stops))
		}
		if !bytes.Equal(gets[0][76:], stops[0][4:12]) || !bytes.Equal(gets[0][12:76], stops[0][12:]) {
			t.Errorf("asked %x, ended %x", gets[0], stops[0])
		}
		if gets[0][7] != 7 {
			t.Errorf("replication %d", gets[0][7])
		}
	})
}

// TestProgress wants a block waited for as long as others of the same call come.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, end := connect(false)
		defer end()
		var last moment
		var work sync.WaitGroup
		start := time.Now()
		for i := range 4 { // the others come after 4, 8 and 12 s
			ref, b := blocktest.Make(eris.Size1KiB, uint64(i))
			work.Go(func() {
				got, err := c.get(t.Context(), ref, eris.Size1KiB, 1, &last)
				found, after := got != nil, time.Since(start)
				if err != nil || found != (i > 0) || found && (!bytes.Equal(got, b) || after != time.Duration(4*i)*time.Second) {
					t.Errorf("%d: found: %t, %v, after %v", i, found, err, after)
				}
				if !found && after != 17*time.Second {
					t.Errorf("given up after %v", after)
				}
			})
			synctest.Wait()
			if i > 0 {
				get := p.bodies(typeGet)[i]
				work.Go(func() {
					time.Sleep(time.Duration(4*i) * time.Second)
					p.answer(get, b, nil)
				})
			}
		}
		work.Wait()
	})
}

// TestWrongResults wants what is not the block passed over, and what is taken.
func TestWrongResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, end := connect(false)
		defer end()
		ref, b := blocktest.Make(eris.Size1KiB, 1)
		_, other := blocktest.Make(eris.Size1KiB, 2)
		_, large := blocktest.Make(eris.Size32KiB, 1)
		var work sync.WaitGroup
		var came atomic.Bool
		work.Go(func() {
			got, err := c.get(t.Context(), ref, eris.Size1KiB, 1, new(moment))
			if err != nil || !bytes.Equal(got, b) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			came.Store(true)
		})
		synctest.Wait()
		get := p.bodies(typeGet)[0]
		p.answer(get, other, nil)
		p.answer(get, large, nil)
		p.answer(get, nil, nil)
		p.answer(get, b, func(m []byte) { m[7] = 1 })      // type
		p.answer(get, b, func(m []byte) { m[31] ^= 1 })    // id
		p.answer(get, b, func(m []byte) { m[40+63] ^= 1 }) // key
		p.send([]byte{0, 4, 0xff, 0xff})                   // another message
		synctest.Wait()
		if came.Load() {
			t.Error("a wrong one was taken")
		}
		p.answer(get, b, nil)
		work.Wait()
		p.answer(get, b, nil) // twice
		synctest.Wait()
		if err := c.reason(); err != nil {
			t.Errorf("the connection has ended: %v", err)
		}
	})
}

// TestSilent wants a service that takes everything and says nothing told from one
// that lacks a block, and one that takes nothing, too.
func TestSilent(t *testing.T) {
	for name, c := range map[string]struct {
		reads bool
		ask   func(ctx context.Context, c *conn) error
	}{
		"get":           {true, get},
		"put":           {true, put},
		"get, not read": {false, get},
		"put, not read": {false, put},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cn, p, end := connect(true)
				if !c.reads {
					end()
					ours, theirs := net.Pipe()
					defer theirs.Close()
					cn = newConn(ours, 5*time.Second)
				}
				defer end()
				start := time.Now()
				err := c.ask(t.Context(), cn)
				if !errors.Is(err, errSilent) || time.Since(start) != 5*time.Second {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				if err := cn.reason(); !errors.Is(err, errSilent) {
					t.Errorf("the connection goes on: %v", err)
				}
				if c.reads && len(p.bodies(typeHello)) != 1 {
					t.Errorf("%d signs of life asked for", len(p.bodies(typeHello)))
				}
			})
		})
	}
}

func get(ctx context.Context, c *conn) error {
	_, err := c.get(ctx, eris.Ref{1}, eris.Size1KiB, 1, new(moment))
	return err
}

func put(ctx context.Context, c *conn) error { return c.put(ctx, []byte{0, 4, 0, typePut}) }

// TestPutWaits wants a put to wait while the service shows that it lives.
func TestPutWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p, end := connect(true)
		defer end()
		var work sync.WaitGroup
		start := time.Now()
		work.Go(func() {
			for range 4 {
				time.Sleep(4 * time.Second)
				p.send([]byte{0, 4, 0xff, 0xff}) // anything
			}
			p.send([]byte{0, 4, 0, typeURL})
		})
		if err := put(t.Context(), c); err != nil || time.Since(start) != 16*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		work.Wait()
	})
}

// TestEnds wants requests to end with their context and with the connection.
func TestEnds(t *testing.T) {
	unasked := bytes.Repeat([]byte{0, 4, 0, typeURL}, 3) // one more than asked for
	for name, c := range map[string]struct {
		do   func(c *conn, p *partner)
		want error
	}{
		"context":         {func(*conn, *partner) {}, context.DeadlineExceeded},
		"partner gone":    {func(_ *conn, p *partner) { p.net.Close() }, errLost},
		"closed":          {func(c *conn, _ *partner) { _ = c.end(net.ErrClosed) }, net.ErrClosed},
		"no message":      {func(_ *conn, p *partner) { p.send([]byte{0, 3, 0, 0}) }, errMessage},
		"no result":       {func(_ *conn, p *partner) { p.send([]byte{0, 5, 0, typeResult, 0}) }, errMessage},
		"more than asked": {func(_ *conn, p *partner) { p.send(unasked) }, errMessage},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cn, p, end := connect(true)
				defer end()
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
				defer cancel()
				var work sync.WaitGroup
				for _, ask := range []func(context.Context, *conn) error{get, put, get} {
					work.Go(func() {
						// A put is done by then in one case.
						if err := ask(ctx, cn); !errors.Is(err, c.want) && !(err == nil && name == "more than asked") {
							t.Errorf("got %v", err)
						}
					})
					synctest.Wait()
				}
				time.Sleep(time.Second)
				c.do(cn, p)
				work.Wait()
				if len(cn.wants) != 0 {
					t.Errorf("%d blocks are wanted still", len(cn.wants))
				}
			})
		})
	}
}
