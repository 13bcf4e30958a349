package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ersatz/internal/fetch"
	"ersatz/internal/keep"
	"ersatz/internal/upstream"
)

// servers is a Client without a network, for tests whose time is that of
// testing/synctest. Each server is named by its URL and has whole nars only.
type servers struct {
	mu    sync.Mutex
	files map[string][]byte // by the last component of the nar's URL
	hold  func(ctx context.Context, o upstream.Offer) error
	asked []string // in order, likewise
	now   int
	most  int // bodies that were open at once
}

func newServers(things ...*thing) *servers {
	s := &servers{files: map[string][]byte{}}
	for _, x := range things {
		s.files[x.fields.StorePath.Base()] = x.files[x.order[0]]
	}
	return s
}

func (s *servers) OpenNar(ctx context.Context, o upstream.Offer, _ *upstream.Build) (*upstream.Body, error) {
	base := o.Nar.URL[strings.LastIndex(o.Nar.URL, "/")+1:]
	s.mu.Lock()
	s.asked = append(s.asked, base)
	s.now++
	s.most = max(s.most, s.now)
	file, ok := s.files[base]
	hold := s.hold
	s.mu.Unlock()
	gone := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.now--
	}
	var err error
	if hold != nil {
		err = hold(ctx, o)
	}
	if err == nil && !ok {
		err = fs.ErrNotExist
	}
	if err != nil {
		gone()
		return nil, err
	}
	return &upstream.Body{ReadCloser: &body{Reader: bytes.NewReader(file), gone: gone}, Size: int64(len(file)), ETag: `"1"`}, nil
}

func (s *servers) OpenRange(context.Context, *upstream.Server, string, upstream.Range) (*upstream.Body, error) {
	return nil, errors.New("no ranges")
}

func (s *servers) Blocks(*upstream.Server) (fetch.Source, bool) { return fetch.Source{}, false }

// did returns what was asked for so far, how many bodies are open or wanted, and
// how many were at once.
func (s *servers) did() (asked []string, now, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...), s.now, s.most
}

type body struct {
	io.Reader
	once sync.Once
	gone func()
}

func (b *body) Close() error {
	b.once.Do(b.gone)
	return nil
}

// set has hold be called before a nar is given.
func (s *servers) set(hold func(ctx context.Context, o upstream.Offer) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = hold
}

// waiting has all nars, but for those of things, wait until the context ends, or
// for steps: one each, or all when it is closed.
func (s *servers) waiting(but ...*thing) (steps chan struct{}) {
	steps = make(chan struct{})
	s.set(func(ctx context.Context, o upstream.Offer) error {
		for _, x := range but {
			if strings.HasSuffix(o.Nar.URL, x.fields.StorePath.Base()) {
				return nil
			}
		}
		select {
		case <-steps:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return steps
}

// bubbled returns a node that asks only c, for use within a bubble of synctest.
func bubbled(t *testing.T, c Client, o Options) (*Transfers, *keep.Store, *fetch.Book) {
	t.Helper()
	dir := t.TempDir()
	store, err := keep.Open(dir, keep.Options{Now: o.Now})
	must(t, err)
	book, err := fetch.OpenBook(filepath.Join(dir, "sources.json"), fetch.BookOptions{})
	must(t, err)
	trans := New(store, c, book, o)
	t.Cleanup(func() {
		closing(t, trans)
		closing(t, store)
	})
	return trans, store, book
}

// gotten reads the nar of an item and wants it to be right.
func gotten(t *testing.T, trans *Transfers, x *thing) {
	t.Helper()
	n, err := trans.Get(t.Context(), x.want(t, "http://server.example"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(n)
	if err != nil || !bytes.Equal(b, x.nar) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	must(t, n.Close())
}

// after returns when d has passed and all that follows from that is done.
func after(d time.Duration) {
	<-time.After(d)
}
