package bittorrent

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	bt "github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/bencode"
	pp "github.com/anacrolix/torrent/peer_protocol"
	"github.com/anacrolix/torrent/types/infohash"
	"golang.org/x/time/rate"

	"ersatz/eris"
	"ersatz/internal/torrent"
)

// The exchange of metadata (BEP 9) is not left to the library: it parses what
// comes before it hashes it, so that nested lists of 16 MiB overflow the stack; and
// the bytes of all peers share one buffer, which one peer can spoil for good
// (v1.60.0, Torrent.setInfoBytesLocked).

const (
	// metadataChunk is what one message has of the metadata, in bytes.
	metadataChunk = 16 << 10

	// metadataWindow is how many chunks are asked for at once.
	metadataWindow = 4

	// metadataPeers is how many peers are asked for the metadata of a torrent at
	// once.
	metadataPeers = 4

	// maxRequests bounds the messages of one peer that are not dealt with yet.
	// The others are dropped.
	maxRequests = 32
)

// The kinds of messages (BEP 9, "extension message").
const (
	metadataRequest = 0
	metadataData    = 1
	metadataReject  = 2
)

// protocols are the extensions that peers are told of (BEP 10): the exchange of
// peers is the library's, that of metadata is ours.
func protocols() *bt.LocalLtepProtocolMap {
	return &bt.LocalLtepProtocolMap{Index: []pp.ExtensionName{pp.ExtensionNamePex, pp.ExtensionNameMetadata}, NumBuiltin: 1}
}

// link is a connection to a peer, as far as it is about metadata.
type link struct {
	pc   *bt.PeerConn
	from member
	met  atomic.Bool     // it has told its extensions
	in   chan []byte     // messages
	ctx  context.Context // ends with the connection
	gone context.CancelFunc
	give *rate.Limiter // bytes of metadata; nil before the first are asked for
}

// spareMetadata is how much of the metadata a peer gets beside all of it, in bytes
// at once and per second: what is sent to a peer that does not read is kept by the
// library, without a bound.
const (
	spareMetadata       = 64 << 10
	spareMetadataSecond = 16 << 10
)

// callbacks hooks into the library, which holds its lock when it calls.
func (c *Client) callbacks() bt.Callbacks {
	local := protocols()
	return bt.Callbacks{
		ReadMessage: c.check,
		PeerConnAdded: []func(*bt.PeerConn){func(pc *bt.PeerConn) {
			pc.LocalLtepProtocolMap = local
			l := &link{pc: pc, in: make(chan []byte, maxRequests)}
			l.ctx, l.gone = context.WithCancel(c.ctx)
			c.links.Store(pc, l)
			if l.from = origin(pc); !c.crowd.enter(l.from) {
				c.spawn(func() { pc.Close() })
			}
		}},
		CompletedHandshake: func(*bt.PeerConn, infohash.T) { c.forgetBits() },
		ReadExtendedHandshake: func(pc *bt.PeerConn, m *pp.ExtendedHandshakeMessage) {
			size := m.MetadataSize
			m.MetadataSize = 0 // the library asks for nothing then
			// The library counts all names of extensions that it ever heard,
			// for good. By that for holepunching it would send messages which we
			// do not say that we know, and a peer with the same library would
			// panic.
			maps.DeleteFunc(m.M, func(name pp.ExtensionName, _ pp.ExtensionNumber) bool { return !slices.Contains(local.Index, name) })
			c.meet(pc, size)
		},
		PeerConnReadExtensionMessage: []func(bt.PeerConnReadExtensionMessageEvent){func(e bt.PeerConnReadExtensionMessageEvent) {
			name, builtin, err := local.LookupId(e.ExtensionNumber)
			if err == nil && !builtin && name == pp.ExtensionNameMetadata {
				c.hear(e.PeerConn, e.Payload)
			}
		}},
		PeerConnClosed: func(pc *bt.PeerConn) {
			if l, ok := c.links.LoadAndDelete(pc); ok {
				l.(*link).gone()
				c.crowd.leave(l.(*link).from)
			}
			if t := pc.Torrent(); t != nil { // it said which
				if d, ok := c.asking.Load(hash(t.InfoHash())); ok {
					d.(*download).lose()
				}
			}
		},
	}
}

// meet begins to talk with a peer that says how long the metadata is, 0 if it
// does not know.
func (c *Client) meet(pc *bt.PeerConn, size int) {
	at, ok := c.links.Load(pc)
	if !ok {
		return
	}
	l := at.(*link)
	c.spawn(func() {
		if d, ok := c.asking.Load(hash(pc.Torrent().InfoHash())); ok && size > 0 {
			if err := d.(*download).askPeer(l.ctx, l, size); err != nil {
				c.log.DebugContext(l.ctx, "peer gave no metadata", slog.String("peer", pc.RemoteAddr.String()), slog.Any("error", err))
			}
		}
		c.answer(l.ctx, l)
	})
}

// hear takes a message of a peer.
func (c *Client) hear(pc *bt.PeerConn, payload []byte) {
	l, ok := c.links.Load(pc)
	if !ok {
		return
	}
	select {
	case l.(*link).in <- append([]byte(nil), payload...):
	default:
	}
}

// metadata is that of a torrent that is here, as others are given it.
type metadata struct{ text []byte }

// message is a message about metadata, without the bytes that follow it.
type message struct {
	Type  int `bencode:"msg_type"`
	Piece int `bencode:"piece"`
	Total int `bencode:"total_size,omitempty"`
}

