package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"

	"ersatz/guixsig"
	"ersatz/internal/discover"
	"ersatz/internal/durable"
	"ersatz/internal/node"
	"ersatz/internal/noded"
	"ersatz/internal/transfer"
	"ersatz/internal/transport/peer"
	"ersatz/internal/upstream"
	"ersatz/internal/votes"
	"ersatz/nixsig"
)

// noSocket is the path of the socket that is not opened.
const noSocket = "none"

// nodeFlags are the settings of node as they are written.
type nodeFlags struct {
	listen, upstreams, nixKeys, shareLists, peers []string
	from, serve                                   []string
	socket, state, acl, policy, share             string
	quota, uploadLimit, ipfs, votes, discover     string
}

// options reads the flags and reports all that is wrong with them.
func (f nodeFlags) options(log *slog.Logger) (noded.Options, error) {
	o := noded.Options{Node: node.Options{Log: log, Version: version()}}
	var errs []error
	note := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	var err error
	seen := map[string]bool{}
	for _, text := range f.upstreams {
		sv, err := upstream.ParseServer(text)
		if err == nil && seen[sv.String()] {
			err = fmt.Errorf("%s is given twice", sv)
		}
		if err != nil {
			note("upstream", err)
			continue
		}
		seen[sv.String()] = true
		o.Servers = append(o.Servers, sv)
	}
	for _, text := range f.peers {
		_, err := peer.New(text, nil)
		note("peer", err)
		o.Peers = append(o.Peers, text)
	}
	o.Stores, err = f.plan()
	errs = append(errs, err)
	o.Quota, err = parseSize(f.quota)
	if err == nil && o.Quota == 0 {
		err = errors.New("nothing could be kept")
	}
	note("quota", err)
	if f.uploadLimit != "" {
		limit, err := parseSize(strings.TrimSuffix(f.uploadLimit, "/s"))
		if err == nil && limit == 0 {
			err = errors.New("nothing could be shared; --share=none says so")
		}
		note("upload-limit", err)
		o.Node.Upload = node.NewLimiter(limit)
	}
	o.Node.Share, err = node.ParseShare(f.share)
	note("share", err)
	if f.acl != "" || len(f.nixKeys) > 0 {
		parseACL := unlessSame(guixsig.ParseACL)
		o.Node.Keys = func() (node.Keys, error) { return f.keys(parseACL) }
		_, err = o.Node.Keys()
		errs = append(errs, err)
	}
	if f.votes != "" {
		o.Node.Votes = func() (votes.Policy, error) { return votes.Load(f.votes) }
		_, err = o.Node.Votes()
		note("votes", err)
	}
	for _, name := range f.shareLists {
		k, err := readKeys(name)
		note("share-list", err)
		o.Node.ShareKeys = o.Node.ShareKeys.Add(k)
	}
	o.Policy, err = transfer.ParsePolicy(f.policy)
	note("policy", err)
	browse, err := f.browses(o.Node.Share, o.Policy)
	note("discover", err)
	if browse {
		o.Browser = discover.New(discover.Options{Log: log})
	}
	errs = append(errs, f.contradictions(o.Node.Share, o.Policy)...)
	return o, usageError(errors.Join(errs...))
}

// contradictions returns what flags say against each other.
func (f nodeFlags) contradictions(share node.Share, policy transfer.Policy) (errs []error) {
	if share == node.ShareNone && len(f.serve) == 0 {
		if len(f.shareLists) > 0 {
			errs = append(errs, errors.New("--share-list needs --share=lan, --share=all or --serve"))
		}
		if f.uploadLimit != "" {
			errs = append(errs, errors.New("--upload-limit needs --share=lan, --share=all or --serve"))
		}
	}
	if share != node.ShareNone && len(f.shareLists) == 0 {
		errs = append(errs, fmt.Errorf("--share=%s needs a --share-list: there is no default one", share))
	}
	if policy == transfer.HTTPOnly && len(f.peers) > 0 {
		errs = append(errs, errors.New("--peer contradicts --policy=http-only"))
	}
	if policy == transfer.HTTPOnly && f.discover == discoverYes {
		errs = append(errs, errors.New("--discover=yes contradicts --policy=http-only"))
	}
	return append(errs, f.storeContradictions(policy)...)
}

