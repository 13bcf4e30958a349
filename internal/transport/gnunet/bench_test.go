package gnunet_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block/memstore"
	"ersatz/internal/transport/gnunet"
	"ersatz/internal/transport/gnunet/gnunettest"
	"ersatz/internal/transport/transporttest"
)

// BenchmarkTransport fetches blocks from the DHT service of one peer that has
// them: by our client, and by a loop that knows nothing but the messages.
func BenchmarkTransport(b *testing.B) {
	s, refs := transporttest.Blocks(b, transporttest.Many)
	p := gnunettest.Start(b)
	stored(s, refs).offer(b, open(b, gnunet.Options{Socket: p.Socket, Rate: 1 << 30}))
	for _, flight := range []int{1, 64} {
		b.Run(fmt.Sprintf("ersatz/%d in flight", flight), func(b *testing.B) {
			transporttest.Measure(b, open(b, gnunet.Options{Socket: p.Socket, InFlight: flight}), refs)
		})
		b.Run(fmt.Sprintf("bare/%d in flight", flight), func(b *testing.B) {
			transporttest.Measure(b, bareFetch(b, p.Socket, flight), refs)
		})
	}
}

// BenchmarkPut puts blocks into one peer that has no neighbours, without regard
// to what those could follow.
func BenchmarkPut(b *testing.B) {
	s, refs := transporttest.Blocks(b, transporttest.Many)
	all := stored(s, refs)
	p := gnunettest.Start(b)
	c := open(b, gnunet.Options{Socket: p.Socket, Rate: 1 << 30})
	perSecond := func(b *testing.B) {
		b.ReportMetric(float64(b.N)*float64(len(refs))/b.Elapsed().Seconds(), "blocks/s")
	}
	b.Run("ersatz/one at a time", func(b *testing.B) {
		for b.Loop() {
			for i, ref := range all.refs {
				put(b, c, ref, all.blocks[i])
			}
		}
		perSecond(b)
	})
	b.Run("ersatz/content", func(b *testing.B) {
		for b.Loop() {
			all.offer(b, c)
		}
		perSecond(b)
	})
	b.Run("bare/content", func(b *testing.B) {
		conn := dialService(b, p.Socket)
		for b.Loop() {
			for i, ref := range all.refs {
				key := keyOf(ref)
				m := []byte{0x80, 0x58, 0, 142, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5}
				m = binary.BigEndian.AppendUint64(m, uint64(time.Now().Add(time.Hour).UnixMicro()))
				m = append(append(m, key[:]...), all.blocks[i]...)
				if _, err := conn.Write(m); err != nil {
					b.Fatal(err)
				}
			}
			// It says when it is done.
			if _, err := conn.Write([]byte{0, 4, 0, 161}); err != nil {
				b.Fatal(err)
			}
			if kind, _ := message(b, bufio.NewReader(conn)); kind != 159 {
				b.Fatalf("message of type %d", kind)
			}
		}
		perSecond(b)
	})
}

func stored(s *memstore.Store, refs []eris.Ref) content {
	c := content{refs: refs}
	for _, ref := range refs {
		block, err := s.Get(context.Background(), ref)
		if err != nil {
			panic(err)
		}
		c.blocks = append(c.blocks, block)
	}
	return c
}

func dialService(b *testing.B, socket string) net.Conn {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return conn
}

func message(b *testing.B, r io.Reader) (kind uint16, body []byte) {
	header := make([]byte, 4)
	if _, err := io.ReadFull(r, header); err != nil {
		b.Fatal(err)
	}
	body = make([]byte, binary.BigEndian.Uint16(header)-4)
	if _, err := io.ReadFull(r, body); err != nil {
		b.Fatal(err)
	}
	return binary.BigEndian.Uint16(header[2:]), body
}

// bareFetch asks for so many blocks at once, and for the next when one has come.
func bareFetch(b *testing.B, socket string, flight int) transporttest.Func {
	conn := dialService(b, socket)
	r := bufio.NewReaderSize(conn, 1<<16)
	return func(_ context.Context, refs []eris.Ref, got func(int, []byte) error) error {
		asked := 0
		ask := func() {
			if asked == len(refs) {
				return
			}
			key := keyOf(refs[asked])
			m := append([]byte{0, 88, 0, 143, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 8}, key[:]...)
			if _, err := conn.Write(binary.BigEndian.AppendUint64(m, uint64(asked))); err != nil {
				b.Fatal(err)
			}
			asked++
		}
		for range flight {
			ask()
		}
		for range refs {
			kind, body := message(b, r)
			if kind != 145 {
				b.Fatalf("message of type %d", kind)
			}
			id := binary.BigEndian.Uint64(body[20:])
			if err := got(int(id), body[100:]); err != nil {
				return err
			}
			stop := binary.BigEndian.AppendUint64([]byte{0, 80, 0, 144, 0, 0, 0, 0}, id)
			if _, err := conn.Write(append(stop, body[36:100]...)); err != nil {
				b.Fatal(err)
			}
			ask()
		}
		return nil
	}
}
