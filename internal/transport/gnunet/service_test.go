package gnunet_test

import (
	"bufio"
	"context"
	"crypto/sha512"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"ersatz/eris"
	"ersatz/internal/block"
)

// service is a DHT service of one peer that does what a real one never would. It
// shares no code with the client.
type service struct {
	blocks block.Getter
	refs   map[[64]byte]eris.Ref // of what may be asked for
	put    func(key [64]byte, message []byte)
	before func(id uint64, key [64]byte) [][]byte // sent before each result; nil: nothing

	work sync.WaitGroup
}

// serve runs a service at a socket, or at any if that is empty, until stop or the
// end of the test.
func serve(t testing.TB, socket string, s *service, refs []eris.Ref) (at string, stop func()) {
	t.Helper()
	if socket == "" {
		dir, err := os.MkdirTemp("", "gnunet") // short: see gnunettest
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		socket = filepath.Join(dir, "dht.sock")
	}
	s.refs = map[[64]byte]eris.Ref{}
	for _, ref := range refs {
		s.refs[keyOf(ref)] = ref
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.work.Go(func() { s.talk(ctx, conn) })
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		l.Close()
		s.work.Wait()
	})
	t.Cleanup(stop)
	return socket, stop
}

// talk serves one connection.
func (s *service) talk(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() {
		<-ctx.Done()
		conn.Close()
	})
	var write sync.Mutex
	send := func(b []byte) {
		write.Lock()
		defer write.Unlock()
		_, _ = conn.Write(b) // a client that is gone is noticed by reading
	}
	for r := bufio.NewReader(conn); ; {
		header := make([]byte, 4)
		if _, err := io.ReadFull(r, header); err != nil {
			return
		}
		length, kind := binary.BigEndian.Uint16(header), binary.BigEndian.Uint16(header[2:])
		body := make([]byte, length-4)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		switch kind {
		case 142:
			if s.put != nil {
				s.put([64]byte(body[20:84]), append(header, body...))
			}
		case 143:
			key, id := [64]byte(body[12:76]), binary.BigEndian.Uint64(body[76:])
			work.Go(func() {
				if s.before != nil {
					for _, b := range s.before(id, key) {
						send(b)
					}
				}
				ref, ok := s.refs[key]
				if !ok {
					return
				}
				if b, err := s.blocks.Get(ctx, ref); err == nil {
					send(resultOf(id, key, b))
				}
			})
		case 161:
			send(append([]byte{0, 8, 0, 159}, "abc\x00"...))
		}
	}
}

func keyOf(ref eris.Ref) [64]byte { return sha512.Sum512([]byte(ref.String())) }

// resultOf is a result without a path.
func resultOf(id uint64, key [64]byte, b []byte) []byte {
	m := make([]byte, 104, 104+len(b))
	binary.BigEndian.PutUint16(m, uint16(104+len(b)))
	m[3], m[7] = 145, 8
	binary.BigEndian.PutUint64(m[24:], id)
	copy(m[40:], key[:])
	return append(m, b...)
}
