package bundle

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"ersatz/eris"
	"ersatz/eriscbor"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// family returns an item that refers to a second and a third, in three forms.
func family(t testing.TB) (root, dep, leaf *thing) {
	leaf = newThing(t, 3, 3000, "none").unsigned()
	dep = newThing(t, 2, 90_000, "gzip", leaf).unsigned()
	return newThing(t, 1, 300_000, "zstd", dep, leaf), dep, leaf
}

// TestRoundTrip: a closure goes through a bundle into a folder that serves it.
func TestRoundTrip(t *testing.T) {
	root, dep, leaf := family(t)
	o := newOrigin(t, root, dep, leaf)
	var steps [][2]int
	b, done, err := export(t, root, ExportOptions{Progress: func(n, of int) { steps = append(steps, [2]int{n, of}) }}, o.url)
	must(t, err)
	if len(done.Items) != 3 || done.Items[0].From != root.rc.URN() || !strings.HasPrefix(done.Items[1].From, o.url+"/nar/") || done.Bytes != int64(len(b)) {
		t.Errorf("exported %+v", done)
	}
	if steps[len(steps)-1] != [2]int{3, 3} {
		t.Errorf("progress %v", steps)
	}
	dir := t.TempDir()
	for _, state := range []string{StateImported, StatePresent} {
		got, err := unpack(t, dir, b)
		if err != nil || got.Counts[state] != 3 || len(got.Items) != 3 || got.Items[0].Path != root.path().String() {
			t.Errorf("%s: %+v, %v", state, got, err)
		}
		for _, x := range []*thing{root, dep, leaf} {
			wantItem(t, dir, x)
		}
	}
	var listed []string
	must(t, List(dir, func(p storepath.Path) error {
		listed = append(listed, p.String())
		return nil
	}))
	if len(listed) != 3 || !slices.Contains(listed, dep.path().String()) {
		t.Errorf("listed %v", listed)
	}
}

// TestOthersRead: who knows nothing of us reads the items from a bundle by the
// read capabilities that follow the first.
func TestOthersRead(t *testing.T) {
	root, dep, leaf := family(t)
	b, done, err := export(t, root, ExportOptions{}, newOrigin(t, root, dep, leaf).url)
	must(t, err)
	x, err := eriscbor.ReadIndex(bytes.NewReader(b), nil)
	must(t, err)
	caps := x.Caps()
	if len(caps) != 4 || done.Blocks != x.Blocks() {
		t.Fatalf("%d read capabilities, %d blocks, not %d", len(caps), x.Blocks(), done.Blocks)
	}
	for i, want := range [][]byte{manifestOf(t, root, dep, leaf), root.file, dep.file, leaf.file} {
		var got bytes.Buffer
		r := eris.NewReader(t.Context(), caps[i], x.Fetcher(bytes.NewReader(b)), eris.ReaderOptions{})
		_, err := r.WriteTo(&got)
		if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("content %d: %d bytes, not %d, %v", i, got.Len(), len(want), err)
		}
	}
}

// TestSameBundle: by blocks, or by nars, or of a folder, the bundle is the same.
func TestSameBundle(t *testing.T) {
	root, dep, leaf := family(t)
	o := newOrigin(t, root, dep, leaf)
	first, _, err := export(t, root, ExportOptions{}, o.url)
	must(t, err)
	o.blocks = blocks{}
	second, done, err := export(t, root, ExportOptions{}, o.url)
	if err != nil || !bytes.Equal(first, second) || strings.HasPrefix(done.Items[0].From, "urn:") {
		t.Errorf("by nars: %d bytes, not %d, %v", len(second), len(first), err)
	}
	dir := t.TempDir()
	_, err = unpack(t, dir, first)
	must(t, err)
	third, _, err := export(t, root, ExportOptions{}, "file://"+dir)
	if err != nil || !bytes.Equal(first, third) {
		t.Errorf("of a folder: %d bytes, not %d, %v", len(third), len(first), err)
	}
}

