package publish

import (
	"context"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"ersatz/internal/bake"
	"ersatz/internal/metrics"
	"ersatz/internal/storedb"
	"ersatz/internal/web"
	"ersatz/storepath"
)

const (
	// recheck is for how long the memory of a narinfo is believed before its
	// file is looked at again, which another process may have removed or
	// replaced, or, of one that was signed on request, the store is asked again.
	recheck = time.Second

	// memorySize bounds the memory of narinfos in bytes: some 30,000 of them.
	memorySize = 64 << 20

	// memoryText bounds the text of a narinfo that is kept in memory, and
	// memoryEntry is what one takes beside its texts, in bytes, and memoryRef
	// what one reference takes.
	memoryText  = 64 << 10
	memoryEntry = 512
	memoryRef   = 128
)

// hashPart is 32 characters of nix-base32.
type hashPart [32]byte

// memory holds narinfos as they are sent. It is safe for concurrent use.
type memory struct {
	sent *metrics.Tally // counts what is sent of it

	mu      sync.RWMutex
	size    int // bytes
	entries map[hashPart]*remembered
}

// remembered is a narinfo. Nothing but checked changes.
type remembered struct {
	web.Answer
	file    fs.FileInfo  // of one that was baked
	info    storedb.Info // of one that was signed on request
	checked atomic.Int64 // when file was there, or the store said info, in ns since 1970
}

func (b *remembered) size() int {
	return len(b.Head) + len(b.Body) + memoryEntry + len(b.info.References)*memoryRef
}

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

// fresh reports whether it was there less than recheck ago. A clock that was set
// back makes nothing fresh.
func (b *remembered) fresh(now time.Time) bool {
	age := now.UnixNano() - b.checked.Load()
	return age >= 0 && age < int64(recheck)
}

// Quick answers for a narinfo as ServeHTTP does, from memory, or from the cache
// folder, and for a baked nar. It leaves all else to that, and the log of
// requests too.
func (s *Server) Quick(r web.Request) (a web.Answer, ok bool) {
	if s.opt.Log.Enabled(context.Background(), slog.LevelDebug) {
		return web.Answer{}, false
	}
	hash, ok := narinfoHash(r.Path)
	switch {
	case !ok:
		return s.quickNar(r)
	case r.Range != nil:
		return web.Answer{}, false
	}
	b := s.memory.get(hash)
	// Who has seen a baked narinfo is not given the one from before, which has no URN.
	if b == nil || !b.fresh(r.Time) || b.file == nil && s.root != nil && s.isBaked(string(hash[:])) {
		if b = s.remember(hash, b, r.Time); b == nil {
			return web.Answer{}, false
		}
	}
	sent := len(b.Body)
	if r.Head {
		sent = 0
	}
	s.memory.sent.Add(sent)
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

// remember looks at the file of a baked narinfo, and returns what is remembered
// of it from then on; nil if there is none. old is what was remembered.
func (s *Server) remember(hash hashPart, old *remembered, now time.Time) *remembered {
	part := string(hash[:])
	if s.root == nil || !storepath.ValidHash(part) {
		return nil
	}
	b := old
	if old == nil || old.file == nil || !s.unchanged(part, old.file) {
		b = s.readReady(part)
		if b == nil && (old == nil || old.file == nil) {
			return nil // ServeHTTP knows what to do with one that it has signed
		}
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

// liveReady returns the narinfo of an item that the store has just said to be
// valid. It is signed anew only if the store says another thing than it did.
func (s *Server) liveReady(info storedb.Info, ttl time.Duration) (*remembered, error) {
	hash := hashPart([]byte(info.Path.Hash))
	if b := s.memory.get(hash); b != nil && b.file == nil && same(b.info, info) {
		b.checked.Store(time.Now().UnixNano())
		return b, nil
	}
	text, err := s.sign(info)
	if err != nil {
		return nil, err
	}
	h := http.Header{"Content-Type": {narinfoType}, "Content-Length": {strconv.Itoa(len(text))}}
	web.MaxAge(h, ttl)
	b := &remembered{Answer: web.Answer{Head: web.AnswerHead(http.StatusOK, h), Body: text}, info: info}
	b.checked.Store(time.Now().UnixNano())
	if len(text) <= memoryText {
		s.memory.put(hash, b)
	}
	return b, nil
}

// same reports whether a and b make the same narinfo.
func same(a, b storedb.Info) bool {
	return a.Path == b.Path && a.NarHash == b.NarHash && a.NarSize == b.NarSize && a.Deriver == b.Deriver &&
		slices.Equal(a.References, b.References)
}
