package coap

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/pion/dtls/v3"
	dtlsnet "github.com/pion/dtls/v3/pkg/net"
)

// Key is what the two sides of a DTLS connection know (RFC 7252, "Pre-Shared
// Keys").
type Key struct {
	Identity string // which key it is, sent in the clear
	Secret   []byte
}

// String hides the secret.
func (k Key) String() string { return "key " + k.Identity }

// errIdentity ends the handshake of a client whose key the server does not
// have.
var errIdentity = errors.New("no key of that identity")

// suites are the ways to encrypt: a fast one, and the one that every CoAP peer
// has (RFC 7252, "Pre-Shared Keys"). Who learns a key later can read what was
// recorded before.
func suites() dtls.Option {
	return dtls.WithCipherSuites(dtls.TLS_PSK_WITH_AES_128_GCM_SHA256, dtls.TLS_PSK_WITH_AES_128_CCM_8)
}

// clientDTLS shakes hands over a UDP socket, which it closes if that fails.
func clientDTLS(ctx context.Context, socket net.Conn, key Key) (net.Conn, error) {
	conn, err := dtls.ClientWithOptions(dtlsnet.PacketConnFromConn(socket), socket.RemoteAddr(), suites(),
		dtls.WithPSK(func([]byte) ([]byte, error) { return key.Secret, nil }),
		dtls.WithPSKIdentityHint([]byte(key.Identity)))
	if err == nil {
		if err = conn.HandshakeContext(ctx); err == nil {
			return conn, nil
		}
	}
	socket.Close()
	return nil, fmt.Errorf("DTLS: %w", err)
}

// ListenDTLS listens at a UDP address for clients that know one of keys, which
// are secrets by identity. Server.ServeDTLS serves them.
func ListenDTLS(network, address string, keys map[string][]byte) (net.Listener, error) {
	if len(keys) == 0 {
		return nil, errors.New("DTLS: no keys")
	}
	addr, err := net.ResolveUDPAddr(network, address)
	if err != nil {
		return nil, fmt.Errorf("DTLS: %w", err)
	}
	l, err := dtls.ListenWithOptions(network, addr, suites(),
		dtls.WithPSK(func(identity []byte) ([]byte, error) {
			if secret, ok := keys[string(identity)]; ok {
				return secret, nil
			}
			return nil, errIdentity
		}),
		dtls.WithPSKIdentityHint([]byte("ersatz")))
	if err != nil {
		return nil, fmt.Errorf("DTLS: %w", err)
	}
	return l, nil
}
