package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"

	"ersatz/guixsig"
	"ersatz/internal/bake"
	"ersatz/internal/compress"
	"ersatz/internal/publish"
	"ersatz/internal/transport/ipfs"
)

// publishFlags are the settings of publish as they are written.
type publishFlags struct {
	listen, user, cache, bypass, ttl, negativeTTL string
	narPath, publicKey, privateKey, ipfs          string
	store, state                                  string
	port, workers                                 int
	compression, roots                            []string
}

// publishPlan is what the flags mean.
type publishPlan struct {
	bake    bake.Options
	publish publish.Options
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
	o.BypassThreshold, err = parseSize(p.bypass)
	note("cache-bypass-threshold", err)
	if o.BypassThreshold == 0 {
		o.BypassThreshold = -1
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
	plan.bake = bake.Options{Methods: methods, NarPath: o.NarPath, Workers: p.workers, TTL: o.TTL, Log: log}
	if p.ipfs != "" {
		plan.bake.IPFS, err = ipfs.New(p.ipfs, nil)
		note("ipfs", err)
	}
	if p.cache == "" && (p.ipfs != "" || len(p.roots) > 0) {
		errs = append(errs, errors.New("--ipfs and --bake-roots need --cache"))
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
// in Guix's localstatedir.
func logDir(state string) string {
	if dir := strings.TrimSuffix(state, "/guix"); dir != state {
		return dir + "/log/guix"
	}
	return state + "/log/guix"
}

func (p publishFlags) keys() (*guixsig.PrivateKey, error) {
	key, err := readKeyPair(p.publicKey, p.privateKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (\"ersatz keygen\" or \"guix archive --generate-key\" makes a key pair)", err)
	}
	return key, err
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
