package share

import (
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block"
	"ersatz/internal/transport/ipfs"
	"ersatz/internal/transport/ipfs/kubotest"
)

// content is a content in memory.
type content struct {
	cap    eris.ReadCap
	refs   []eris.Ref // in the order of the tree
	blocks map[eris.Ref][]byte
	made   int   // blocks
	broken error // what the second half is
	closed int
}

func newContent(t *testing.T, text string) *content {
	t.Helper()
	c := &content{blocks: map[eris.Ref][]byte{}}
	var levels [][]eris.Ref
	rc, _, err := eris.Encode(strings.NewReader(text), eris.Size1KiB, eris.Secret{}, func(b eris.Block) error {
		if b.Level == len(levels) {
			levels = append(levels, nil)
		}
		levels[b.Level] = append(levels[b.Level], b.Ref)
		c.blocks[b.Ref] = slices.Clone(b.Data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c.cap, c.refs = rc, slices.Concat(levels...)
	return c
}

func (c *content) Len() int64 { return int64(len(c.refs)) }

func (c *content) Block(_ context.Context, place int64) (eris.Ref, []byte, error) {
	if c.broken != nil && place >= c.Len()/2 {
		return eris.Ref{}, nil, c.broken
	}
	c.made++
	ref := c.refs[place]
	return ref, c.blocks[ref], nil
}

func (c *content) Close() error {
	c.closed++
	return nil
}

// treed is a content that knows its references.
type treed struct {
	*content
	fault error
}

func (c treed) Refs() iter.Seq[eris.Ref] { return slices.Values(c.refs) }
func (c treed) Err() error               { return c.fault }

// fading is a content whose references cannot be read to their end a second time.
type fading struct {
	*content
	reads int
	fault error
}

func (c *fading) Refs() iter.Seq[eris.Ref] {
	return func(yield func(eris.Ref) bool) {
		refs := c.refs
		if c.reads++; c.reads > 1 {
			refs, c.fault = refs[:len(refs)/2], errors.New("unreadable by now")
		}
		slices.Values(refs)(yield)
	}
}

func (c *fading) Err() error { return c.fault }

// Half of the references make a manifest, too, under which the other blocks would not
// be kept.
func TestKuboFadingContent(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // it may be cut off
		io.WriteString(w, `{"Root":{"Cid":{"/":"x"},"PinErrorMsg":""}}`)
	}))
	defer api.Close()
	client, err := ipfs.New(api.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &fading{content: newContent(t, strings.Repeat("x", 5000))}
	_, err = Kubo(client).Offer(t.Context(), block.Shared{ReadCap: c.cap}, func(context.Context) (block.Content, error) { return c, nil })
	if err == nil || !strings.Contains(err.Error(), "unreadable by now") {
		t.Errorf("the error is %v", err)
	}
}

// A real daemon is given contents under a pin each, and rid of all of it again
// by the note alone.
func TestKubo(t *testing.T) {
	d := kubotest.Start(t)
	client, err := ipfs.New(d.API, nil)
	if err != nil {
		t.Fatal(err)
	}
	k := Kubo(client)
	plain, tree := newContent(t, strings.Repeat("plain", 2000)), newContent(t, strings.Repeat("tree", 2000))
	offer := func(c *content, as block.Content) string {
		t.Helper()
		note, err := k.Offer(t.Context(), block.Shared{ReadCap: c.cap}, func(context.Context) (block.Content, error) { return as, nil })
		if err != nil {
			t.Fatal(err)
		}
		if c.closed != 1 {
			t.Errorf("closed %d times", c.closed)
		}
		return note
	}
	first, second := offer(plain, plain), offer(tree, treed{content: tree})
	if tree.made != len(tree.refs) {
		t.Errorf("%d blocks were made, there are %d", tree.made, len(tree.refs))
	}
	has := func(c *content) int {
		t.Helper()
		var n atomic.Int32
		err := client.Fetch(t.Context(), eris.Size1KiB, c.refs, func(int, []byte) error { n.Add(1); return nil })
		if err != nil {
			t.Error(err)
		}
		return int(n.Load())
	}
	if pins := d.Run(t, "pin", "ls", "--type=recursive", "--quiet"); !strings.Contains(pins, first) || !strings.Contains(pins, second) {
		t.Errorf("%s and %s are not among the pins %q", first, second, pins)
	}
	if has(plain) != len(plain.refs) || has(tree) != len(tree.refs) {
		t.Error("blocks are missing")
	}
	for range 2 {
		if err := k.Withdraw(t.Context(), block.Shared{ReadCap: plain.cap}, first); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Withdraw(t.Context(), block.Shared{}, ""); err != nil {
		t.Errorf("what was never put: %v", err)
	}
	if pins := d.Run(t, "pin", "ls", "--type=recursive", "--quiet"); strings.Contains(pins, first) || !strings.Contains(pins, second) {
		t.Errorf("pins %q", pins)
	}
	client.BlockTimeout = 100 * time.Millisecond
	if has(plain) != 0 || has(tree) != len(tree.refs) {
		t.Errorf("%d blocks are left", has(plain))
	}
}

// What cannot be read is not put, and says that it is the content.
func TestKuboBrokenContent(t *testing.T) {
	d := kubotest.Start(t)
	client, err := ipfs.New(d.API, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := d.Run(t, "pin", "ls", "--type=recursive", "--quiet")
	c := newContent(t, strings.Repeat("broken", 2000))
	c.broken = &eris.CorruptError{Msg: "rotten"}
	for name, as := range map[string]block.Content{
		"blocks":     treed{content: c},
		"references": treed{newContent(t, strings.Repeat("lost", 2000)), c.broken},
		"both":       c,
	} {
		_, err := Kubo(client).Offer(t.Context(), block.Shared{ReadCap: c.cap}, func(context.Context) (block.Content, error) { return as, nil })
		if !errors.Is(err, eris.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	gone := &eris.MissingError{}
	_, err = Kubo(client).Offer(t.Context(), block.Shared{}, func(context.Context) (block.Content, error) { return nil, gone })
	if !errors.Is(err, eris.ErrNotFound) {
		t.Errorf("gone: %v", err)
	}
	if after := d.Run(t, "pin", "ls", "--type=recursive", "--quiet"); after != before {
		t.Errorf("pins %q, before %q", after, before)
	}
}
