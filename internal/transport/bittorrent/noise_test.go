package bittorrent_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/transport/bittorrent"
)

// TestNoise has strangers connect who know the info hash and say what no program
// says, to one that seeds and to one that fetches. The library has many assertions
// that would end this program.
func TestNoise(t *testing.T) {
	t.Parallel()
	tr := makeTree(t, eris.Size32KiB, 2_000_000)
	info := tr.info(t)
	_, seeds := seed(t, tr, magnet(info), bittorrent.Options{DHT: true, Bootstrap: []string{deaf(t)}})
	fetching := start(t, bittorrent.Options{Listen: "127.0.0.1:0", Idle: time.Second})
	fetched := open(t, fetching, tr, magnet(info))
	var work sync.WaitGroup
	defer work.Wait()
	end := time.Now().Add(noiseTime)
	for i := range 8 {
		addr := seeds
		if i%2 == 1 {
			addr = fetching.Addr().String()
		}
		work.Go(func() {
			dice := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(i)))
			for time.Now().Before(end) {
				disturb(addr, info.Hash(), dice)
			}
		})
	}
	for time.Now().Before(end) { // the pieces are asked for meanwhile
		gives(t.Context(), fetched, tr, tr.every()...)
	}
	work.Wait()
	s := open(t, start(t, bittorrent.Options{}), tr, magnet(info, peer(seeds)))
	wants(t, s, tr, tr.every()...)
}

// noiseTime is how long TestNoise goes on.
const noiseTime = 2 * time.Second

// disturb makes one connection and says nonsense.
func disturb(addr string, h [20]byte, dice *rand.Rand) {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	if dice.IntN(8) == 0 { // takes it for an encrypted handshake
		noise := make([]byte, dice.IntN(2000))
		for i := range noise {
			noise[i] = byte(dice.Uint32())
		}
		conn.Write(noise)
		return
	}
	hello := append([]byte("\x13BitTorrent protocol"), 0, 0, 0, 0, 0, 0x10, 0, byte(dice.IntN(2)*4+dice.IntN(2)))
	hello = append(hello, h[:]...)
	hello = fmt.Appendf(hello, "-NO0001-%012d", dice.Int64N(1e12))
	if _, err := conn.Write(hello); err != nil {
		return
	}
	if _, err := io.ReadFull(conn, make([]byte, 68)); err != nil {
		return
	}
	var drained sync.WaitGroup
	drained.Go(func() { io.Copy(io.Discard, conn) })
	defer drained.Wait()
	defer conn.Close()
	for range 1 + dice.IntN(30) {
		if _, err := conn.Write(nonsense(dice)); err != nil {
			return
		}
	}
}

// nonsense returns a message that is partly right.
func nonsense(dice *rand.Rand) []byte {
	kinds := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 20, 20, 20, 20, 21, 22, 23}
	kind := kinds[dice.IntN(len(kinds))]
	number := func() uint32 {
		return []uint32{0, 1, 7, 8, 16383, 16384, 262144, 1 << 31, 1<<32 - 1, dice.Uint32()}[dice.IntN(10)]
	}
	var body []byte
	switch kind {
	case 4, 13, 17: // have, suggest, allowed fast
		body = binary.BigEndian.AppendUint32(nil, number())
	case 6, 8, 16: // request, cancel, reject
		for range 3 {
			body = binary.BigEndian.AppendUint32(body, number())
		}
	case 7: // piece
		body = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, number()), number())
		body = append(body, make([]byte, []int{0, 1, 16383, 16384}[dice.IntN(4)])...)
	case 9: // port
		body = []byte{byte(dice.Uint32()), byte(dice.Uint32())}
	case 20:
		body = append(body, byte(dice.IntN(4)))
		body = append(body, extended(dice)...)
	case 21, 22, 23:
		body = make([]byte, 48)
	default:
		body = make([]byte, dice.IntN(40))
		for i := range body {
			body[i] = byte(dice.Uint32())
		}
	}
	if dice.IntN(8) == 0 && len(body) > 0 {
		body = body[:dice.IntN(len(body))]
	}
	if dice.IntN(8) == 0 && len(body) > 0 {
		body[dice.IntN(len(body))] ^= byte(dice.Uint32())
	}
	msg := binary.BigEndian.AppendUint32(nil, uint32(len(body)+1))
	return append(append(msg, kind), body...)
}

// extended returns the body of an extended message.
func extended(dice *rand.Rand) string {
	pick := func(s ...string) string { return s[dice.IntN(len(s))] }
	number := func() string {
		return pick("i0e", "i1e", "i2e", "i3e", "i-1e", "i300e", "i16384e", "i99999999e", "i9223372036854775807e", "1:x", "0:", "le", "de")
	}
	switch dice.IntN(5) {
	case 0:
		return "d1:ei" + pick("0", "1", "7") + "e4:ipv4" + pick("4:\x7f\x00\x00\x01", "3:abc", "0:") + "1:md11:ut_metadata" + number() +
			"6:ut_pex" + number() + "12:ut_holepunch" + number() + "e13:metadata_size" + number() + "1:p" + number() + "4:reqq" + number() +
			"1:v" + pick("1:x", "0:", "i1e") + "6:yourip" + pick("4:\x7f\x00\x00\x01", "16:0123456789abcdef", "1:x", "0:") + "e"
	case 1:
		return "d8:msg_type" + number() + "5:piece" + number() + "10:total_size" + number() + "e" + strings.Repeat("x", dice.IntN(200))
	case 2:
		return "d5:added" + pick("6:\x7f\x00\x00\x01\x1a\xe1", "5:abcde", "0:", "i1e") + "7:added.f" + pick("1:x", "0:", "2:xx") +
			"6:added6" + pick("18:0123456789abcdefgh", "1:x", "0:") + "7:dropped" + pick("6:\x7f\x00\x00\x01\x1a\xe1", "1:x", "0:") + "e"
	case 3:
		return strings.Repeat(pick("l", "d1:a"), dice.IntN(10_000))
	}
	return string([]byte{byte(dice.IntN(4)), byte(dice.IntN(3)), 127, 0, 0, 1, 0x1a, 0xe1, 0, 0, 0, byte(dice.IntN(3))})
}
