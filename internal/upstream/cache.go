package upstream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
	return append(e.head(make([]byte, 0, len(cacheMagic)+50+len(e.text))), e.text...)
}

// head appends the first line.
func (e entry) head(b []byte) []byte {
	b = append(b, cacheMagic...)
	if e.text == nil {
		b = append(b, " absent "...)
	} else {
		b = append(b, " found "...)
	}
	b = append(strconv.AppendInt(b, e.expires, 10), ' ')
	return append(strconv.AppendInt(b, int64(len(e.text)), 10), '\n')
}

// parseEntry reads what bytes prints, and nothing else: a file that a power
// failure has torn is not taken for an answer.
func parseEntry(file []byte) (entry, error) {
	line, text, _ := bytes.Cut(file, []byte("\n"))
	words := strings.Split(string(line), " ")
	if len(words) != 4 {
		return entry{}, errors.New("no entry of the narinfo cache")
	}
	expires, err := strconv.ParseInt(words[2], 10, 64)
	if err != nil {
		return entry{}, fmt.Errorf("entry of the narinfo cache: %w", err)
	}
	e := entry{expires: expires}
	if words[1] == "found" {
		e.text = text
	}
	if head := e.head(nil); !bytes.HasPrefix(file, head) || len(file) != len(head)+len(e.text) {
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

// readEntry reads a file. A query reads hundreds, each in three system calls:
// os.File would take ten.
func readEntry(name string) (e entry, err error) {
	fd, err := retry(func() (int, error) { return unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) })
	if err != nil {
		return entry{}, err
	}
	defer unix.Close(fd)
	const most = narinfo.MaxSize + 100
	file := make([]byte, 0, 4<<10)
	for len(file) < most {
		n, err := retry(func() (int, error) { return unix.Read(fd, file[len(file):min(cap(file), most)]) })
		if err != nil {
			return entry{}, err
		}
		if file = file[:len(file)+n]; n == 0 {
			break
		}
		file = slices.Grow(file, 1)
	}
	return parseEntry(file)
}

// retry repeats a system call that a signal has interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
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

// makeTries is how often a folder is made that a sweep takes for an empty one.
const makeTries = 3

// replace writes a file at once, without syncing it, and makes its folder if
// need be.
func replace(name string, data []byte) error {
	dir := filepath.Dir(name)
	temp := dir + "/" + durable.TempPrefix + strconv.FormatUint(rand.Uint64(), 36)
	err := writeNew(temp, data)
	for try := 0; try < makeTries && errors.Is(err, fs.ErrNotExist); try++ {
		if err = os.Mkdir(dir, 0o755); err == nil || errors.Is(err, fs.ErrExist) {
			err = writeNew(temp, data)
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Rename(temp, name); err != nil {
		return errors.Join(err, unix.Unlink(temp))
	}
	return nil
}

// writeNew makes a file, in four system calls with replace: os.File takes some
// more. What it leaves if it fails is removed.
func writeNew(name string, data []byte) error {
	fd, err := retry(func() (int, error) {
		return unix.Open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return err
	}
	for len(data) > 0 && err == nil {
		var n int
		n, err = retry(func() (int, error) { return unix.Write(fd, data) })
		data = data[max(n, 0):]
	}
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return errors.Join(err, unix.Unlink(name))
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
