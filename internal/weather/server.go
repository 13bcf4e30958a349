package weather

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/nixsig"
	"ersatz/storepath"
)

// maxKeys bounds the keys that are told apart at one server: who signs is the
// server's to say.
const maxKeys = 64

// maxName bounds what is printed of the name of a key, or of a host, in bytes.
const maxName = 255

// own returns a short text of a narinfo without holding that.
func own(text string) string { return strings.Clone(text[:min(len(text), maxName)]) }

// offer adds what a server answered about an item.
func (l *survey) offer(it *Item, p storepath.Path, sv *Server, a upstream.Answer) {
	switch {
	case errors.Is(a.Err, fs.ErrNotExist):
		sv.answered++
		return
	case a.Err != nil:
		sv.Unanswered++
		sv.fault(a.Err)
		return
	}
	sv.answered++
	n, err := narinfo.Parse(a.Text)
	if err == nil && n.StorePath != p.String() {
		err = fmt.Errorf("%w: %s", narinfo.ErrWrongPath, n.StorePath)
	}
	if err != nil {
		sv.Malformed++
		sv.fault(err)
		return
	}
	o := Offer{Server: sv.URL}
	for _, k := range l.signers(n) {
		o.Keys = append(o.Keys, k.ID)
		o.Authorized = o.Authorized || k.Authorized
		sv.sign(k)
	}
	if s, err := l.judge(n); err == nil {
		o.URN = own(s.ERIS)
	}
	it.Offers = append(it.Offers, o)
	sv.add(n, o)
}

func (sv *Server) fault(err error) {
	if sv.Error == "" {
		sv.Error = err.Error()
	}
}

// add counts a narinfo.
func (sv *Server) add(n *narinfo.Narinfo, o Offer) {
	sv.Found++
	if o.Authorized {
		sv.Authorized++
	}
	if o.URN != "" {
		sv.AsBlocks++
	}
	if size, ok := compressed(n); ok {
		sv.Compressed += size
	} else {
		sv.Unsized++
	}
	sv.Uncompressed += n.NarSize
}

// sign counts a narinfo for a key.
func (sv *Server) sign(k Key) {
	for i := range sv.Keys {
		if sv.Keys[i].ID == k.ID && sv.Keys[i].Authorized == k.Authorized {
			sv.Keys[i].Items++
			return
		}
	}
	if len(sv.Keys) < maxKeys {
		k.Items = 1
		sv.Keys = append(sv.Keys, k)
	}
}

// signers returns the keys that a narinfo names as its signers. One of them is
// authorized if it really is, and has signed just this.
func (l *survey) signers(n *narinfo.Narinfo) (keys []Key) {
	if sig, host, err := n.ParsedSignature(); err == nil {
		_, err := n.VerifyGuix(l.o.ACL)
		keys = append(keys, Key{ID: sig.Key().String(), Host: own(host), Authorized: err == nil})
	}
	named := map[string]bool{}
	for _, sig := range n.Sigs {
		name, _, _ := strings.Cut(sig, ":")
		if named[name] {
			continue
		}
		named[name] = true
		keys = append(keys, Key{ID: own(name), Authorized: l.nixAuthorized(n, name)})
	}
	return keys
}

// nixAuthorized reports whether an authorized key of a name has signed.
func (l *survey) nixAuthorized(n *narinfo.Narinfo, name string) bool {
	for _, k := range l.o.Nix {
		if k.Name == name {
			if _, err := n.VerifyNix([]nixsig.PublicKey{k}); err == nil {
				return true
			}
		}
	}
	return false
}

// progressEvery is after how many answers progress is told.
const progressEvery = 16

// clock measures a server.
type clock struct {
	mu          sync.Mutex
	count       int
	begin       time.Time
	first, last time.Time
}

// time is what the upstream client tells of its progress.
func (l *survey) time(pending []upstream.Pending) (answered func(i int)) {
	now := l.o.Now()
	l.clocks = make([]*clock, len(pending))
	for i := range pending {
		l.clocks[i] = &clock{begin: now}
	}
	clocks := l.clocks
	var total atomic.Int64
	return func(i int) {
		if n := int(total.Add(1)); n%progressEvery == 0 {
			l.o.Progress(len(l.r.Items)+n/len(pending), len(l.r.Items)+l.left)
		}
		c := clocks[i]
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.last = l.o.Now(); c.count == 0 {
			c.first = c.last
		}
		c.count++
	}
}

// stop adds what was measured to the server's.
func (c *clock) stop(sv *Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count == 0 {
		return
	}
	sv.Seconds += c.last.Sub(c.begin).Seconds()
	if sv.First == 0 {
		sv.First = c.first.Sub(c.begin).Seconds()
	}
}
