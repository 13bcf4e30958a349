package stores

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"

	"ersatz/internal/block"
	"ersatz/internal/fetch"
	"ersatz/internal/transport/coap"
)

// maxKey bounds a file with a key for DTLS, and minKey the key, in bytes.
const (
	maxKey = 4 << 10
	minKey = 16
)

func coapSchemes() []scheme {
	s := scheme{
		name: schemeCoAPTCP, form: "coap+tcp://HOST[:PORT][/PATH][?get&put]",
		host: true, asks: true,
		uses:   useFrom | useTo | useServe,
		check:  checkCoAP,
		secret: func(path string) bool { return path != coap.WellKnown },
		open:   openCoAP,
	}
	udp, dtls := s, s
	udp.name, udp.form = schemeCoAP, "coap"+strings.TrimPrefix(s.form, "coap+tcp")
	dtls.name, dtls.form = schemeCoAPS, "coaps://HOST[:PORT][/PATH]?identity=ID&key-file=FILE[&get&put]"
	dtls.params = map[string]paramRule{"identity": {}, "key-file": {}}
	return []scheme{s, udp, dtls}
}

// checkCoAP fills in the path, and looks at the rest as the client does.
func checkCoAP(u *URL) error {
	if u.path = strings.TrimSuffix(u.path, "/"); u.path == "" {
		u.path = coap.WellKnown
	}
	if _, err := coap.ParseStore(schemeCoAP + "://localhost" + escapePath(u.path)); err != nil || strings.HasSuffix(u.path, "/") {
		return errors.New("has a path with an empty or long segment, a dot alone, or too many") // the error repeats it
	}
	if u.scheme == schemeCoAPS && (u.param("identity") == "" || u.param("key-file") == "") {
		return errors.New("needs identity=ID, the name of the key, and key-file=FILE, which has it")
	}
	return nil
}

func openCoAP(ctx context.Context, s *Set, u URL, uses use) error {
	var key coap.Key
	if u.scheme == schemeCoAPS {
		var err error
		if key, err = readKey(u.param("identity"), u.param("key-file")); err != nil {
			return err
		}
	}
	if uses.has(useFrom | useTo) {
		client := u
		client.params = nil
		client.get, client.put, client.said = uses.has(useFrom), uses.has(useTo), true
		c, err := coap.New(client.Full(), coap.Options{Key: key})
		if err != nil {
			return invalid("is no CoAP store") // the error repeats the path
		}
		s.onClose(c.Close)
		if uses.has(useFrom) {
			s.source(u, block.Everything(c), fetch.Network{})
		}
		if uses.has(useTo) {
			s.putter(u, c)
		}
	}
	if uses.has(useServe) {
		return s.serveCoAP(ctx, u, key)
	}
	return nil
}

// readKey reads the key of DTLS: what is in a file, without the end of the line.
func readKey(identity, file string) (coap.Key, error) {
	f, err := os.Open(file)
	if err != nil {
		return coap.Key{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return coap.Key{}, err
	}
	secret := strings.TrimRight(string(b), "\r\n")
	if len(secret) < minKey || len(b) > maxKey {
		return coap.Key{}, invalid("%s: a key has from %d to %d bytes", file, minKey, maxKey)
	}
	return coap.Key{Identity: identity, Secret: []byte(secret)}, nil
}

func (s *Set) serveCoAP(ctx context.Context, u URL, key coap.Key) error {
	server, err := coap.NewServer([]coap.Resource{{Path: u.path, Blocks: s.o.Library}}, coap.ServerOptions{
		Limit: s.o.Limiter, Log: s.o.Log,
	})
	if err != nil {
		return err
	}
	switch u.scheme {
	case schemeCoAPTCP:
		l, err := s.listen(ctx, u, "5683")
		if err != nil {
			return err
		}
		s.onRun(u, func(ctx context.Context) error { return server.ServeTCP(ctx, l) })
	case schemeCoAP:
		var lc net.ListenConfig
		c, err := lc.ListenPacket(ctx, "udp", u.address("5683"))
		if err != nil {
			return err
		}
		s.listening(u, c.LocalAddr(), c.Close)
		s.onRun(u, func(ctx context.Context) error { return server.ServeUDP(ctx, c.(*net.UDPConn)) })
	case schemeCoAPS:
		l, err := coap.ListenDTLS("udp", u.address("5684"), map[string][]byte{key.Identity: key.Secret})
		if err != nil {
			return err
		}
		s.listening(u, l.Addr(), l.Close)
		s.onRun(u, func(ctx context.Context) error { return server.ServeDTLS(ctx, l) })
	}
	return nil
}