// maxDictionary bounds the text of a message, in bytes: some 50 are needed.
const maxDictionary = 512

// parseMessage returns a message and the bytes behind it.
func parseMessage(payload []byte) (m message, data []byte, err error) {
	head := payload[:min(len(payload), maxDictionary)]
	err = bencode.Unmarshal(head, &m)
	if rest := (bencode.ErrUnusedTrailingBytes{}); errors.As(err, &rest) {
		return m, payload[len(head)-rest.NumUnusedBytes:], nil
	}
	return m, payload[len(head):], err
}

func (l *link) send(m message, data []byte) error {
	return l.pc.WriteExtendedMessage(pp.ExtensionNameMetadata, append(bencode.MustMarshal(m), data...))
}

// answer gives a peer the metadata that it asks for, until the connection ends.
func (c *Client) answer(ctx context.Context, l *link) {
	for {
		var payload []byte
		select {
		case payload = <-l.in:
		case <-ctx.Done():
			return
		}
		m, _, err := parseMessage(payload)
		if err != nil || m.Type != metadataRequest {
			continue
		}
		if err := c.reply(ctx, l, m.Piece); err != nil {
			return
		}
	}
}

func (c *Client) reply(ctx context.Context, l *link, piece int) error {
	var info []byte
	if m, ok := c.known.Load(hash(l.pc.Torrent().InfoHash())); ok {
		info = m.(*metadata).text
	}
	if piece < 0 || piece > len(info)/metadataChunk || piece*metadataChunk == len(info) {
		return l.send(message{Type: metadataReject, Piece: piece}, nil)
	}
	data := info[piece*metadataChunk:]
	data = data[:min(len(data), metadataChunk)]
	if l.give == nil {
		l.give = rate.NewLimiter(spareMetadataSecond, len(info)+spareMetadata)
	}
	if !l.give.AllowN(time.Now(), len(data)) {
		return nil
	}
	if err := c.allow(ctx, len(data)); err != nil {
		return err
	}
	return l.send(message{Type: metadataData, Piece: piece, Total: len(info)}, data)
}

// nudgePeers says something to each peer that will be answered. The library of
// either side may have overlooked that there is something to write (v1.60.0,
// peerConnMsgWriter.run looks before it listens); the next message has it look
// again. While the metadata is asked for, an answer would be taken for a part of it.
func (d *download) nudgePeers() {
	select {
	case <-d.t.Load().GotInfo():
	default:
		return
	}
	for _, pc := range d.t.Load().PeerConns() {
		if l, ok := d.c.links.Load(pc); ok {
			l.(*link).send(message{Type: metadataRequest}, nil) // one that cannot be asked is not nudged
		}
	}
}

// mostMetadata returns how long the metadata of a content's torrent can be.
func mostMetadata(c eris.ReadCap) int {
	most := int64(torrent.MaxInfo)
	if length := c.MaxLength(); length < torrent.MaxLength {
		nodes := eris.NewShape(c.Size, length).Nodes()
		most = min(most, (nodes*int64(c.Size)/torrent.PieceLength+1)*sha1.Size+512)
	}
	return int(most)
}

// askPeer gets the metadata from one peer, if it is not there meanwhile.
func (d *download) askPeer(ctx context.Context, l *link, size int) error {
	if size > mostMetadata(d.cap) {
		return fmt.Errorf("%d bytes of metadata, limit %d", size, mostMetadata(d.cap))
	}
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-d.known:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	info := make([]byte, size)
	chunks := (size + metadataChunk - 1) / metadataChunk
	late := time.NewTimer(d.c.o.Idle)
	defer late.Stop()
	asked := 0
	for got := 0; got < chunks; {
		for ; asked < chunks && asked < got+metadataWindow; asked++ {
			if err := l.send(message{Type: metadataRequest, Piece: asked}, nil); err != nil {
				return err
			}
		}
		var payload []byte
		select {
		case payload = <-l.in:
		case <-late.C:
			return errors.New("nothing came")
		case <-d.known:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		m, data, err := parseMessage(payload)
		switch {
		case err != nil:
			return err
		case m.Type == metadataReject:
			return errors.New("refused")
		case m.Type != metadataData:
			continue // it asks us, who have none
		case m.Piece != got || len(data) != min(metadataChunk, size-got*metadataChunk):
			return fmt.Errorf("chunk %d of %d bytes came instead of %d", m.Piece, len(data), got)
		}
		copy(info[got*metadataChunk:], data)
		got++
		d.noteBytes(len(data))
		late.Reset(d.c.o.Idle)
	}
	return d.learn(l.pc.Torrent(), info)
}

// learn takes the metadata if it is right. One of the right hash that is not of
// the content's torrent refuses the download.
func (d *download) learn(t *bt.Torrent, text []byte) error {
	if sha1.Sum(text) != d.hash {
		return errors.New("metadata of another torrent")
	}
	i, err := torrent.ParseInfo(text)
	if err != nil {
		d.refuse(err)
		return err
	}
	if _, err := i.Shape(d.cap); err != nil {
		d.refuse(err)
		return err
	}
	if err := t.SetInfoBytes(text); err != nil {
		return err
	}
	m := &metadata{text}
	d.c.known.Store(d.hash, m)
	context.AfterFunc(d.ctx, func() { d.c.known.CompareAndDelete(d.hash, m) })
	return nil
}
