package bitswap

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"ersatz/internal/durable"
)

const (
	keyFile   = "key"   // private key as libp2p writes it, Ed25519
	peersFile = "peers" // multiaddrs of peers of the DHT, one a line

	maxKey        = 4 << 10  // bytes
	maxPeersFile  = 64 << 10 // bytes
	maxRemembered = 64       // peers
	maxAddrs      = 8        // of a peer
)

// openState returns the identity that a folder keeps, a new one if there is
// none, and the peers that it remembers. Without a folder all is new.
func openState(dir string) (crypto.PrivKey, []peer.AddrInfo, error) {
	if dir == "" {
		key, _, err := crypto.GenerateEd25519Key(rand.Reader)
		return key, nil, err
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, err
	}
	key, err := openKey(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, nil, err
	}
	text, err := readBounded(filepath.Join(dir, peersFile), maxPeersFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	return key, parseRemembered(text), nil
}

// openKey reads the key, or makes one.
func openKey(path string) (crypto.PrivKey, error) {
	b, err := readBounded(path, maxKey)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return nil, err
	}
	key, err := crypto.UnmarshalPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

func makeKey(path string) (crypto.PrivKey, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	b, err := crypto.MarshalPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, durable.WriteFile(path, 0o600, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// readBounded reads a file, at most limit bytes of it.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// parseRemembered reads the file of peers. Lines that are none are passed over.
func parseRemembered(text []byte) []peer.AddrInfo {
	var addrs []multiaddr.Multiaddr
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan() && len(addrs) < maxRemembered*maxAddrs; {
		m, err := multiaddr.NewMultiaddr(sc.Text())
		if err != nil {
			continue
		}
		if _, err := peer.AddrInfoFromP2pAddr(m); err == nil {
			addrs = append(addrs, m)
		}
	}
	infos, err := peer.AddrInfosFromP2pAddrs(addrs...)
	if err != nil {
		return nil // each of them was looked at
	}
	return infos[:min(len(infos), maxRemembered)]
}

// formatRemembered is the inverse of parseRemembered.
func formatRemembered(infos []peer.AddrInfo) []byte {
	var b bytes.Buffer
	for _, info := range infos[:min(len(infos), maxRemembered)] {
		for _, a := range info.Addrs[:min(len(info.Addrs), maxAddrs)] {
			fmt.Fprintf(&b, "%s/p2p/%s\n", a, info.ID)
		}
	}
	return b.Bytes()
}

// save remembers those by whom the DHT can be joined next time. While none is
// known, what was remembered stays.
func (h *Host) save() error {
	if h.dht == nil || h.opts.State == "" {
		return nil
	}
	var infos []peer.AddrInfo
	remember := func(ids []peer.ID, good func(multiaddr.Multiaddr) bool) {
		for _, id := range ids {
			info := h.host.Peerstore().PeerInfo(id)
			if info.Addrs = multiaddr.FilterAddrs(info.Addrs, good); len(info.Addrs) > 0 {
				infos = append(infos, info)
			}
		}
	}
	remember(h.dht.WAN.RoutingTable().ListPeers(), manet.IsPublicAddr) // see gater
	remember(h.dht.LAN.RoutingTable().ListPeers(), func(multiaddr.Multiaddr) bool { return true })
	if len(infos) == 0 {
		return nil
	}
	return durable.WriteFile(filepath.Join(h.opts.State, peersFile), 0o600, func(w io.Writer) error {
		_, err := w.Write(formatRemembered(infos))
		return err
	})
}
