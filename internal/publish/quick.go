package publish

import (
	"context"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ersatz/internal/bake"
	"ersatz/internal/metrics"
	"ersatz/internal/web"
	"ersatz/storepath"
)

const (
	// recheck is for how long the memory of a narinfo is believed before its
	// file is looked at again, which another process may have removed or
	// replaced.
	recheck = time.Second

	// memorySize bounds the memory of narinfos in bytes: some 30,000 of them.
	memorySize = 64 << 20

	// memoryText bounds the text of a narinfo that is kept in memory, and
	// memoryEntry is what one takes beside its texts, in bytes.
	memoryText  = 64 << 10
	memoryEntry = 512
)

// hashPart is 32 characters of nix-base32.
type hashPart [32]byte

// memory holds baked narinfos as they are sent. It is safe for concurrent use.
type memory struct {
	sent *metrics.Tally // counts what is sent of it

	mu      sync.RWMutex
	size    int // bytes
	entries map[hashPart]*remembered
}

// remembered is a narinfo. Nothing but checked changes.
type remembered struct {
	web.Answer
	file    fs.FileInfo
	checked atomic.Int64 // when file was found to be the one that is there, in ns since 1970
}

func (b *remembered) size() int { return len(b.Head) + len(b.Body) + memoryEntry }

func (m *memory) get(hash hashPart) *remembered {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.entries[hash]
}

// put replaces what is remembered of a hash part; nil forgets it.
func (m *memory) put(hash hashPart, b *remembered) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(hash)
	if b == nil {
		return
	}
	for other := range m.entries { // in no order
		if m.size+b.size() <= memorySize {
			break
		}
		m.drop(other)
	}
	if m.entries == nil {
		m.entries = map[hashPart]*remembered{}
	}
	m.entries[hash] = b
	m.size += b.size()
}

func (m *memory) drop(hash hashPart) {
	if old := m.entries[hash]; old != nil {
		m.size -= old.size()
		delete(m.entries, hash)
	}
}

// Quick answers for a baked narinfo as ServeHTTP does, from memory. It leaves
// all else to that, and the log of requests too.
func (s *Server) Quick(r web.Request) (a web.Answer, ok bool) {
	hash, ok := narinfoHash(r.Path)
	if !ok || s.root == nil || s.opt.Log.Enabled(context.Background(), slog.LevelDebug) {
		return web.Answer{}, false
	}
	b := s.memory.get(hash)
	if b == nil || r.Time.UnixNano()-b.checked.Load() >= int64(recheck) {
		if b = s.remember(hash, b, r.Time); b == nil {
			return web.Answer{}, false
		}
	}
	if r.Head {
		s.memory.sent.Add(0)
	} else {
		s.memory.sent.Add(len(b.Body))
	}
	return b.Answer, true
}

// narinfoHash returns the hash part in /HASH.narinfo.
func narinfoHash(path []byte) (hash hashPart, ok bool) {
	const suffix = ".narinfo"
	if len(path) != 1+len(hash)+len(suffix) || path[0] != '/' || string(path[1+len(hash):]) != suffix {
		return hashPart{}, false
	}
	return hashPart(path[1:]), true
}

// remember looks at the file of a narinfo, and returns what is remembered of it
// from then on; nil if there is nothing to remember. old is what was remembered.
func (s *Server) remember(hash hashPart, old *remembered, now time.Time) *remembered {
	part := string(hash[:])
	if !storepath.ValidHash(part) {
		return nil
	}
	b := old
	if old == nil || !s.unchanged(part, old.file) {
		b = s.readReady(part)
		s.memory.put(hash, b)
	}
	if b != nil {
		b.checked.Store(now.UnixNano())
		s.opt.Cache.Baker.Touch(part)
	}
	return b
}

// unchanged reports whether a narinfo's file is the one that it was.
func (s *Server) unchanged(hash string, old fs.FileInfo) bool {
	fi, err := s.root.Stat(s.narinfoFile(hash))
	return err == nil && os.SameFile(fi, old) && fi.Size() == old.Size() && fi.ModTime().Equal(old.ModTime()) && changed(fi) == changed(old)
}

// changed returns when the inode has changed.
func changed(fi fs.FileInfo) syscall.Timespec {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return syscall.Timespec{}
	}
	return st.Ctim
}

// readReady reads a narinfo from the cache, as it is sent. It returns nil if it
// is not there, cannot be read, or is too long: ServeHTTP says which.
func (s *Server) readReady(hash string) *remembered {
	text, fi, err := s.bakedNarinfo(hash)
	if err != nil || len(text) > memoryText {
		return nil
	}
	h := http.Header{"Accept-Ranges": {"bytes"}, "Content-Length": {strconv.Itoa(len(text))}} // as http.ServeContent has it
	s.narinfoHeader(h, text)
	return &remembered{Answer: web.Answer{Head: web.AnswerHead(http.StatusOK, h), Body: text}, file: fi}
}

func (s *Server) narinfoFile(hash string) string {
	return bake.Layout{NarPath: s.opt.NarPath}.Narinfo(hash)
}
