package bittorrent

import (
	"slices"

	bt "github.com/anacrolix/torrent"
	pp "github.com/anacrolix/torrent/peer_protocol"

	"ersatz/internal/torrent"
)

// maxRequest bounds what a peer asks for in one message, in bytes, as most
// programs do; 16 KiB are usual.
const maxRequest = 128 << 10

// refused is a type that no message has: the library closes the connection.
const refused = pp.MessageType(0xff)

// Bounds of extended messages (BEP 10), in bytes. The library parses what comes as
// deeply as it is nested.
const (
	maxHandshake = 4 << 10
	maxPex       = 4 << 10 // 50 peers that came and 50 that went, of both kinds of addresses, take 2,500
	maxMetadata  = metadataChunk + 1<<10
)

// check looks at a message before the library does, which would panic at some that
// it should refuse (v1.60.0: PeerConn.onReadHashes, and more where it believes
// numbers). What no honest peer sends closes the connection; what is of no use is
// passed over.
func (c *Client) check(pc *bt.PeerConn, m *pp.Message) {
	switch {
	case m.Keepalive:
	case m.Type == pp.Port:
		// A node of the DHT. The library would ask it in a goroutine for each
		// message.
		m.Keepalive = true
	case !valid(pc.Torrent(), m):
		*m = pp.Message{Type: refused}
	case m.Type == pp.Extended && !c.hears(pc, m):
		m.Keepalive = true
	}
}

// hears reports whether an extended message may be of use. A second handshake is
// not: the library would start another timer for it, and tell all peers of another
// address of this one. Peers of a seed find it themselves; the library would keep
// whatever it is told.
func (c *Client) hears(pc *bt.PeerConn, m *pp.Message) bool {
	l, ok := c.links.Load(pc)
	if !ok {
		return false
	}
	if m.ExtendedID == pp.HandshakeExtendedID {
		return !l.(*link).met.Swap(true)
	}
	switch name, _, _ := pc.LocalLtepProtocolMap.LookupId(m.ExtendedID); name {
	case pp.ExtensionNameMetadata:
		return true
	case pp.ExtensionNamePex:
		_, fetched := c.asking.Load(hash(pc.Torrent().InfoHash()))
		return fetched && len(m.ExtendedPayload) <= maxPex
	}
	return false
}

func valid(t *bt.Torrent, m *pp.Message) bool {
	pieces, length := torrent.MaxInfo/len(hash{}), int64(-1) // while they are not known
	if i := t.Info(); i != nil {
		pieces, length = i.NumPieces(), i.Length
	}
	switch m.Type {
	case pp.Choke, pp.Unchoke, pp.Interested, pp.NotInterested, pp.HaveAll, pp.HaveNone:
		return true
	case pp.Extended:
		return len(m.ExtendedPayload) <= maxMetadata && (m.ExtendedID != pp.HandshakeExtendedID || len(m.ExtendedPayload) <= maxHandshake)
	case pp.Have, pp.Suggest, pp.AllowedFast:
		return int64(m.Index) < int64(pieces)
	case pp.Bitfield:
		return length < 0 || len(m.Bitfield) == (pieces+7)/8*8 && !slices.Contains(m.Bitfield[pieces:], true)
	case pp.Request, pp.Cancel, pp.Reject:
		return within(m, int64(m.Length), length) && m.Length <= maxRequest
	case pp.Piece:
		const chunk = 16 << 10 // what the library asks for
		return m.Begin%chunk == 0 && len(m.Piece) <= chunk && within(m, int64(len(m.Piece)), length)
	}
	return false // of version 2, or unknown
}

// within reports whether n bytes at the place of a message are in one piece of a
// file of that length.
func within(m *pp.Message, n, length int64) bool {
	end := int64(m.Begin) + n
	return n > 0 && end <= torrent.PieceLength && int64(m.Index)*torrent.PieceLength+end <= length
}
