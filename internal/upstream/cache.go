package upstream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ersatz/internal/durable"
	"ersatz/narinfo"
)

// How long what servers say is kept, unless they say it by max-age, as in Guix
// (1.5.0, guix/substitutes.scm), and how often the rest is removed.
const (
	foundTTL   = 36 * time.Hour
	absentTTL  = 2 * time.Minute
	maxTTL     = 30 * 24 * time.Hour
	sweepEvery = 24 * time.Hour
)

// cacheMagic starts each file of the cache.
const cacheMagic = "ersatz-narinfo-1"

// entry is what the cache keeps of one server and item: the text that the
// server gave, never what was thought of it.
type entry struct {
	expires int64  // Unix time
	text    []byte // nil: the server has no such item
}

// bytes prints the entry as a file: "ersatz-narinfo-1 found EXPIRES LENGTH",
// a newline and the text, or "ersatz-narinfo-1 absent EXPIRES 0" and a newline.
func (e entry) bytes() []byte {
	state := "found"
	if e.text == nil {
		state = "absent"
	}
	return append(fmt.Appendf(nil, "%s %s %d %d\n", cacheMagic, state, e.expires, len(e.text)), e.text...)
}

// parseEntry reads what bytes prints, and nothing else: a file that a power
// failure has torn is not taken for an answer.
func parseEntry(file []byte) (entry, error) {
	head, text, _ := bytes.Cut(file, []byte("\n"))
	words := bytes.Split(head, []byte(" "))
	if len(words) != 4 {
		return entry{}, errors.New("no entry of the narinfo cache")
	}
	expires, err := strconv.ParseInt(string(words[2]), 10, 64)
	if err != nil {
		return entry{}, fmt.Errorf("entry of the narinfo cache: %w", err)
	}
	e := entry{expires: expires}
	if string(words[1]) == "found" {
		e.text = text
	}
	if !bytes.Equal(e.bytes(), file) {
		return entry{}, errors.New("entry of the narinfo cache is damaged")
	}
	return e, nil
}

// cache is a folder of entries: DIR/SERVER/HASH, SERVER being the start of the
// SHA-256 of its URL in hexadecimal. It is safe for concurrent use, also by
// several processes. A cache that cannot be written is one that has nothing.
type cache struct {
	dir string
	now func() time.Time
	log *slog.Logger
}

// openCache returns a cache in the first of the folders that can be written,
// nil if none can.
func openCache(dirs []string, now func() time.Time, log *slog.Logger) *cache {
	for _, dir := range dirs {
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = unix.Access(dir, unix.W_OK|unix.X_OK)
		}
		if err == nil {
			return &cache{dir, now, log}
		}
		log.Debug("narinfos are not cached here", slog.String("folder", dir), slog.Any("error", err))
	}
	return nil
}

func (c *cache) file(sv *Server, hash string) string {
	sum := sha256.Sum256([]byte(sv.String()))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:16]), hash)
}

// get returns what is known of an item at a server, and whether anything is.
func (c *cache) get(sv *Server, hash string) (entry, bool) {
	if c == nil {
		return entry{}, false
	}
	e, err := readEntry(c.file(sv, hash))
	return e, err == nil && c.now().Unix() < e.expires
}

func readEntry(name string) (entry, error) {
	f, err := os.Open(name)
	if err != nil {
		return entry{}, err
	}
	defer f.Close()
	const most = narinfo.MaxSize + 100
	file, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return entry{}, err
	}
	return parseEntry(file)
}

// put keeps an answer until it expires. Nothing is synced: a torn entry is none.
func (c *cache) put(sv *Server, hash string, text []byte, expires time.Time) {
	if c == nil || expires.IsZero() {
		return
	}
	name := c.file(sv, hash)
	e := entry{expires.Unix(), text}
	if err := replace(name, e.bytes()); err != nil {
		c.log.Debug("narinfo is not cached", slog.String("file", name), slog.Any("error", err))
	}
}

// replace writes a file at once, without syncing it.
func replace(name string, data []byte) error {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, durable.TempPrefix+"*")
	if errors.Is(err, os.ErrNotExist) {
		if err = os.Mkdir(dir, 0o755); err == nil || errors.Is(err, os.ErrExist) {
			f, err = os.CreateTemp(dir, durable.TempPrefix+"*")
		}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// run sweeps the cache at once and then every day, until the context ends.
func (c *cache) run(ctx context.Context) {
	daily := time.NewTicker(sweepEvery)
	defer daily.Stop()
	for {
		c.sweep(ctx)
		select {
		case <-ctx.Done():
			return
		case <-daily.C:
		}
	}
}

// sweep removes expired and damaged entries, at most once a day: the mark is
// the modification time of a file.
func (c *cache) sweep(ctx context.Context) {
	mark := filepath.Join(c.dir, "last-sweep")
	if fi, err := os.Stat(mark); err == nil && c.now().Sub(fi.ModTime()).Abs() < sweepEvery {
		return
	}
	if err := replace(mark, nil); err != nil {
		c.log.Debug("narinfo cache is not swept", slog.Any("error", err))
		return
	}
	now := c.now()
	if err := os.Chtimes(mark, now, now); err != nil {
		c.log.Debug("narinfo cache", slog.Any("error", err))
	}
	servers, err := os.ReadDir(c.dir)
	if err != nil {
		c.log.Debug("narinfo cache", slog.Any("error", err))
	}
	for _, sv := range servers {
		if sv.IsDir() {
			c.sweepServer(ctx, filepath.Join(c.dir, sv.Name()))
		}
	}
}

func (c *cache) sweepServer(ctx context.Context, dir string) {
	err := durable.SweepTemp(dir, c.now().Add(-time.Hour))
	entries, readErr := os.ReadDir(dir)
	err = errors.Join(err, readErr)
	for _, file := range entries {
		if ctx.Err() != nil {
			return
		}
		if strings.HasPrefix(file.Name(), durable.TempPrefix) {
			continue // it may be in the making
		}
		name := filepath.Join(dir, file.Name())
		if e, readErr := readEntry(name); readErr != nil && !errors.Is(readErr, os.ErrNotExist) || c.now().Unix() >= e.expires {
			err = errors.Join(err, os.Remove(name))
		}
	}
	os.Remove(dir) // if it is empty: servers come and go
	if err != nil {
		c.log.Debug("narinfo cache", slog.Any("error", err))
	}
}
