package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"ersatz/internal/durable"
	"ersatz/internal/nodeapi"
	"ersatz/internal/upstream"
	"ersatz/storepath"
)

// ErrConflict means that two upstreams of one kind have different store
// folders: no client could use both.
var ErrConflict = errors.New("upstreams of one kind have different store folders")

const (
	infoFile    = "nix-cache-info"
	maxInfo     = 16 << 10 // bytes of a nix-cache-info
	maxKnown    = 1 << 20  // bytes of upstreams.json
	maxUpstream = 64       // servers

	askTime    = 5 * time.Second  // for a nix-cache-info
	againFirst = 10 * time.Second // before an upstream that was down is asked again
	againMost  = 10 * time.Minute
)

// record is what upstreams.json has of a server.
type record struct {
	URL      string `json:"url"`
	StoreDir string `json:"store_dir"`
}

// face is what clients of one kind see.
type face struct {
	kind     Kind
	storeDir string
	servers  []*upstream.Server // in the order of the command line
}

// upstreams knows which kind each server is of. What is learnt is kept, so that
// a node starts with its upstreams down.
type upstreams struct {
	file    string
	servers []*upstream.Server
	client  Client
	log     *slog.Logger

	mu    sync.Mutex               // of who changes dirs
	dirs  map[string]string        // StoreDir by URL
	fresh map[string]bool          // learnt since the start
	asked bool                     // whether start has asked
	faces atomic.Pointer[[2]*face] // by Kind
}

// newUpstreams reads what an earlier process has learnt from the file.
func newUpstreams(file string, servers []*upstream.Server, client Client, log *slog.Logger) (*upstreams, error) {
	if len(servers) > maxUpstream {
		return nil, fmt.Errorf("%d upstreams, limit %d", len(servers), maxUpstream)
	}
	u := &upstreams{file: file, servers: servers, client: client, log: log, dirs: map[string]string{}, fresh: map[string]bool{}}
	list, err := readKnown(file)
	if err != nil {
		log.Warn("upstreams are asked anew", slog.String("file", file), slog.Any("error", err))
	}
	for _, k := range list {
		u.dirs[k.URL] = k.StoreDir
	}
	return u, nil
}

// readKnown reads a file of ours; without one, nothing is known.
func readKnown(file string) ([]record, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKnown))
	if err != nil {
		return nil, err
	}
	return parseKnown(text)
}

func parseKnown(text []byte) ([]record, error) {
	var list []record
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, err
	}
	for _, k := range list {
		if err := checkStoreDir(k.StoreDir); err != nil {
			return nil, fmt.Errorf("%.300q: %w", k.URL, err)
		}
	}
	return list, nil
}

func checkStoreDir(dir string) error {
	if !path.IsAbs(dir) || path.Clean(dir) != dir || dir == "/" || strings.ContainsAny(dir, "\x00\n") {
		return fmt.Errorf("StoreDir %.300q is no absolute, clean path", dir)
	}
	return nil
}

// parseInfo returns the StoreDir of a nix-cache-info.
func parseInfo(text string) (string, error) {
	dir := ""
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "StoreDir:"); ok {
			if dir != "" {
				return "", errors.New("two StoreDirs")
			}
			dir = strings.TrimSpace(value)
		}
	}
	return dir, checkStoreDir(dir)
}

// start asks the servers for what is not known of them. If it is, or was by an
// earlier process, nobody has to wait: run asks them.
func (u *upstreams) start(ctx context.Context) error {
	faces, err := group(u.servers, u.dirs)
	if err != nil || u.pending() {
		u.asked = true
		return u.learn(ctx)
	}
	u.faces.Store(&faces)
	return nil
}

// learn asks all servers at once that have not answered since the start. If the
// error matches ErrConflict, the later server of two that differ is not used.
func (u *upstreams) learn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	found := make([]string, len(u.servers))
	var asked errgroup.Group
	for i, sv := range u.servers {
		before, fresh := u.known(sv)
		if fresh {
			continue
		}
		asked.Go(func() error {
			dir, err := u.ask(ctx, sv)
			if err != nil {
				u.log.WarnContext(ctx, "upstream does not say its store folder", slog.String("server", sv.String()),
					slog.String("from_before", before), slog.Any("error", err))
			}
			found[i] = dir
			return nil
		})
	}
	asked.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	changed := false
	for i, sv := range u.servers {
		if url := sv.String(); found[i] != "" {
			changed = changed || u.dirs[url] != found[i]
			u.dirs[url], u.fresh[url] = found[i], true
		}
	}
	faces, err := group(u.servers, u.dirs)
	u.faces.Store(&faces)
	if changed {
		if err := u.save(); err != nil { // they are asked anew by the next process
			u.log.WarnContext(ctx, "upstreams", slog.Any("error", err))
		}
	}
	return err
}

