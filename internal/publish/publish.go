// Package publish answers over HTTP as `guix publish` does (Guix 1.5.0,
// guix/scripts/publish.scm), and serves what was baked as files with Range and
// ETag and as ERIS blocks.
//
// Where it differs from Guix: HEAD is answered everywhere, other methods get
// 405; a nar that is compressed or dumped while it is sent has a Content-Length
// or is chunked, and is cut if the item is not what the store's database says;
// such answers are bounded in number. /signing-key.pub is the key that signs.
package publish

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"ersatz/internal/bake"
	"ersatz/internal/compress"
	"ersatz/internal/metrics"
	"ersatz/internal/storedb"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/web"
	"ersatz/storepath"
)

// Store says what is valid: *storedb.DB. Its errors match storedb.ErrNotFound
// if the store has no such valid item. It is safe for concurrent use.
type Store interface {
	Lookup(ctx context.Context, hash string) (storedb.Info, error)
	Info(ctx context.Context, p storepath.Path) (storedb.Info, error)
	StoreDir() string
}

// Baker fills a cache folder: *bake.Cache. It is safe for concurrent use.
type Baker interface {
	// Bake queues an item and does not wait. It returns nil too if the item is
	// queued or under way already, an error that matches bake.ErrBusy if the
	// queue is full, and bake.ErrFailed if the item cannot be baked.
	Bake(p storepath.Path) error

	// Adoptable returns the item of that hash part which the store lacks and a
	// cache of `guix publish` in the folder has.
	Adoptable(ctx context.Context, hash string) (storepath.Path, bool)

	// Touch notes that an item was asked for.
	Touch(hash string)
}

// Baked is a cache folder, laid out as docs/cache.md says.
type Baked struct {
	Dir    string
	Baker  Baker
	Blocks n2r.Blocks // the blocks of what was baked

	// Contents are served as the files of torrents. Default: none is.
	Contents Contents
}

// Options are what may be left out.
type Options struct {
	// Cache is the folder of what was baked. Without one, everything is made
	// when it is asked for.
	Cache *Baked

	// Methods are the compression methods that narinfos offer, in order.
	// Default zstd:19 with a cache, else zstd:3, since clients wait for it.
	Methods []compress.Method

	// NarPath is the prefix of the URLs of nars. Default "nar".
	NarPath string

	// TTL and NegativeTTL say for how long clients may keep a narinfo or nar,
	// and that there is none. 0: not said.
	TTL, NegativeTTL time.Duration

	// BypassThreshold is the size in bytes below which a nar is served before
	// it is baked. Default 10 MiB; with a negative one, none is.
	BypassThreshold int64

	// LogDir is where the daemon keeps build logs. Default /var/log/guix.
	LogDir string

	// Live bounds how many nars are dumped and compressed at once while they
	// are sent. Default 8 per processor.
	Live int

	// Requests counts what is answered. Default: nothing does.
	Requests *metrics.Requests

	// Log is told what an operator acts on, and of requests at level debug.
	// Default: nothing.
	Log *slog.Logger
}

// defaults returns o with its defaults, or all that is wrong with it.
func (o Options) defaults() (Options, error) {
	var errs []error
	if len(o.Methods) == 0 {
		level := 3
		if o.Cache != nil {
			level = 19
		}
		o.Methods = []compress.Method{{Name: "zstd", Level: level}}
	}
	if o.NarPath == "" {
		o.NarPath = "nar"
	}
	for _, part := range strings.Split(o.NarPath, "/") {
		if part == "" || part[0] == '.' || strings.ContainsAny(part, "\x00\r\n") {
			errs = append(errs, fmt.Errorf("nar path %q: component %q", o.NarPath, part))
		}
	}
	if first, _, _ := strings.Cut(o.NarPath, "/"); slices.Contains([]string{"eris", "file", "log", "uri-res"}, first) {
		errs = append(errs, fmt.Errorf("nar path %q: /%s is something else", o.NarPath, first))
	}
	if o.TTL < 0 || o.NegativeTTL < 0 {
		errs = append(errs, errors.New("negative time to live"))
	}
	if o.BypassThreshold == 0 {
		o.BypassThreshold = 10 << 20
	}
	if o.LogDir == "" {
		o.LogDir = "/var/log/guix"
	}
	if o.Live == 0 {
		o.Live = 8 * runtime.GOMAXPROCS(0)
	}
	if o.Live < 0 {
		errs = append(errs, fmt.Errorf("%d nars at once", o.Live))
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, errors.Join(errs...)
}

// Server answers requests. It is an http.Handler and a web.Quick, safe for
// concurrent use.
type Server struct {
	store  Store
	signer bake.Signer
	opt    Options
	narDir []string    // components of NarPath
	prefix string      // NarPath with a slash
	maxAge string      // Cache-Control of nars
	root   *os.Root    // the cache folder; nil without one
	folder *web.Folder // the same
	memory memory      // of what is there
	asked  asked
	nars   *metrics.Stream // counts nars from files
	parts  *metrics.Stream // counts parts of them
	blocks http.Handler    // nil without a cache
	live   chan struct{}   // a slot for each nar that is made while it is sent
	files  chan struct{}   // a slot for each file of a torrent that is sent
}

// New returns a server of the items of store, whose narinfos signer signs. What
// it serves from the cache folder is opened below that folder only.
func New(store Store, signer bake.Signer, o Options) (*Server, error) {
	o, err := o.defaults()
	if err = errors.Join(err, signer.Validate()); err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	s := &Server{
		store: store, signer: signer, opt: o,
		narDir: strings.Split(o.NarPath, "/"), prefix: o.NarPath + "/",
		asked: asked{seed: maphash.MakeSeed()},
		live:  make(chan struct{}, o.Live), files: make(chan struct{}, maxFiles),
	}
	s.memory.sent = o.Requests.Tally(metrics.Web, metrics.Narinfo, http.StatusOK)
	s.nars = o.Requests.Stream(metrics.Web, metrics.NarFile, http.StatusOK)
	s.parts = o.Requests.Stream(metrics.Web, metrics.NarFile, http.StatusPartialContent)
	h := http.Header{}
	web.MaxAge(h, o.TTL)
	s.maxAge = h.Get("Cache-Control")
	if o.Cache != nil {
		if s.root, err = os.OpenRoot(o.Cache.Dir); err != nil {
			return nil, fmt.Errorf("publish: cache folder: %w", err)
		}
		if s.folder, err = web.OpenFolder(o.Cache.Dir); err != nil {
			return nil, errors.Join(fmt.Errorf("publish: cache folder: %w", err), s.root.Close())
		}
		s.blocks = n2r.Handler(o.Cache.Blocks)
	}
	return s, nil
}

// Close frees what New has taken. No request is under way then.
func (s *Server) Close() error {
	if s.root == nil {
		return nil
	}
	return errors.Join(s.root.Close(), s.folder.Close())
}
