package share

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
)

// shelf is a library of contents that exist by name only.
type shelf struct {
	mu      sync.Mutex
	all     []block.Shared
	changed chan struct{}
	broken  error         // of Each, in the middle
	took    time.Duration // by Each
	lists   int
}

// shared returns the content of a number.
func shared(n int) block.Shared {
	var root eris.Ref
	binary.BigEndian.PutUint32(root[:], uint32(n))
	return block.Shared{ReadCap: eris.ReadCap{Size: eris.Size32KiB, Root: root}, Length: int64(n)}
}

func number(s block.Shared) int { return int(binary.BigEndian.Uint32(s.ReadCap.Root[:])) }

// set makes the library have the contents of these numbers.
func (l *shelf) set(numbers ...int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = nil
	for _, n := range numbers {
		l.all = append(l.all, shared(n))
	}
	l.tell()
}

func (l *shelf) tell() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

func (l *shelf) Get(context.Context, eris.Ref) ([]byte, error) { panic("nobody asks for blocks") }

func (l *shelf) Each(ctx context.Context, visit func(block.Shared) error) error {
	l.mu.Lock()
	all, broken, took := slices.Clone(l.all), l.broken, l.took
	l.lists++
	l.mu.Unlock()
	for i, s := range all {
		if broken != nil && i == len(all)/2 {
			return broken
		}
		if err := visit(s); err != nil {
			return err
		}
	}
	<-time.After(took)
	return ctx.Err()
}

func (l *shelf) Open(_ context.Context, root eris.Ref) (block.Content, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.all {
		if s.ReadCap.Root == root {
			return nothing{}, nil
		}
	}
	return nil, &eris.MissingError{Ref: root}
}

func (l *shelf) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

type nothing struct{ block.Content }

func (nothing) Close() error { return nil }

// net is a network that writes down what it is told.
type net struct {
	mu    sync.Mutex
	start time.Time
	said  []string
	has   map[int]bool
	took  time.Duration   // by each Offer
	down  error           // what everything answers
	bad   map[int]error   // what offers of these answer
	most  int             // offers at once
	now   int             // offers
	open  map[int]opening // what was handed in
}

type opening func(context.Context) (block.Content, error)

func newNet() *net {
	return &net{start: time.Now(), has: map[int]bool{}, bad: map[int]error{}, open: map[int]opening{}}
}

func (n *net) Offer(ctx context.Context, s block.Shared, open func(context.Context) (block.Content, error)) (string, error) {
	n.mu.Lock()
	n.now++
	n.most = max(n.most, n.now)
	took := n.took
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.now--
	}()
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	c, err := open(ctx)
	if err == nil {
		err = c.Close()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range []error{n.down, n.bad[number(s)]} {
		if err == nil {
			err = e
		}
	}
	if err != nil {
		n.note("!%d", number(s))
		return "", err
	}
	n.note("+%d", number(s))
	n.has[number(s)] = true
	n.open[number(s)] = open
	return fmt.Sprint("note ", number(s)), nil
}

func (n *net) Withdraw(_ context.Context, s block.Shared, note string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down != nil {
		n.note("!-%d", number(s))
		return n.down
	}
	if note != "" && note != fmt.Sprint("note ", number(s)) {
		return fmt.Errorf("of %d it says %q", number(s), note)
	}
	if note == "" {
		n.note("-%d", number(s))
	} else {
		n.note("-*%d", number(s))
	}
	delete(n.has, number(s))
	return nil
}

func (n *net) note(format string, args ...any) {
	n.said = append(n.said, fmt.Sprintf(format, args...)+fmt.Sprintf("@%d", int(time.Since(n.start).Seconds())))
}

// take returns what was written down since the last call: each thing with the
// seconds since the start.
func (n *net) take() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := strings.Join(n.said, " ")
	n.said = nil
	return s
}

func (n *net) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

// rig is a Feeder that runs.
type rig struct {
	t   *testing.T
	f   *Feeder
	end func()
	log *bytes.Buffer // read after end
}

// run starts a Feeder, in a bubble.
func run(t *testing.T, lib block.Library, o Options, sinks ...Sink) *rig {
	t.Helper()
	r := &rig{t: t, log: &bytes.Buffer{}}
	o.Log = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	f, err := New(lib, sinks, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	r.f = f
	r.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.end)
	synctest.Wait()
	return r
}

// want compares what a network was told since the last time, after a while.
func (n *net) want(t *testing.T, after time.Duration, want string) {
	t.Helper()
	<-time.After(after)
	synctest.Wait()
	if got := n.take(); got != want {
		t.Errorf("told  %s\nwant  %s", got, want)
	}
}

// wantAny is want in whatever order.
func (n *net) wantAny(t *testing.T, after time.Duration, want string) {
	t.Helper()
	<-time.After(after)
	synctest.Wait()
	got := strings.Fields(n.take())
	slices.Sort(got)
	if got := strings.Join(got, " "); got != want {
		t.Errorf("told  %s\nwant  %s", got, want)
	}
}