// keys reads the keys whose narinfos count, anew each time, so that a change of
// the files holds at once. Without a flag there are none.
func (f nodeFlags) keys(parseACL func([]byte) (guixsig.ACL, error)) (node.Keys, error) {
	var all node.Keys
	var errs []error
	if f.acl != "" {
		text, err := readFile(f.acl)
		if err == nil {
			if all.Guix, err = parseACL(text); err != nil {
				err = fmt.Errorf("%s: %w", f.acl, err)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("--acl: %w", err))
		}
	}
	for _, value := range f.nixKeys {
		key, err := nixsig.ParsePublicKey(value)
		if err == nil {
			all.Nix = append(all.Nix, key)
			continue
		}
		k, fileErr := readKeys(value)
		switch {
		case errors.Is(fileErr, fs.ErrNotExist):
			errs = append(errs, fmt.Errorf("--nix-trusted-key: neither a file nor a key: %w", err))
		case fileErr != nil:
			errs = append(errs, fmt.Errorf("--nix-trusted-key: %w", fileErr))
		case len(k.Nix) == 0:
			errs = append(errs, fmt.Errorf("--nix-trusted-key: %s has no key of Nix", value))
		}
		all.Nix = append(all.Nix, k.Nix...)
	}
	return all, errors.Join(errs...)
}

// unlessSame returns parse for a file that is read very often and seldom changes:
// the text that was parsed last is not parsed again, so that what is computed of its
// keys is computed once. The function is safe for concurrent use.
func unlessSame[T any](parse func(text []byte) (T, error)) func(text []byte) (T, error) {
	var mu sync.Mutex
	var last []byte // nil: none was good
	var parsed T
	return func(text []byte) (T, error) {
		mu.Lock()
		defer mu.Unlock()
		if last != nil && bytes.Equal(text, last) {
			return parsed, nil
		}
		x, err := parse(text)
		if err == nil {
			last, parsed = append([]byte{}, text...), x
		}
		return x, err
	}
}

// readKeys reads a list of keys.
func readKeys(name string) (node.Keys, error) {
	text, err := readFile(name)
	if err != nil {
		return node.Keys{}, err
	}
	k, err := node.ParseKeys(text)
	if err != nil {
		return k, fmt.Errorf("%s: %w", name, err)
	}
	return k, nil
}

// sockets are what a node listens on.
type sockets struct {
	web  []net.Listener
	unix []net.Listener
	own  string // file of a Unix socket that this process has made
}

// open returns the sockets that systemd has passed, and those of the flags for
// each kind of which it has passed none.
func (f nodeFlags) open() (s sockets, err error) {
	passed, err := activation.Listeners()
	if err != nil {
		return s, fmt.Errorf("socket activation: %w", err)
	}
	for _, l := range passed {
		switch l.(type) {
		case nil: // no stream socket
		case *net.UnixListener:
			s.unix = append(s.unix, l)
		default:
			s.web = append(s.web, l)
		}
	}
	if len(s.web) == 0 {
		for _, address := range f.listen {
			l, err := net.Listen("tcp", address)
			if err != nil {
				return s, errors.Join(fmt.Errorf("listening on %s: %w", address, local(err)), s.close())
			}
			s.web = append(s.web, l)
		}
	}
	if len(s.unix) == 0 && f.socket != noSocket {
		l, err := listenUnix(f.socket)
		if err != nil {
			return s, errors.Join(unlessPermitted(err, "--socket names another one; none: no socket"), s.close())
		}
		s.unix, s.own = append(s.unix, l), f.socket
	}
	return s, nil
}

// local takes the *net.OpError away, which means that another machine does not
// answer.
func local(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// listenUnix makes a Unix socket that all users can reach. One that a killed
// process has left is replaced, one that somebody listens on is not.
func listenUnix(name string) (net.Listener, error) {
	if err := durable.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	l, err := net.Listen("unix", name)
	if errors.Is(err, syscall.EADDRINUSE) {
		c, dialErr := net.Dial("unix", name)
		if dialErr == nil {
			return nil, errors.Join(fmt.Errorf("socket %s: another process listens on it", name), c.Close())
		}
		// A file that is no socket refuses too.
		if fi, statErr := os.Lstat(name); statErr == nil && fi.Mode().Type() == fs.ModeSocket && errors.Is(dialErr, syscall.ECONNREFUSED) {
			if err := os.Remove(name); err != nil {
				return nil, fmt.Errorf("socket: %w", err)
			}
			l, err = net.Listen("unix", name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", name, local(err))
	}
	if err := os.Chmod(name, 0o666); err != nil {
		return nil, errors.Join(fmt.Errorf("socket: %w", err), l.Close())
	}
	return l, nil
}

// reachable reports whether another machine can reach a socket.
func (s sockets) reachable() bool {
	return slices.ContainsFunc(s.web, func(l net.Listener) bool {
		a, err := netip.ParseAddrPort(l.Addr().String())
		return err == nil && !a.Addr().Unmap().IsLoopback()
	})
}

// close closes what was never served; closing again does no harm.
func (s sockets) close() error {
	var errs []error
	for _, l := range slices.Concat(s.web, s.unix) {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
