// Package substitute is the program that guix-daemon asks for substitutes
// (Guix 1.5.0, guix/scripts/substitute.scm and nix/libstore/build.cc,
// SubstitutionGoal): it says what servers have, and installs it.
//
// The daemon verifies nothing of what it is handed, so signature, hash, size,
// permissions and the rest are settled here. docs/substitute.md describes the
// protocol, which narinfo counts, and where the bytes come from.
package substitute

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/fetch"
	"ersatz/internal/nodeapi"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/upstream"
	"ersatz/nar"
	"ersatz/storepath"
)

// maxACL bounds the ACL, in bytes.
const maxACL = 1 << 20

// Options are what the daemon does not say. The zero Options works, without
// keys of its own place: it reads Guix's ACL and caches nothing.
type Options struct {
	// ACL is the file of the keys that are accepted, read anew for each
	// request. Default /etc/guix/acl.
	ACL string
	// Votes is the file of a policy of votes, read anew for each request.
	// Default: none, and one key of the ACL is enough.
	Votes string
	// States are folders for the cache of narinfos; the first that can be
	// written is used. Default: none, and nothing is cached.
	States []string
	// IPFS is the address of a Kubo RPC. Default: none.
	IPFS string
	// Node is the Unix socket of a node, which is asked first. Default: none.
	Node string
	// NodeWait is how long a node that was lost is waited for. Default 5 s.
	NodeWait time.Duration
	// Discovered is the file of the servers that guix-daemon's discovery found.
	// Default /var/guix/discover/publish.
	Discovered string
	// Stall is how long a source may send nothing useful. Default
	// upstream.DefaultStall.
	Stall time.Duration
	// Log takes what an operator acts on. Default: nothing is logged.
	Log *slog.Logger
	// Now returns the time. Default time.Now.
	Now func() time.Time
}

// Substituter answers the daemon's requests, one after the other. Its
// connections, and what it learns of its sources, last until Close.
type Substituter struct {
	daemon   DaemonOptions
	o        Options
	log      *slog.Logger
	messages io.Writer // what people see
	client   *http.Client
	upstream *upstream.Client
	servers  []*upstream.Server
	ipfs     *ipfs.Client
	dedup    map[string]*nar.Dedup     // by store folder
	liars    map[string]bool           // sources that gave bytes that were not the block
	learnt   map[string]fetch.Learnt   // of sources, by the item before
	slow     map[*upstream.Server]bool // whose nar was last waited for in vain
	told     string                    // what was last said of the files of keys
	lacking  map[storepath.Path]bool   // what people were told of that it lacks votes
	aclText  []byte                    // of the ACL when it was last read

	aclRead atomic.Pointer[guixsig.ACL] // what that says; it has what was computed of the keys

	node  *nodeapi.Client // nil if none is there
	ahead teller          // of the node

	crawler *crawler
}

// New returns a Substituter. messages is the daemon's log pipe, where progress
// and reasons are written for people to see. A server that cannot be used is
// named there and left out.
func New(daemon DaemonOptions, messages io.Writer, o Options) (*Substituter, error) {
	if o.ACL == "" {
		o.ACL = "/etc/guix/acl"
	}
	if o.Discovered == "" {
		o.Discovered = "/var/guix/discover/publish"
	}
	if o.Stall <= 0 {
		o.Stall = upstream.DefaultStall
	}
	if o.NodeWait <= 0 {
		o.NodeWait = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Substituter{
		daemon: daemon, o: o, log: o.Log, messages: messages,
		client: httpclient.New(httpclient.Options{Idle: o.Stall}), dedup: map[string]*nar.Dedup{}, liars: map[string]bool{}, learnt: map[string]fetch.Learnt{},
		slow: map[*upstream.Server]bool{}, lacking: map[storepath.Path]bool{},
		node: openNode(o),
	}
	s.ahead.node, s.ahead.log = s.node, s.log
	if o.IPFS != "" {
		c, err := ipfs.New(o.IPFS, nil)
		if err != nil {
			return nil, err
		}
		s.ipfs = c
	}
	s.servers = s.openServers()
	var caches []string
	for _, state := range o.States {
		caches = append(caches, filepath.Join(state, "narinfo"))
	}
	s.upstream = upstream.New(s.client, caches, upstream.Options{
		Stall: o.Stall, Enough: s.enough(), Log: s.log, Now: o.Now,
		Progress: func(pending []upstream.Pending) func(int) { return newLookupProgress(s.messages, pending).done },
	})
	quiet := s.upstream.Quiet()
	s.crawler = newCrawler(func(ctx context.Context, p storepath.Path) []upstream.Answer {
		return quiet.Ask(ctx, s.servers, []storepath.Path{p})[0]
	}, o.Now)
	return s, nil
}

// Close ends what runs in the background and closes all connections.
func (s *Substituter) Close() error {
	s.crawler.close()
	s.ahead.work.Wait()
	if s.node != nil {
		s.node.Close()
	}
	errs := []error{s.upstream.Close()}
	if s.ipfs != nil {
		errs = append(errs, s.ipfs.Close())
	}
	s.client.CloseIdleConnections()
	for _, d := range s.dedup {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// acl reads the ACL. Without one, nothing is accepted.
func (s *Substituter) acl() (guixsig.ACL, error) {
	f, err := os.Open(s.o.ACL)
	if err != nil {
		return guixsig.ACL{}, fmt.Errorf("keys that are accepted: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxACL+1))
	if err == nil && len(text) > maxACL {
		err = errors.New("too long")
	}
	if err != nil {
		return guixsig.ACL{}, fmt.Errorf("keys that are accepted: %s: %w", s.o.ACL, err)
	}
	if len(text) > 0 && bytes.Equal(text, s.aclText) {
		return *s.aclRead.Load(), nil
	}
	acl, err := guixsig.ParseACL(text)
	if err != nil {
		return guixsig.ACL{}, fmt.Errorf("keys that are accepted: %s: %w", s.o.ACL, err)
	}
	s.aclText = text
	s.aclRead.Store(&acl)
	return acl, nil
}
