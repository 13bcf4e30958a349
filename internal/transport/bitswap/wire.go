package bitswap

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ipfs/boxo/bitswap/message"
	exchange "github.com/ipfs/boxo/bitswap/network"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"
)

const (
	// bitswap12 is the version in which a peer says what it lacks.
	bitswap12 protocol.ID = "/ipfs/bitswap/1.2.0"

	// strangerStreams is how many streams a peer has that is not asked for blocks:
	// to ask, one is enough.
	strangerStreams = 32

	// sendTime is how long a message with a block may take to be sent.
	sendTime = 30 * time.Second
)

// wire sends messages, one after the other, over one stream to each peer: what
// comes on it is in order, and a stream for each message, as boxo has it, is
// refused by peers that have too many, with the block that is in it. What is
// not done here the embedded network does for the server.
type wire struct {
	exchange.BitSwapNetwork
	host  host.Host
	limit Limiter // nil: none

	mu      sync.Mutex
	lanes   map[peer.ID]*lane // to those who are connected
	streams map[peer.ID]int   // that come from there
}

// lane is the stream to a peer.
type lane struct {
	mu     sync.Mutex
	stream network.Stream // nil: none yet
}

func newWire(h host.Host, limit Limiter) *wire {
	return &wire{BitSwapNetwork: bsnet.NewFromIpfsHost(h), host: h, limit: limit, lanes: map[peer.ID]*lane{}, streams: map[peer.ID]int{}}
}

// viaRelay lets what is done with ctx go by a relay.
func viaRelay(ctx context.Context) context.Context {
	return network.WithAllowLimitedConn(ctx, "bitswap")
}

// SendMessage sends a message of the server.
func (w *wire) SendMessage(ctx context.Context, to peer.ID, m message.BitSwapMessage) error {
	if w.limit != nil {
		for _, b := range m.Blocks() {
			if err := w.limit.WaitN(ctx, len(b.RawData())); err != nil {
				return err
			}
		}
	}
	return w.send(ctx, to, m, sendTime)
}

// send sends a message to a peer that is connected. A connection over which that
// cannot be done in time is closed.
func (w *wire) send(ctx context.Context, to peer.ID, m message.BitSwapMessage, patience time.Duration) error {
	l := w.lane(to)
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := l.stream == nil
	err := w.write(ctx, l, to, m, patience)
	if err != nil && !fresh && ctx.Err() == nil {
		err = w.write(ctx, l, to, m, patience) // the stream was of a connection that has ended
	}
	if err == nil {
		return nil
	}
	if ctx.Err() == nil && !errors.Is(err, multistream.ErrNotSupported[protocol.ID]{}) {
		err = errors.Join(err, w.host.Network().ClosePeer(to))
	}
	if w.host.Network().Connectedness(to) == network.NotConnected {
		w.forget(to) // it may have gone before there was a lane
	}
	return err
}

// write sends a message on the stream of a lane, a new one if there is none, or a
// way without a relay by now. After an error there is none.
func (w *wire) write(ctx context.Context, l *lane, to peer.ID, m message.BitSwapMessage, patience time.Duration) error {
	if l.stream != nil && l.stream.Conn().Stat().Limited && w.host.Network().Connectedness(to) == network.Connected {
		_ = l.stream.CloseWrite() // what is on its way still arrives
		l.stream = nil
	}
	if l.stream == nil {
		ctx, cancel := context.WithTimeout(network.WithNoDial(viaRelay(ctx), "bitswap"), patience)
		defer cancel()
		s, err := w.host.NewStream(ctx, to, bitswap12)
		if err != nil {
			return err
		}
		l.stream = s
	}
	err := l.stream.SetWriteDeadline(time.Now().Add(patience))
	if err == nil {
		err = m.ToNetV1(l.stream)
	}
	if err != nil {
		// What ending it meets says nothing more.
		_ = l.stream.Reset()
		l.stream = nil
	}
	return err
}

func (w *wire) lane(to peer.ID) *lane {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.lanes[to]
	if l == nil {
		l = &lane{}
		w.lanes[to] = l
	}
	return l
}

// forget forgets the stream to a peer that is not connected any more.
func (w *wire) forget(id peer.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.lanes, id)
}

// receive has handle called for each message that comes, until the host ends. asked
// says whether a peer is asked for blocks: others take neither all streams nor all
// memory that there is.
func (w *wire) receive(asked func(peer.ID) bool, handle func(from peer.ID, m message.BitSwapMessage)) {
	w.host.SetStreamHandler(bitswap12, func(s network.Stream) {
		from := s.Conn().RemotePeer()
		defer w.left(from)
		if w.came(from) > strangerStreams && !asked(from) {
			_ = s.Reset()
			return
		}
		defer s.Close()
		for {
			priority := network.ReservationPriorityHigh
			if asked(from) {
				priority = network.ReservationPriorityAlways
			}
			m, err := read(s, priority)
			if err != nil {
				// The peer ended it, or is to be rid of.
				_ = s.Reset()
				return
			}
			handle(from, m)
		}
	})
}

// came counts a stream, and returns how many of the peer there are.
func (w *wire) came(from peer.ID) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams[from]++
	return w.streams[from]
}

// left is told that a stream that was counted has ended.
func (w *wire) left(from peer.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.streams[from]--; w.streams[from] == 0 {
		delete(w.streams, from)
	}
}
