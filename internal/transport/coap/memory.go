package coap

import (
	"bytes"
	"sync"
	"time"

	"github.com/plgd-dev/go-coap/v3/message/codes"

	"ersatz/eris"
)

const (
	// maxRecent is how many blocks are kept whose parts are being asked for, in
	// memory: 2 MiB.
	maxRecent = 64

	// recentTime is how long one is: what is not shared any more is not to be
	// given. It is enough for 32 round trips by a slow line.
	recentTime = 30 * time.Second
)

// recent keeps the blocks that were sent in parts last. Without it, each of the
// 32 parts of a block would have it made anew.
type recent struct {
	mu     sync.Mutex
	blocks [maxRecent]struct {
		path string // of the store: another one may not give it
		ref  eris.Ref
		b    []byte
		at   time.Time // when it came
	}
	next int
}

func (r *recent) get(path string, ref eris.Ref) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.blocks {
		if e := &r.blocks[i]; e.ref == ref && e.path == path && e.b != nil && time.Since(e.at) < recentTime {
			return e.b
		}
	}
	return nil
}

func (r *recent) put(path string, ref eris.Ref, b []byte) {
	if r.get(path, ref) != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e := &r.blocks[r.next]
	e.path, e.ref, e.b, e.at = path, ref, b, time.Now()
	r.next = (r.next + 1) % maxRecent
}

// maxUploads is how many blocks may be on their way in parts: 2 MiB.
const maxUploads = 64

// upload is a block that comes in parts.
type upload struct {
	path string
	body []byte
	last part       // the last part taken
	code codes.Code // of the answer to the last part of all; Empty before
}

// uploads keeps one upload for each client. The oldest makes room for others.
type uploads struct {
	mu  sync.Mutex
	by  map[any]*upload
	age []any // clients, the oldest first
}

// add takes a part of a block for path. If code is Empty, done has all of them,
// and end is to be called; else code is the answer. A part that comes twice,
// since the answer was lost, is answered as the first time.
func (u *uploads) add(from any, path string, p part, b []byte) (done *upload, code codes.Code) {
	u.mu.Lock()
	defer u.mu.Unlock()
	up := u.by[from]
	switch {
	case up != nil && up.path == path && p == up.last && bytes.HasSuffix(up.body, b) && p.offset()+len(b) == len(up.body):
		if p.more {
			return nil, codes.Continue
		}
		if up.code != codes.Empty {
			return nil, up.code
		}
		return nil, codes.ServiceUnavailable // it is being stored
	case p.num == 0:
		up = u.start(from, path)
	case up == nil || up.path != path || up.code != codes.Empty || p.offset() != len(up.body):
		return nil, codes.RequestEntityIncomplete
	}
	if len(up.body)+len(b) > int(eris.Size32KiB) {
		u.drop(from)
		return nil, codes.RequestEntityTooLarge
	}
	up.body = append(up.body, b...)
	up.last = p
	if p.more {
		return nil, codes.Continue
	}
	return up, codes.Empty
}

// start makes an upload, instead of the one that the client has or, if there
// are too many, of the oldest. It is called under mu.
func (u *uploads) start(from any, path string) *upload {
	u.drop(from)
	if len(u.age) >= maxUploads {
		u.drop(u.age[0])
	}
	if u.by == nil {
		u.by = map[any]*upload{}
	}
	up := &upload{path: path}
	u.by[from] = up
	u.age = append(u.age, from)
	return up
}

// drop forgets what a client has sent. It is called under mu.
func (u *uploads) drop(from any) {
	if u.by[from] == nil {
		return
	}
	delete(u.by, from)
	for i, k := range u.age {
		if k == from {
			u.age = append(u.age[:i], u.age[i+1:]...)
			return
		}
	}
}

// end notes the answer to an upload, for its last part if that comes again. An
// upload that went wrong is to be begun anew.
func (u *uploads) end(from any, up *upload, code codes.Code) {
	u.mu.Lock()
	defer u.mu.Unlock()
	up.code = code
	if code != codes.Created && u.by[from] == up {
		u.drop(from)
	}
}

// leave forgets what a client has sent that has gone.
func (u *uploads) leave(from any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.drop(from)
}
