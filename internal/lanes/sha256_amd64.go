//go:build !purego

package lanes

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"math"
	"slices"
)

// sha256Block is what SHA-256 takes at a time, in bytes.
const sha256Block = 64

// shaHere says whether crypto/sha256 has the processor's instructions.
var shaHere = here >= avx2 && hasSHA()

// sha256Plan returns how many lanes to use, and for how many messages at least.
// Fewer are hashed faster by crypto/sha256, one after the other.
func (l level) sha256Plan(sha bool) (width, fewest int) {
	switch {
	case l == avx512 && sha:
		return sha256Lanes, 5
	case l == avx512:
		return sha256Lanes, 2
	case l == avx2 && !sha:
		return 8, 3
	}
	return 1, 0
}

func (l level) sha256Width() int {
	width, _ := l.sha256Plan(shaHere)
	return width
}

func (l level) sumsSHA256(sums [][32]byte, msgs []Pieces) {
	width, fewest := l.sha256Plan(shaHere)
	if width == 1 || len(msgs) < fewest {
		portableSHA256(sums, msgs)
		return
	}
	l.laneSHA256(width, fewest, sums, msgs)
}

// laneSHA256 hashes up to width messages at once, until fewer than fewest are
// left.
func (l level) laneSHA256(width, fewest int, sums [][32]byte, msgs []Pieces) {
	var (
		lanes   [sha256Lanes]lane
		runs    [sha256Lanes][]byte // what each hashes next; none if it has no message
		scratch [sha256Lanes][2 * sha256Block]byte
		state   sha256State
	)
	waiting := queue{msgs: msgs}
	for i := range width {
		lanes[i].scratch = i
		lanes[i].begin(&waiting)
		state.begin(i)
	}
	for {
		var next [sha256Lanes]*byte
		var some *byte                                  // for lanes without a message
		active, ending, blocks := 0, false, math.MaxInt // ending: a lane has padding
		for i := range lanes {
			m := &lanes[i]
			if len(runs[i]) == 0 && m.padded {
				state.digest(&sums[m.index], i)
				m.begin(&waiting)
				state.begin(i)
			}
			if m.msg == nil {
				continue
			}
			if len(runs[i]) == 0 {
				runs[i] = m.run(&scratch[m.scratch])
			}
			some = &runs[i][0]
			next[i] = some
			active++
			ending = ending || m.padded
			blocks = min(blocks, len(runs[i])/sha256Block)
		}
		if active < fewest && !ending { // crypto/sha256 pads by itself
			for i := range lanes {
				if m := &lanes[i]; m.msg != nil {
					m.rest(&sums[m.index], &state, i, m.at-len(runs[i]))
				}
			}
			return
		}
		const half = sha256Lanes / 2
		if active <= half && width > half {
			// Into the first lanes.
			free := 0
			for i := half; i < sha256Lanes; i++ {
				if lanes[i].msg == nil {
					continue
				}
				for lanes[free].msg != nil {
					free++
				}
				lanes[i], lanes[free] = lanes[free], lanes[i]
				runs[i], runs[free] = runs[free], runs[i]
				next[i], next[free] = next[free], next[i]
				state.move(i, free)
			}
		}
		for i := range next {
			if next[i] == nil {
				next[i] = some
			}
		}
		l.sha256Blocks(active > half, &state, &next, blocks)
		for i, r := range runs {
			if len(r) > 0 {
				runs[i] = r[blocks*sha256Block:]
			}
		}
	}
}

// sha256Blocks takes so many blocks of 16 messages, or of the first 8.
func (l level) sha256Blocks(wide bool, state *sha256State, msgs *[sha256Lanes]*byte, blocks int) {
	switch {
	case l == avx2:
		sha256AVX2((*[8][16]uint32)(state), msgs, blocks)
	case wide:
		sha256AVX512((*[8][16]uint32)(state), msgs, blocks)
	default:
		sha256AVX512VL((*[8][16]uint32)(state), msgs, blocks)
	}
}

