package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"

	"ersatz/internal/bake"
	"ersatz/internal/compress"
	"ersatz/internal/discover"
	"ersatz/internal/publish"
	"ersatz/internal/transport/ipfs"
	"ersatz/nixsig"
	"ersatz/storepath"
)

// publishFlags are the settings of publish as they are written.
type publishFlags struct {
	listen, user, cache, bypass, ttl, negativeTTL string
	narPath, publicKey, privateKey, nixKey, ipfs  string
	store, state, metricsListen, uploadLimit      string
	guixKey                                       bool // publicKey or privateKey was given
	advertise                                     bool
	port, workers                                 int
	compression, roots, serve                     []string
}

// publishPlan is what the flags mean.
type publishPlan struct {
	bake      bake.Options
	publish   publish.Options
	advertise *discover.Service // nil: not asked for
	serve     servePlan
}

// plan reads the flags and reports all that is wrong with them.
func (p publishFlags) plan(log *slog.Logger) (publishPlan, error) {
	var plan publishPlan
	var errs []error
	note := func(flag string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	seen := map[string]bool{}
	var methods []compress.Method
	for _, text := range p.compression {
		m, err := compress.ParseMethod(text)
		if err == nil && seen[m.Name] {
			err = fmt.Errorf("%s is given twice", m.Name)
		}
		note("compression", err)
		seen[m.Name] = true
		methods = append(methods, m)
	}
	o := publish.Options{Methods: methods, NarPath: strings.Trim(p.narPath, "/"), Log: log, LogDir: logDir(p.state)}
	var err error
	switch {
	case p.bypass != "":
		o.BypassThreshold, err = parseSize(p.bypass)
		note("cache-bypass-threshold", err)
		if o.BypassThreshold == 0 {
			o.BypassThreshold = -1
		}
	case p.nixKey != "":
		// Nix takes no item from a server within an hour of its 404.
		o.BypassThreshold = math.MaxInt64
	}
	if p.ttl != "" {
		o.TTL, err = parseTTL(p.ttl)
		note("ttl", err)
	}
	if p.negativeTTL != "" {
		o.NegativeTTL, err = parseTTL(p.negativeTTL)
		note("negative-ttl", err)
	}
	plan.publish = o
	plan.bake = bake.Options{Methods: methods, NarPath: o.NarPath, Workers: p.workers, TTL: o.TTL, Child: newBakeChild, Log: log}
	if p.ipfs != "" {
		plan.bake.IPFS, err = ipfs.New(p.ipfs, nil)
		note("ipfs", err)
	}
	if p.cache == "" && (p.ipfs != "" || len(p.roots) > 0) {
		errs = append(errs, errors.New("--ipfs and --bake-roots need --cache"))
	}
	if plan.serve, err = p.servePlan(); err != nil {
		errs = append(errs, err)
	}
	plan.serve.torrents(&plan.bake)
	if plan.bake.Torrents && !p.forGuix() {
		errs = append(errs, errors.New("--serve bittorrent: needs a key of Guix: Nix's signature does not cover magnet links"))
	}
	if p.workers < 0 {
		note("workers", errors.New("a negative number"))
	}
	if p.port < 0 || p.port > 65535 {
		note("port", errors.New("not between 0 and 65535"))
	}
	return plan, usageError(errors.Join(errs...))
}

// logDir is where the daemon with that state folder keeps build logs: both lie
// in Guix's localstatedir, or in Nix's.
func logDir(state string) string {
	for _, name := range []string{"/guix", "/nix"} {
		if dir := strings.TrimSuffix(state, name); dir != state {
			return dir + "/log" + name
		}
	}
	return state + "/log/guix"
}

// forGuix reports whether narinfos are signed for Guix.
func (p publishFlags) forGuix() bool {
	return p.nixKey == "" || p.guixKey || p.store == storepath.Guix
}

// secrets returns the files with private keys.
func (p publishFlags) secrets() (names []string) {
	if p.forGuix() {
		names = append(names, p.privateKey)
	}
	if p.nixKey != "" {
		names = append(names, p.nixKey)
	}
	return names
}

func (p publishFlags) signer() (s bake.Signer, err error) {
	if s.Host, err = os.Hostname(); err != nil {
		return s, err
	}
	if p.nixKey != "" {
		key, err := readNixKey(p.nixKey)
		if errors.Is(err, fs.ErrNotExist) {
			return s, fmt.Errorf("%w (\"ersatz keygen --nix NAME %s\" or \"nix-store --generate-binary-cache-key\" makes a key pair)", err, filepath.Dir(p.nixKey))
		}
		if err != nil {
			return s, err
		}
		s.Nix = &key
	}
	if p.forGuix() {
		s.Guix, err = readKeyPair(p.publicKey, p.privateKey)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w (\"ersatz keygen %s\" or \"guix archive --generate-key\" makes a key pair)", err, filepath.Dir(p.privateKey))
		}
	}
	return s, err
}

// readNixKey reads a secret key of Nix; newlines around it do not count.
func readNixKey(name string) (nixsig.SecretKey, error) {
	text, err := readFile(name)
	if err != nil {
		return nixsig.SecretKey{}, err
	}
	key, err := nixsig.ParseSecretKey(strings.TrimSpace(string(text)))
	if err != nil {
		return key, usageError(fmt.Errorf("%s: %w", name, err))
	}
	return key, nil
}

// keyAttrs says with which keys narinfos are signed.
func keyAttrs(s bake.Signer) slog.Attr {
	var attrs []slog.Attr
	if s.Guix != nil {
		attrs = append(attrs, slog.String("key", s.Guix.Public().String()))
	}
	if s.Nix != nil {
		attrs = append(attrs, slog.String("nix_key", s.Nix.Public().String()))
	}
	return slog.GroupAttrs("", attrs...)
}

// listeners returns the sockets that systemd has passed, else one bound to the
// address of the flags.
func (p publishFlags) listeners() ([]net.Listener, error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("socket activation: %w", err)
	}
	var out []net.Listener
	for _, l := range passed {
		if l != nil { // else it is no stream socket
			out = append(out, l)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	address := net.JoinHostPort(p.listen, strconv.Itoa(p.port))
	l, err := net.Listen("tcp", address)
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // a *net.OpError means that another machine does not answer
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", address, err)
	}
	return []net.Listener{l}, nil
}
