package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"

	"ersatz/eris"
	"ersatz/internal/bench/kernels"
	"ersatz/internal/lanes"
)

// bare sends all leaves over so many TCP connections: read from the nar, encrypted,
// hashed, written, read, hashed and decrypted, each by as many blocks as the kernels
// take at once, and nothing else. No server of blocks can do with less.
func (w *batchWorld) bare(ctx context.Context, conns int) (err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return w.share(ctx, conns, func(ctx context.Context, from, to int) error {
		var d net.Dialer
		client, err := d.DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer client.Close()
		server, err := l.Accept() // of another goroutine's client perhaps: each tells what it wants
		if err != nil {
			return err
		}
		sent := make(chan error, 1)
		go func() { sent <- errors.Join(w.send(server), server.Close()) }()
		return errors.Join(w.receive(client, from, to), <-sent)
	})
}

// send answers one request: two numbers of leaves.
func (w *batchWorld) send(conn net.Conn) error {
	var ask [16]byte
	if _, err := io.ReadFull(conn, ask[:]); err != nil {
		return err
	}
	from, to := int(binary.BigEndian.Uint64(ask[:])), int(binary.BigEndian.Uint64(ask[8:]))
	b := newBareBuffers(int(w.readCap.Size))
	for ; from < to; from += b.n {
		n := b.first(to - from)
		if err := w.plain(b.all[:n], from); err != nil {
			return err
		}
		for i, node := range b.blocks[:b.n] {
			lanes.ChaCha20(node, node, (*[32]byte)(&w.keys[from+i]), &b.nonce)
		}
		if err := b.check(w.refs[from:]); err != nil {
			return err
		}
		if _, err := conn.Write(b.all[:n]); err != nil {
			return err
		}
	}
	return nil
}

// plain reads leaves, the last of which has one byte of padding.
func (w *batchWorld) plain(b []byte, from int) error {
	n, err := w.nar.ReadAt(b, int64(from)*int64(w.readCap.Size))
	if errors.Is(err, io.EOF) && n == len(b)-1 {
		b[n] = 0x80
		return nil
	}
	return err
}

// receive asks for a row of leaves, and verifies and decrypts them.
func (w *batchWorld) receive(conn net.Conn, from, to int) error {
	ask := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(from)), uint64(to))
	if _, err := io.Copy(conn, bytes.NewReader(ask)); err != nil {
		return err
	}
	b := newBareBuffers(int(w.readCap.Size))
	for ; from < to; from += b.n {
		n := b.first(to - from)
		if _, err := io.ReadFull(conn, b.all[:n]); err != nil {
			return err
		}
		if err := b.check(w.refs[from:]); err != nil {
			return err
		}
		for i, block := range b.blocks[:b.n] {
			lanes.ChaCha20(block, block, (*[32]byte)(&w.keys[from+i]), &b.nonce)
		}
	}
	return nil
}

// bareBuffers are some blocks, and their hashes.
type bareBuffers struct {
	all    []byte
	blocks [][]byte // in all
	sums   []eris.Ref
	nonce  [12]byte // of leaves: zeros
	n      int      // blocks that are used
}

func newBareBuffers(size int) *bareBuffers {
	b := &bareBuffers{all: make([]byte, kernels.Bytes)}
	for at := 0; at < len(b.all); at += size {
		b.blocks = append(b.blocks, b.all[at:at+size])
	}
	b.sums = make([]eris.Ref, len(b.blocks))
	return b
}

// first uses as many blocks as there is room for, and returns how many bytes these are.
func (b *bareBuffers) first(most int) int {
	b.n = min(most, len(b.blocks))
	return b.n * len(b.blocks[0])
}

// check hashes the blocks that are used.
func (b *bareBuffers) check(refs []eris.Ref) error {
	lanes.Sum256(b.sums[:b.n], nil, b.blocks[:b.n])
	for i, sum := range b.sums[:b.n] {
		if sum != refs[i] {
			return eris.ErrCorrupt
		}
	}
	return nil
}