// known returns the StoreDir of a server, "" if it has never said it, and
// whether it has said it since the start.
func (u *upstreams) known(sv *upstream.Server) (dir string, fresh bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.dirs[sv.String()], u.fresh[sv.String()]
}

// ask returns the StoreDir of a server.
func (u *upstreams) ask(ctx context.Context, sv *upstream.Server) (string, error) {
	body, err := u.client.Open(ctx, sv, infoFile)
	if err != nil {
		return "", err
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxInfo))
	if err != nil {
		return "", err
	}
	return parseInfo(string(text))
}

// group sorts the servers whose store folder is known by their kinds.
func group(servers []*upstream.Server, dirs map[string]string) (faces [2]*face, err error) {
	for _, sv := range servers {
		dir := dirs[sv.String()]
		if dir == "" {
			continue
		}
		k := kindOf(dir)
		f := faces[k]
		switch {
		case f == nil:
			faces[k] = &face{k, dir, []*upstream.Server{sv}}
		case f.storeDir != dir:
			err = errors.Join(err, fmt.Errorf("%w: %s has %s, %s has %s", ErrConflict, f.servers[0], f.storeDir, sv, dir))
		default:
			f.servers = append(f.servers, sv)
		}
	}
	return faces, err
}

// save keeps what is known. The caller holds the lock.
func (u *upstreams) save() error {
	list := []record{}
	for _, sv := range u.servers {
		if dir := u.dirs[sv.String()]; dir != "" {
			list = append(list, record{sv.String(), dir})
		}
	}
	text, err := json.MarshalIndent(list, "", "\t")
	if err == nil {
		err = durable.WriteFile(u.file, 0o644, func(w io.Writer) error {
			_, err := w.Write(append(text, '\n'))
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("keeping what was learnt of upstreams: %w", err)
	}
	return nil
}

// run asks the servers that have not answered, again and again until all have;
// at once, if start has not asked.
func (u *upstreams) run(ctx context.Context) {
	wait := time.Duration(0)
	if u.asked {
		wait = againFirst
	}
	for ; !u.complete(); wait = min(max(2*wait, againFirst), againMost) {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := u.learn(ctx); err != nil {
			u.log.ErrorContext(ctx, "upstreams", slog.Any("error", err))
		}
	}
}

// complete reports whether all servers have answered since the start.
func (u *upstreams) complete() bool {
	return !slices.ContainsFunc(u.servers, func(sv *upstream.Server) bool {
		_, fresh := u.known(sv)
		return !fresh
	})
}

// status says what is known, for people.
func (u *upstreams) status() []nodeapi.Upstream {
	list := make([]nodeapi.Upstream, len(u.servers))
	for i, sv := range u.servers {
		dir, fresh := u.known(sv)
		list[i] = nodeapi.Upstream{URL: sv.String(), StoreDir: dir, Answered: fresh}
		if dir != "" {
			list[i].Kind = kindOf(dir).String()
		}
	}
	return list
}

// face returns what clients of a kind see. It is nil as long as there is no
// upstream of that kind and some have never said of which they are; if none
// can be, what is kept for the usual store is there all the same.
func (u *upstreams) face(k Kind) *face {
	if f := u.faces.Load()[k]; f != nil || u.pending() {
		return f
	}
	return &face{kind: k, storeDir: [...]string{Guix: storepath.Guix, Nix: storepath.Nix}[k]}
}

// root returns what stands at "/": Guix, or Nix if all upstreams are Nix's.
func (u *upstreams) root() *face {
	if faces := u.faces.Load(); faces[Guix] == nil && faces[Nix] != nil {
		return faces[Nix]
	}
	return u.face(Guix)
}

// serves reports whether items of a store can be had: of the usual ones, and of those
// that upstreams have.
func (u *upstreams) serves(storeDir string) bool {
	return storeDir == storepath.Guix || storeDir == storepath.Nix ||
		slices.ContainsFunc(u.faces.Load()[:], func(f *face) bool { return f != nil && f.storeDir == storeDir })
}

// pending reports whether a server has never said its StoreDir.
func (u *upstreams) pending() bool {
	return slices.ContainsFunc(u.servers, func(sv *upstream.Server) bool {
		dir, _ := u.known(sv)
		return dir == ""
	})
}