// TestHave leaves out what the receiver has, but not what that refers to.
func TestHave(t *testing.T) {
	root, dep, leaf := family(t)
	o := newOrigin(t, root, dep, leaf)
	b, done, err := export(t, root, ExportOptions{Have: map[storepath.Path]bool{dep.path(): true}}, o.url)
	if err != nil || len(done.Items) != 2 || done.Had != 1 {
		t.Errorf("%+v, %v", done, err)
	}
	got, err := unpack(t, t.TempDir(), b)
	if err != nil || got.Counts[StateImported] != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	// What is had need not be known to anybody.
	delete(o.files, "/"+leaf.path().Hash+".narinfo")
	if _, done, err = export(t, root, ExportOptions{Have: map[storepath.Path]bool{leaf.path(): true}}, o.url); err != nil || len(done.Items) != 2 {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestMissing: nothing is written when an item cannot be had.
func TestMissing(t *testing.T) {
	root, dep, leaf := family(t)
	for name, c := range map[string]struct {
		spoil func(o *origin)
		want  string
	}{
		"absent": {func(o *origin) { delete(o.files, "/"+leaf.path().Hash+".narinfo") }, "1 of 3 store items cannot be had:\n" + leaf.path().String() + ": no server has it"},
		"untrusted": {func(o *origin) {
			leaf.signer = 2
			o.files["/"+leaf.path().Hash+".narinfo"] = leaf.signed(t)
			leaf.signer = 1
		}, "unauthorized"},
		"no size": {func(o *origin) {
			text, err := narinfo.SignGuix(bytes.Replace(leaf.fields.Body(), []byte("NarSize: 3000\n"), nil, 1), key(t, 1), "h")
			must(t, err)
			o.files["/"+leaf.path().Hash+".narinfo"] = text
		}, "NarSize"},
	} {
		o := newOrigin(t, root, dep, leaf)
		c.spoil(o)
		b, _, err := export(t, root, ExportOptions{}, o.url)
		if !errors.Is(err, ErrMissing) || len(b) > 0 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	var unknown []*thing
	for seed := range byte(maxReasons + 2) {
		unknown = append(unknown, newThing(t, 100+seed, 100, "none"))
	}
	root = newThing(t, 50, 100, "none", unknown...)
	_, _, err := export(t, root, ExportOptions{}, newOrigin(t, root).url)
	if !errors.Is(err, ErrMissing) || strings.Count(err.Error(), "no server has it") != maxReasons || !strings.HasSuffix(err.Error(), "\n…") {
		t.Errorf("many: %v", err)
	}
	many := make([]storepath.Path, MaxItems+1)
	for i := range many {
		many[i] = storepath.Path{Dir: storepath.Guix, Hash: root.path().Hash, Name: strings.Repeat("a", 1+i%200) + strings.Repeat("b", i/200)}
	}
	_, err = Export(t.Context(), &bytes.Buffer{}, newClient(t), nil, many, trusted(t), ExportOptions{})
	if !errors.Is(err, ErrTooMany) {
		t.Errorf("too many: %v", err)
	}
}

// TestLongNarinfos: what servers say of the items is held, as far as it fits into
// a manifest.
func TestLongNarinfos(t *testing.T) {
	x := newThing(t, 1, 1000, "zstd")
	for left, want := range map[int]error{100: ErrTooMany, maxManifest: nil} {
		e := &exporter{
			client: newClient(t), servers: servers(t, newOrigin(t, x).url), judge: trusted(t), left: left,
			o: ExportOptions{Progress: func(int, int) {}},
		}
		if _, err := e.closure(t.Context(), []storepath.Path{x.path()}); !errors.Is(err, want) {
			t.Errorf("%d bytes: %v", left, err)
		}
	}
}

// TestWrongNar: a source that gives another nar is passed over for the next, and
// without a next one the error says whose it was.
func TestWrongNar(t *testing.T) {
	root, dep, leaf := family(t)
	good := newOrigin(t, root, dep, leaf)
	for name, spoil := range map[string]func([]byte) []byte{
		"other":   func(b []byte) []byte { return flip(b, len(b)/2) },
		"short":   func(b []byte) []byte { return b[:len(b)-1] },
		"long":    func(b []byte) []byte { return append(bytes.Clone(b), 0) },
		"nothing": func([]byte) []byte { return nil },
		"endless": func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, 1<<20)...) },
	} {
		bad := newOrigin(t, root, dep, leaf)
		for _, x := range []*thing{root, dep, leaf} {
			bad.files[x.narPath()] = spoil(x.file)
		}
		_, _, err := export(t, root, ExportOptions{}, bad.url)
		if !errors.Is(err, eris.ErrCorrupt) || !strings.Contains(err.Error(), bad.url+dep.narPath()) || !strings.Contains(err.Error(), dep.path().String()) {
			t.Errorf("%s: %v", name, err)
		}
		b, done, err := export(t, root, ExportOptions{}, bad.url, good.url)
		if err != nil || !strings.HasPrefix(done.Items[1].From, good.url) {
			t.Errorf("%s, with another server: %+v, %v", name, done, err)
			continue
		}
		dir := t.TempDir()
		_, err = unpack(t, dir, b)
		must(t, err)
		wantItem(t, dir, dep)
	}
}

