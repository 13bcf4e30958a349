// Package upstream asks substitute servers what they have (Guix 1.5.0,
// guix/substitutes.scm; Nix, http-binary-cache-store.cc): it looks narinfos up,
// keeps their texts, chooses among them, and opens nars.
//
// What it keeps is what servers said. Who is believed is the Judge's to say, of
// each text and each time: docs/substitute.md, "Which narinfo counts".
package upstream

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"ersatz/narinfo"
)

// DefaultStall is how long a server may send nothing useful.
const DefaultStall = 10 * time.Second

// Options are the settings of a Client. The zero value works.
type Options struct {
	// Stall is how long a server may send nothing useful; the HTTP client has
	// to see to it. A server has three times that, and half a second per
	// narinfo, to answer an Ask. Default DefaultStall.
	Stall time.Duration
	// Enough says whether a narinfo of an item will do, as it does if it counts:
	// for such an item, servers that did not answer in time of late are not waited
	// for, until they answer again. It is safe for concurrent use. Default: they
	// are waited for, since who counts votes needs what all of them say.
	Enough func(n *narinfo.Narinfo) bool
	// OnlyKept has all servers asked as peers are: a node on this machine, which
	// may be the one that asks, answers from what it keeps. Default: peers alone.
	OnlyKept bool
	// Log takes what an operator acts on. Default: nothing is logged.
	Log *slog.Logger
	// Now returns the time. Default time.Now.
	Now func() time.Time
	// Progress is told by each Ask, before it asks servers, how much each is
	// asked for, and returns what is called, from many goroutines, for each
	// answer of the server at an index of pending. Default: nobody is told.
	Progress func(pending []Pending) (answered func(i int))
}

// Pending is what is to be asked of a server.
type Pending struct {
	Server *Server
	Count  int // narinfos that are not known
	Cached int // narinfos that the cache has
}

// Client asks servers. It is safe for concurrent use.
type Client struct {
	o     Options
	http  *http.Client
	log   *slog.Logger
	cache *cache          // nil if nothing is cached
	ctx   context.Context // of what runs in the background
	end   context.CancelFunc
	work  *sync.WaitGroup
}

// New returns a client that asks with hc, such as httpclient.New makes. Texts
// are kept in the first of the folders that can be written, which several
// processes may share; without one, nothing is. Close ends what runs in the
// background.
func New(hc *http.Client, cacheDirs []string, o Options) *Client {
	if o.Stall <= 0 {
		o.Stall = DefaultStall
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Progress == nil {
		o.Progress = untold
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{o: o, http: hc, log: o.Log, cache: openCache(cacheDirs, o.Now, o.Log), ctx: ctx, end: cancel, work: &sync.WaitGroup{}}
	if c.cache != nil {
		c.work.Go(func() { c.cache.run(ctx) })
	}
	return c
}

// Quiet returns a client that does the same and tells nobody of its progress. It
// ends with c.
func (c *Client) Quiet() *Client {
	o := c.o
	o.Progress = untold
	return &Client{o: o, http: c.http, log: c.log, cache: c.cache, ctx: c.ctx, end: func() {}, work: c.work}
}

// untold is an Options.Progress that tells nobody.
func untold([]Pending) func(int) { return func(int) {} }

// Close ends what runs in the background, after all that was asked has been
// answered. It leaves the HTTP client as it is.
func (c *Client) Close() error {
	c.end()
	c.work.Wait()
	return nil
}
