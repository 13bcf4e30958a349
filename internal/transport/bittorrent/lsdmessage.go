package bittorrent

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Bounds of a message of local discovery (BEP 14, "Protocol").
const (
	maxLocal       = 1400 // bytes of a datagram
	maxLocalHashes = 24   // that one of ours names
)

const localRequest = "BT-SEARCH * HTTP/1.1"

// errLocal says that a datagram is no message of BEP 14.
var errLocal = errors.New("malformed announcement")

// localMessage says that whoever sends it has, or fetches, some torrents.
type localMessage struct {
	port   uint16 // by TCP, at the address that it comes from
	hashes []hash
	cookie string // by which the sender knows it for its own; may be ""
}

// parseLocal reads a message of at most maxLocal bytes, whose end is the first
// empty line. What is not known is passed over, also hashes of another form: those
// of version 2 are longer. The error matches errLocal.
func parseLocal(b []byte) (localMessage, error) {
	var m localMessage
	if len(b) > maxLocal {
		return m, fmt.Errorf("%w: %d bytes", errLocal, len(b))
	}
	first, rest, _ := strings.Cut(string(b), "\r\n")
	if first != localRequest {
		return m, fmt.Errorf("%w: another request", errLocal)
	}
	for {
		line, after, ended := strings.Cut(rest, "\r\n")
		if !ended {
			return m, fmt.Errorf("%w: cut off", errLocal)
		}
		if line == "" {
			break
		}
		rest = after
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return m, fmt.Errorf("%w: a line without a colon", errLocal)
		}
		value = strings.TrimSpace(value)
		switch strings.ToLower(name) {
		case "port":
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil || n == 0 || m.port != 0 {
				return m, fmt.Errorf("%w: port", errLocal)
			}
			m.port = uint16(n)
		case "infohash":
			var h hash
			if n, err := hex.Decode(h[:], []byte(value[:min(len(value), 2*len(h))])); err == nil && n == len(h) && len(value) == 2*len(h) {
				m.hashes = append(m.hashes, h)
			}
		case "cookie":
			m.cookie = value
		}
	}
	if m.port == 0 || len(m.hashes) == 0 {
		return m, fmt.Errorf("%w: no port, or no hash", errLocal)
	}
	return m, nil
}

// bytes returns the message as it is sent to a group. Some programs heed only the
// first hash (aria2 1.36).
func (m localMessage) bytes(group netip.AddrPort) []byte {
	b := fmt.Appendf(make([]byte, 0, maxLocal), "%s\r\nHost: %s\r\nPort: %d\r\n", localRequest, group, m.port)
	for _, h := range m.hashes {
		b = fmt.Appendf(b, "Infohash: %x\r\n", h)
	}
	if m.cookie != "" {
		b = fmt.Appendf(b, "cookie: %s\r\n", m.cookie)
	}
	return append(b, "\r\n\r\n"...)
}
