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

// check looks at a message before the library does, which would panic at some that
// it should refuse (v1.60.0: PeerConn.onReadHashes, and more where it believes
// numbers). What no honest peer sends closes the connection.
func check(pc *bt.PeerConn, m *pp.Message) {
	if m.Keepalive {
		return
	}
	if m.Type == pp.Port {
		// A node of the DHT. The library would ask it in a goroutine for each
		// message.
		m.Keepalive = true
		return
	}
	if !valid(pc.Torrent(), m) {
		*m = pp.Message{Type: refused}
	}
}

func valid(t *bt.Torrent, m *pp.Message) bool {
	pieces, length := torrent.MaxInfo/len(hash{}), int64(-1) // while they are not known
	if i := t.Info(); i != nil {
		pieces, length = i.NumPieces(), i.Length
	}
	switch m.Type {
	case pp.Choke, pp.Unchoke, pp.Interested, pp.NotInterested, pp.HaveAll, pp.HaveNone, pp.Extended:
		return true
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
