package gnunet

import (
	"bufio"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"ersatz/eris"
)

// blockType is the type that blocks have in the DHT: GNUNET_BLOCK_TYPE_TEST, which
// gnunet-dht-put and gnunet-dht-get have as well if they are told no other. A
// type that nobody knows would be kept, too, but peers drop answers of other peers
// that are of a type for which they have no plugin (handle_dht_p2p_result in
// gnunet-service-dht_neighbours.c), and this is the one type that allows any data
// under any key.
const blockType = 8

// Messages between a client and the DHT service (gnunet_protocols.h, "DHT message
// types", and src/dht/dht.h of GNUnet 0.19.3). Numbers are big endian; a message
// begins with its length and its type, two bytes each.
const (
	typePut    = 142 // struct GNUNET_DHT_ClientPutMessage
	typeGet    = 143 // struct GNUNET_DHT_ClientGetMessage
	typeStop   = 144 // struct GNUNET_DHT_ClientGetStopMessage
	typeResult = 145 // struct GNUNET_DHT_ClientResultMessage
	typeHello  = 161 // a header alone: asks for the peer's own HELLO
	typeURL    = 159 // the answer to that
)

// Lengths in bytes.
const (
	headerLen  = 4
	putLen     = 88 // the block follows
	getLen     = 88
	stopLen    = 80
	resultLen  = 104       // the path follows, then the data
	maxMessage = 1<<16 - 1 // what a length can say (GNUNET_MAX_MESSAGE_SIZE)
	peerLen    = 32        // struct GNUNET_PeerIdentity
	hopLen     = 32 + 64   // struct GNUNET_DHT_PathElement
)

// Options of routing (gnunet_dht_service.h, enum GNUNET_DHT_RouteOption).
const (
	optionEverywhere = 1 // each peer on the way keeps it, or looks for it
	optionTruncated  = 8 // of a result: a peer's identity stands before the path
)

// maxReplication is the highest replication level that a service takes
// (GNUNET_DHT_MAXIMUM_REPLICATION_LEVEL): it hangs up on more.
const maxReplication = 16

// errMessage says that the service sent what is no message of its protocol.
var errMessage = errors.New("message of the DHT service is malformed")

// key is where a block is found in the DHT: GNUnet's hash of the reference as
// text, so that gnunet-dht-get finds it, too.
type key [sha512.Size]byte

func keyOf(ref eris.Ref) key { return sha512.Sum512([]byte(ref.String())) }

func appendHeader(b []byte, length int, kind uint16) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	return binary.BigEndian.AppendUint16(b, kind)
}

// appendPut asks to keep a block until a time.
func appendPut(b []byte, k key, replication uint32, until time.Time, block []byte) []byte {
	b = appendHeader(b, putLen+len(block), typePut)
	b = binary.BigEndian.AppendUint32(b, blockType)
	b = binary.BigEndian.AppendUint32(b, optionEverywhere)
	b = binary.BigEndian.AppendUint32(b, replication)
	b = binary.BigEndian.AppendUint64(b, uint64(until.UnixMicro()))
	b = append(b, k[:]...)
	return append(b, block...)
}

// appendGet begins to look for a block, until appendStop or the end of the
// connection. id is any number; two clients of one service must not use the
// same for the same key.
func appendGet(b []byte, k key, replication uint32, id uint64) []byte {
	b = appendHeader(b, getLen, typeGet)
	b = binary.BigEndian.AppendUint32(b, optionEverywhere)
	b = binary.BigEndian.AppendUint32(b, replication)
	b = binary.BigEndian.AppendUint32(b, blockType)
	b = append(b, k[:]...)
	return binary.BigEndian.AppendUint64(b, id)
}

func appendStop(b []byte, k key, id uint64) []byte {
	b = appendHeader(b, stopLen, typeStop)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint64(b, id)
	return append(b, k[:]...)
}

// appendHello asks for what is answered at once, in the order of the messages,
// and sends nothing into the network.
func appendHello(b []byte) []byte { return appendHeader(b, headerLen, typeHello) }

// readMessage reads a message into buf, which has room for maxMessage bytes. It
// returns its type and what follows the header. The error is io.EOF if the
// connection ends before the message begins.
func readMessage(r *bufio.Reader, buf []byte) (kind uint16, body []byte, err error) {
	header := buf[:headerLen]
	if n, err := io.ReadFull(r, header); err != nil {
		if n > 0 {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	length := int(binary.BigEndian.Uint16(header))
	kind = binary.BigEndian.Uint16(header[2:])
	if length < headerLen {
		return 0, nil, fmt.Errorf("%w: %d bytes long", errMessage, length)
	}
	body = buf[headerLen:length]
	if _, err := io.ReadFull(r, body); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, body, nil
}

// result is what is in a result that matters here.
type result struct {
	kind uint32
	id   uint64
	key  key
	data []byte // part of the message
}

// parseResult reads what follows the header of a result.
func parseResult(body []byte) (result, error) {
	if len(body) < resultLen-headerLen {
		return result{}, fmt.Errorf("%w: result of %d bytes", errMessage, headerLen+len(body))
	}
	number := func(at int) uint32 { return binary.BigEndian.Uint32(body[at-headerLen:]) }
	skip := hopLen * (uint64(number(16)) + uint64(number(20))) // paths of the put and of the get
	if number(12)&optionTruncated != 0 {
		skip += peerLen
	}
	data := body[resultLen-headerLen:]
	if skip > uint64(len(data)) {
		return result{}, fmt.Errorf("%w: path of %d bytes in %d", errMessage, skip, len(data))
	}
	return result{
		kind: number(4),
		id:   binary.BigEndian.Uint64(body[24-headerLen:]),
		key:  key(body[40-headerLen : resultLen-headerLen]),
		data: data[skip:],
	}, nil
}