// TestHint: blocks that a node names come before its nar, which is not
// compressed; a hint that leads to another nar is passed over.
func TestHint(t *testing.T) {
	x := newThing(t, 1, 100_000, "gzip").unsigned()
	other := newThing(t, 2, 50_000, "gzip")
	for name, c := range map[string]struct {
		hint *thing
		want string
	}{"right": {x, x.rc.URN()}, "wrong": {other, "/nar/none"}} {
		o := newOrigin(t, x, other)
		o.files["/"+x.path().Hash+".narinfo"] = append(x.signed(t), "ERISHintFormat: application/x-nix-archive+gzip\nERISHint: "+c.hint.rc.URN()+
			"\nURL: nar/none\nCompression: none\nFileSize: 100000\n"...)
		o.files["/nar/none"] = noise(1, 100_000)
		b, done, err := export(t, x, ExportOptions{}, o.url)
		if err != nil || len(done.Items) != 1 || !strings.HasSuffix(done.Items[0].From, c.want) {
			t.Errorf("%s: %+v, %v", name, done, err)
			continue
		}
		dir := t.TempDir()
		if got, err := unpack(t, dir, b); err != nil || got.Counts[StateImported] != 1 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, lines := range map[string]string{
		"no URN": "ERISHintFormat: application/x-nix-archive\nERISHint: urn:eris:X\n", "no format": "ERISHint: " + x.rc.URN() + "\n",
		"unknown format": "ERISHintFormat: application/x-tar\nERISHint: " + x.rc.URN() + "\n",
	} {
		o := newOrigin(t, x)
		o.files["/"+x.path().Hash+".narinfo"] = append(x.signed(t), lines+"URL: "+x.narPath()[1:]+"\nCompression: gzip\n"...)
		if _, done, err := export(t, x, ExportOptions{}, o.url); err != nil || !strings.HasSuffix(done.Items[0].From, x.narPath()) {
			t.Errorf("%s: %+v, %v", name, done, err)
		}
	}
}

// TestNoNar: an item of which nobody has the bytes.
func TestNoNar(t *testing.T) {
	x := newThing(t, 1, 1000, "zstd").unsigned()
	o := newOrigin(t, x)
	o.files["/"+x.path().Hash+".narinfo"] = x.signed(t)
	if b, _, err := export(t, x, ExportOptions{}, o.url); !errors.Is(err, ErrMissing) || len(b) > 0 {
		t.Errorf("no nar: %d bytes, %v", len(b), err)
	}
}

func TestExportEnds(t *testing.T) {
	root, dep, leaf := family(t)
	o := newOrigin(t, root, dep, leaf)
	full := errors.New("no space")
	for _, have := range []map[storepath.Path]bool{nil, {dep.path(): true, leaf.path(): true}} {
		_, err := Export(t.Context(), writerFunc(func([]byte) (int, error) { return 0, full }), newClient(t), servers(t, o.url),
			[]storepath.Path{root.path()}, trusted(t), ExportOptions{Have: have})
		if !errors.Is(err, full) {
			t.Errorf("full disk: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	judge := func(n *narinfo.Narinfo) (narinfo.Signed, error) {
		cancel() // once the first narinfo has come
		return trusted(t)(n)
	}
	_, err := Export(ctx, &bytes.Buffer{}, newClient(t), servers(t, o.url), []storepath.Path{root.path()}, judge, ExportOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestAnyKey(t *testing.T) {
	x := newThing(t, 1, 1000, "zstd")
	x.signer = 7
	text := x.signed(t)
	parse := func(text []byte) *narinfo.Narinfo {
		n, err := narinfo.Parse(text)
		must(t, err)
		return n
	}
	var judge upstream.Judge = AnyKey
	if s, err := judge(parse(text)); err != nil || s.StorePath != x.path() {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := judge(parse(bytes.Replace(text, []byte("NarSize: 1000"), []byte("NarSize: 1001"), 1))); !errors.Is(err, narinfo.ErrChanged) {
		t.Errorf("changed: %v", err)
	}
	if _, err := judge(parse(x.fields.Body())); !errors.Is(err, narinfo.ErrUnsigned) {
		t.Errorf("unsigned: %v", err)
	}
}

// TestReferencesAreTheirOwn: names that are remembered do not hold the narinfos of what
// the receiver has.
func TestReferencesAreTheirOwn(t *testing.T) {
	base := strings.Repeat("a", 32) + "-item"
	refs := references(storepath.Path{Dir: storepath.Guix}, narinfo.Signed{References: []string{base}})
	if len(refs) != 1 || refs[0].Base() != base || unsafe.StringData(refs[0].Hash) == unsafe.StringData(base) {
		t.Errorf("%+v", refs)
	}
}