// lane is where a message is.
type lane struct {
	msg    *Pieces // nil if there is none
	index  int     // of the message
	piece  int     // what comes next is in this one
	off    int     // from here on
	at     int     // bytes of the message before that
	padded bool    // its end has been handed out too

	scratch int // which is its own
}

// begin takes a message that waits.
func (m *lane) begin(q *queue) {
	*m = lane{index: q.longest(), scratch: m.scratch}
	if m.index >= 0 {
		m.msg = &q.msgs[m.index]
	}
}

// run returns the next blocks of the message: as many as lie in one piece, or
// one that is in two, or the end with its padding, both in scratch.
func (m *lane) run(scratch *[2 * sha256Block]byte) []byte {
	n := 0
	for m.piece < len(m.msg) {
		p := m.msg[m.piece][m.off:]
		if n == 0 && len(p) >= sha256Block {
			p = p[:len(p)-len(p)%sha256Block]
			m.off += len(p)
			m.at += len(p)
			return p
		}
		c := copy(scratch[n:sha256Block], p)
		n += c
		m.off += c
		m.at += c
		if n == sha256Block {
			return scratch[:sha256Block]
		}
		m.piece, m.off = m.piece+1, 0
	}
	// FIPS 180-4, section 5.1.1, "SHA-1, SHA-224 and SHA-256".
	m.padded = true
	end := sha256Block
	if n+1+8 > end {
		end *= 2
	}
	scratch[n] = 0x80
	clear(scratch[n+1 : end-8])
	binary.BigEndian.PutUint64(scratch[end-8:], 8*uint64(m.at))
	return scratch[:end]
}

// rest hashes by crypto/sha256 what comes after the first done bytes, whole
// blocks, which are in lane i of state.
func (m *lane) rest(sum *[32]byte, state *sha256State, i, done int) {
	// What crypto/sha256 calls its binary form: magic, hash value, the block that
	// has begun, length.
	var form [4 + 32 + sha256Block + 8]byte
	copy(form[:], "sha\x03")
	state.digest((*[32]byte)(form[4:]), i)
	binary.BigEndian.PutUint64(form[len(form)-8:], uint64(done))
	h := sha256.New()
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(form[:]); err != nil {
		done = 0 // another version of Go has another form: from the beginning
	}
	for _, p := range m.msg {
		skip := min(done, len(p))
		h.Write(p[skip:])
		done -= skip
	}
	h.Sum(sum[:0])
}

// sha256State has the hash values of all lanes: word i of lane j is [i][j].
type sha256State [8][sha256Lanes]uint32

// begin sets a lane to FIPS 180-4, section 5.3.3, "SHA-256".
func (s *sha256State) begin(lane int) {
	for i, h := range [8]uint32{
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	} {
		s[i][lane] = h
	}
}

func (s *sha256State) move(from, to int) {
	for i := range s {
		s[i][to] = s[i][from]
	}
}

func (s *sha256State) digest(sum *[32]byte, lane int) {
	for i := range s {
		binary.BigEndian.PutUint32(sum[4*i:], s[i][lane])
	}
}

// queue gives the longest of the next messages, so that no long one is left for
// the end. It looks at so many, so as not to allocate.
type queue struct {
	msgs    []Pieces
	seen    int
	waiting [64]int // of those that were seen, the longest last
	n       int
}

// longest returns the index of a message, or -1 if none is left.
func (q *queue) longest() int {
	for ; q.n < len(q.waiting) && q.seen < len(q.msgs); q.seen++ {
		at, _ := slices.BinarySearchFunc(q.waiting[:q.n], q.msgs[q.seen].size(), func(i, size int) int {
			return q.msgs[i].size() - size
		})
		copy(q.waiting[at+1:], q.waiting[at:q.n])
		q.waiting[at] = q.seen
		q.n++
	}
	if q.n == 0 {
		return -1
	}
	q.n--
	return q.waiting[q.n]
}

// size is how many bytes the message has.
func (p *Pieces) size() int { return len(p[0]) + len(p[1]) + len(p[2]) }
