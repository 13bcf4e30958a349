package bundle

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"ersatz/eris"
	"ersatz/eriscbor"
	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// TestLayout: what a folder has, byte for byte. In the names of files nothing is
// encoded, since stock Guix takes the URL for the name; a "?" would end that.
func TestLayout(t *testing.T) {
	x := newThing(t, 1, 3000, "zstd")
	y := newThing(t, 2, 3000, "none").unsigned()
	dir := t.TempDir()
	_, err := unpack(t, dir, pack(t, manifestOf(t, x, y), x, y))
	must(t, err)
	want := map[string]string{
		"nix-cache-info":              "StoreDir: /gnu/store\nWantMassQuery: 1\nPriority: 10\n",
		"nar/zstd/" + x.path().Base(): string(x.file),
		"nar/" + y.path().Base():      string(y.file),
		x.path().Hash + narinfoEnd:    string(x.signed(t)) + "URL: nar/zstd/" + x.path().Hash + "-thing+1%3F\nCompression: zstd\nFileSize: " + strconv.Itoa(len(x.file)) + "\n",
		y.path().Hash + narinfoEnd:    string(y.signed(t)) + "URL: nar/" + y.path().Hash + "-thing+1%3F\nCompression: none\nFileSize: 3000\n",
	}
	if got := files(t, dir); len(got) != len(want) {
		t.Errorf("files %v", got)
	}
	for name, text := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != text {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestHostile: what is wrong with one item keeps it out, is told with the item
// and the block, and keeps no other one out.
func TestHostile(t *testing.T) {
	good := newThing(t, 9, 5000, "gzip")
	bad := func() *thing { return newThing(t, 1, 100_000, "zstd") }
	entryOf := func(x *thing, text []byte) []byte {
		e := x.entry(t)
		e.text = text
		return e.append(nil)
	}
	for name, c := range map[string]struct {
		make func() (x *thing, entry []byte)
		is   error
		want string
	}{
		"missing block": {func() (*thing, []byte) {
			x := bad()
			delete(x.blocks, x.rc.Root)
			return x, x.entry(t).append(nil)
		}, eris.ErrNotFound, bad().rc.Root.String()},
		"missing leaf": {func() (*thing, []byte) {
			x := bad()
			for ref := range x.blocks {
				if ref != x.rc.Root {
					delete(x.blocks, ref)
					break
				}
			}
			return x, x.entry(t).append(nil)
		}, eris.ErrNotFound, "block "},
		"another nar": {func() (*thing, []byte) {
			x, y := bad(), newThing(t, 2, 100_000, "zstd")
			y.fields = x.fields
			return y, entryOf(y, x.signed(t))
		}, eris.ErrCorrupt, "NarHash is"},
		"another compression": {func() (*thing, []byte) {
			x := bad()
			x.method.Name = "gzip" // of the entry
			return x, entryOf(x, x.signed(t))
		}, eris.ErrCorrupt, "not the nar that was signed"},
		"longer than signed": {func() (*thing, []byte) {
			x := bad()
			x.fields.NarSize = 1000
			return x, entryOf(x, x.signed(t))
		}, eris.ErrTooLong, "longer"},
		"unpacks to more than signed": {func() (*thing, []byte) {
			x := bad()
			x.fields.NarSize -= 1
			return x, entryOf(x, x.signed(t))
		}, eris.ErrCorrupt, "more bytes"},
		"unknown key": {func() (*thing, []byte) {
			x := bad()
			x.signer = 2
			return x, x.entry(t).append(nil)
		}, narinfo.ErrUnauthorized, bad().path().String()},
		"unsigned": {func() (*thing, []byte) {
			x := bad()
			return x, entryOf(x, x.fields.Body())
		}, narinfo.ErrUnsigned, bad().path().String()},
		"changed": {func() (*thing, []byte) {
			x := bad()
			return x, entryOf(x, bytes.Replace(x.signed(t), []byte("NarSize: 1"), []byte("NarSize: 2"), 1))
		}, narinfo.ErrChanged, bad().path().String()},
		"no narinfo": {func() (*thing, []byte) { return bad(), entryOf(bad(), []byte("<html>\n")) }, narinfo.ErrMalformed, "manifest, entry 2: "},
		"path traversal": {func() (*thing, []byte) {
			x := bad()
			text, err := narinfo.SignGuix(bytes.Replace(x.fields.Body(), []byte("-thing+1?\n"), []byte("-/../../../etc/x\n"), 1), key(t, 1), "h")
			must(t, err)
			return x, entryOf(x, text)
		}, narinfo.ErrMalformed, ""},
		"of another store": {func() (*thing, []byte) {
			x := bad()
			x.fields.StorePath.Dir = storepath.Nix
			return x, x.entry(t).append(nil)
		}, nil, "is for items of /gnu/store, not of /nix/store"},
		"lines of a server": {func() (*thing, []byte) {
			x := bad()
			return x, entryOf(x, append(x.signed(t), "URL: http://127.0.0.1/nar\n"...))
		}, narinfo.ErrMalformed, "lines of one server"},
		"a store that clears the screen": {func() (*thing, []byte) {
			x := bad()
			x.fields.StorePath.Dir = "/\x1b[2J"
			return x, x.entry(t).append(nil)
		}, narinfo.ErrMalformed, `entry 2: narinfo: malformed: store folder "/\x1b[2J"`},
		"a long store": {func() (*thing, []byte) {
			x := bad()
			x.fields.StorePath.Dir = "/" + strings.Repeat("x", maxStoreDir)
			return x, x.entry(t).append(nil)
		}, narinfo.ErrMalformed, "entry 2: "},
		"no NarSize": {func() (*thing, []byte) {
			x := bad()
			text, err := narinfo.SignGuix(bytes.Replace(x.fields.Body(), []byte("NarSize: 100000\n"), nil, 1), key(t, 1), "h")
			must(t, err)
			return x, entryOf(x, text)
		}, narinfo.ErrMalformed, "NarSize"},
	} {
		dir := t.TempDir()
		x, e := c.make()
		manifest := append(append(manifestOf(t, good), e...), good.entry(t).append(nil)...)
		done, err := unpack(t, dir, pack(t, manifest, good, x))
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if done.Counts[StateImported] != 1 || done.Counts[StatePresent] != 1 || len(done.Items) != 3 || done.Items[1].Error == "" {
			t.Errorf("%s: %+v", name, done)
		}
		wantItem(t, dir, good)
		if got := files(t, dir); len(got) != 3 {
			t.Errorf("%s: the folder has %v", name, got)
		}
	}
}

// TestFullDisk: what was wrong before the disk was full is told as well.
func TestFullDisk(t *testing.T) {
	x, y := newThing(t, 1, 100_000, "zstd"), newThing(t, 2, 2000, "gzip")
	x.signer = 2
	restore := durable.SetFaultForTest(func(op, path string) error {
		if op == "write" && strings.Contains(path, y.path().Base()) {
			return syscall.ENOSPC
		}
		return nil
	})
	defer restore()
	done, err := unpack(t, t.TempDir(), pack(t, manifestOf(t, x, y, x), x, y))
	if !errors.Is(err, syscall.ENOSPC) || !errors.Is(err, narinfo.ErrUnauthorized) || !strings.Contains(err.Error(), y.path().String()) || len(done.Items) != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestManyErrors: errors are bounded, items that are told of are not.
func TestManyErrors(t *testing.T) {
	x := newThing(t, 1, 1000, "zstd")
	x.signer = 2
	manifest := []byte(magic)
	for range 50 {
		manifest = x.entry(t).append(manifest)
	}
	done, err := unpack(t, t.TempDir(), pack(t, manifest))
	if done.Counts[StateRefused] != 50 || strings.Count(err.Error(), x.path().String()) != maxReasons || !strings.HasSuffix(err.Error(), "…") {
		t.Errorf("%v, %v", done.Counts, err)
	}
}

// TestRepeated: an item that failed is not unpacked again.
func TestRepeated(t *testing.T) {
	x, y := newThing(t, 1, 100_000, "zstd"), newThing(t, 2, 100_000, "zstd")
	y.fields = x.fields
	b := pack(t, manifestOf(t, y, y, y), y)
	index, err := eriscbor.ReadIndex(bytes.NewReader(b), nil)
	must(t, err)
	reads := 0
	counting := readerAtFunc(func(p []byte, off int64) (int, error) {
		if len(p) == int(eris.Size32KiB) { // those of y alone
			reads++
		}
		return bytes.NewReader(b).ReadAt(p, off)
	})
	done, err := Import(t.Context(), t.TempDir(), index, counting, trusted(t), ImportOptions{})
	if done.Counts[StateFailed] != 3 || !errors.Is(err, eris.ErrCorrupt) || reads > len(y.blocks) {
		t.Errorf("%d reads of %d blocks, %+v, %v", reads, len(y.blocks), done, err)
	}
}

// TestClaim: an item that fails does not say of which store the folder is.
func TestClaim(t *testing.T) {
	x, y := newThing(t, 1, 100_000, "zstd"), newThing(t, 2, 1000, "zstd")
	x.fields.StorePath.Dir = storepath.Nix
	x.fields.NarHash[0]++
	dir := t.TempDir()
	done, err := unpack(t, dir, pack(t, manifestOf(t, x, y), x, y))
	if done.Counts[StateFailed] != 1 || done.Counts[StateImported] != 1 || !errors.Is(err, eris.ErrCorrupt) {
		t.Errorf("%+v, %v", done, err)
	}
	wantItem(t, dir, y)
}

// TestShrunk: a bundle that loses its end meanwhile is not taken for a whole one.
func TestShrunk(t *testing.T) {
	x := newThing(t, 1, 1000, "zstd")
	manifest := manifestOf(t, x, x, x, x, x)
	b := pack(t, manifest, x)
	index, err := eriscbor.ReadIndex(bytes.NewReader(b), nil)
	must(t, err)
	last := int64(bytes.LastIndex(b[:len(manifest)/1024*(34+3+1024)+1], []byte{0x58, 0x20})) // a leaf of the manifest
	short := readerAtFunc(func(p []byte, off int64) (int, error) {
		if off > last && off < last+100 {
			return 0, io.EOF
		}
		return bytes.NewReader(b).ReadAt(p, off)
	})
	done, err := Import(t.Context(), t.TempDir(), index, short, trusted(t), ImportOptions{})
	if !errors.Is(err, eris.ErrCorrupt) || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestLongErrors: what became of an item is told in few words, whatever its
// narinfo says.
func TestLongErrors(t *testing.T) {
	x := newThing(t, 1, 1000, "zstd")
	x.signer = 2
	long := strings.Repeat("x", 500_000)
	manifest := []byte(magic)
	for _, text := range []string{
		strings.Replace(string(x.signed(t)), "StorePath: ", "StorePath: "+long, 1),
		strings.Replace(string(x.signed(t)), "StorePath: /", "StorePath: /"+long+"/", 1),
		strings.Replace(string(x.signed(t)), "+1?\n", long+"\n", 1),
		strings.Replace(string(x.signed(t)), "References: ", "References: "+long, 1),
		strings.Replace(string(x.signed(t)), "NarSize: ", "NarSize: "+long, 1),
		strings.Replace(string(x.signed(t)), "Signature: 1;", "Signature: 1;"+long, 1),
		strings.Replace(string(x.signed(t)), "Signature: 1;", "Signature: "+long, 1),
	} {
		manifest = entry{x.rc, compress.Method{Name: "zstd"}, []byte(text)}.append(manifest)
	}
	done, err := unpack(t, t.TempDir(), pack(t, manifest))
	if done.Counts[StateRefused] != 7 || err == nil {
		t.Errorf("%v", done.Counts)
	}
	for i, item := range done.Items {
		if len(item.Path)+len(item.Error) > 2000 {
			t.Errorf("item %d: %d bytes of path, %d of error", i, len(item.Path), len(item.Error))
		}
	}
}

// TestNotOurs: bundles with other contents, and broken manifests.
func TestNotOurs(t *testing.T) {
	x := newThing(t, 1, 100_000, "zstd")
	for name, manifest := range map[string][]byte{
		"short": []byte("ersatz"), "empty": nil, "another": noise(1, 5000), "another version": []byte("ersatz-bundle-2\n\n" + strings.Repeat("x", 100)),
	} {
		dir := filepath.Join(t.TempDir(), "dir")
		if _, err := unpack(t, dir, pack(t, manifest, x)); !errors.Is(err, ErrNoManifest) || folder.Exists(dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var b bytes.Buffer
	must(t, eriscbor.NewWriter(&b).Finish())
	if _, err := unpack(t, t.TempDir(), b.Bytes()); !errors.Is(err, ErrNoManifest) {
		t.Errorf("no content: %v", err)
	}
	// The first entry is good.
	good := manifestOf(t, x)
	for name, rest := range map[string]string{
		"garbage": "garbage", "cut": string(good[len(magic) : len(good)-1]), "a long line": strings.Repeat("x", 1<<20),
	} {
		dir := t.TempDir()
		done, err := unpack(t, dir, pack(t, append(bytes.Clone(good), rest...), x))
		if !errors.Is(err, eris.ErrCorrupt) || !strings.Contains(err.Error(), "manifest, entry 2") || done.Counts[StateImported] != 1 {
			t.Errorf("%s: %+v, %v", name, done, err)
		}
		wantItem(t, dir, x)
	}
	// A block of the manifest is missing, the second one.
	long := good
	for range 3 {
		long = x.entry(t).append(long)
	}
	whole := pack(t, long)
	index, err := eriscbor.ReadIndex(bytes.NewReader(whole), nil)
	must(t, err)
	second := bytes.Index(whole, []byte{0x58, 0x20}) + 2*(34+3+1024)
	done, err := Import(t.Context(), t.TempDir(), index, bytes.NewReader(flip(whole, second-1)), trusted(t), ImportOptions{})
	if !errors.Is(err, eris.ErrCorrupt) || !strings.Contains(err.Error(), "manifest") {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestFolder: folders that are others', and what was there before.
func TestFolder(t *testing.T) {
	x := newThing(t, 1, 100_000, "zstd")
	b := pack(t, manifestOf(t, x), x)
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, blocksDir), 0o755))
	if _, err := unpack(t, dir, b); err == nil || !strings.Contains(err.Error(), "belongs to") {
		t.Errorf("folder of publish: %v", err)
	}

	dir = t.TempDir()
	lock, err := folder.Lock(filepath.Join(dir, lockFile))
	must(t, err)
	if _, err := unpack(t, dir, b); !errors.Is(err, folder.ErrLocked) {
		t.Errorf("locked: %v", err)
	}
	must(t, lock.Close())

	dir = t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, infoFile), []byte("Priority: 1\n"), 0o644))
	if _, err := unpack(t, dir, b); err == nil || !strings.Contains(err.Error(), "no StoreDir") {
		t.Errorf("nix-cache-info: %v", err)
	}

	for name, c := range map[string]struct {
		before func(info, nar string)
		want   string
	}{
		"torn narinfo": {func(info, nar string) { must(t, os.Truncate(info, 100)) }, StateImported},
		"torn nar":     {func(info, nar string) { must(t, os.Truncate(nar, 100)) }, StateImported},
		"no nar":       {func(info, nar string) { must(t, os.Remove(nar)) }, StateImported},
		"a link":       {func(info, nar string) { must(t, errors.Join(os.Remove(nar), os.Symlink("/etc/passwd", nar))) }, StateImported},
		"leftovers": {func(info, nar string) {
			must(t, os.WriteFile(filepath.Join(filepath.Dir(nar), durable.TempPrefix+"1"), nil, 0o600))
			must(t, os.WriteFile(filepath.Join(filepath.Dir(info), durable.TempPrefix+"1"), nil, 0o600))
		}, StatePresent},
		"another build": {func(info, nar string) {
			y := newThing(t, 1, 100_000, "zstd")
			y.fields.NarHash[0]++
			must(t, os.WriteFile(info, bytes.Replace(readFile(t, info), x.signed(t), y.signed(t), 1), 0o644))
		}, StateDiffers},
		"another build by an unknown key": {func(info, nar string) {
			y := newThing(t, 1, 100_000, "zstd")
			y.fields.NarHash[0]++
			y.signer = 2
			must(t, os.WriteFile(info, bytes.Replace(readFile(t, info), x.signed(t), y.signed(t), 1), 0o644))
		}, StateImported},
	} {
		dir := t.TempDir()
		_, err := unpack(t, dir, b)
		must(t, err)
		c.before(filepath.Join(dir, x.path().Hash+narinfoEnd), filepath.Join(dir, "nar/zstd", x.path().Base()))
		done, err := unpack(t, dir, b)
		if err != nil || done.Counts[c.want] != 1 {
			t.Errorf("%s: %+v, %v", name, done, err)
		}
		if c.want != StateDiffers {
			wantItem(t, dir, x)
		}
		if got := files(t, dir); len(got) != 3 {
			t.Errorf("%s: the folder has %v", name, got)
		}
	}
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

// TestListRefuses: what is no mirror is not taken for an empty one.
func TestListRefuses(t *testing.T) {
	none := func(storepath.Path) error { return nil }
	if err := List(filepath.Join(t.TempDir(), "none"), none); err != nil {
		t.Errorf("no folder: %v", err)
	}
	dir := t.TempDir()
	x := newThing(t, 1, 1000, "zstd")
	must(t, os.WriteFile(filepath.Join(dir, strings.Repeat("a", 32)+narinfoEnd), x.signed(t), 0o644))
	if err := List(dir, none); !errors.Is(err, narinfo.ErrMalformed) {
		t.Errorf("another name: %v", err)
	}
	dir = t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, x.path().Hash+narinfoEnd), x.signed(t), 0o644))
	called := errors.New("called")
	if err := List(dir, func(storepath.Path) error { return called }); err != nil {
		t.Errorf("an item without a nar is listed: %v", err)
	}
}

// TestFaults breaks each operation on the disk in turn, once or from there on. A
// narinfo that is there has its nar, and the next import completes the folder.
func TestFaults(t *testing.T) {
	x, y := newThing(t, 1, 100_000, "zstd"), newThing(t, 2, 2000, "gzip")
	b := pack(t, manifestOf(t, x, y), x, y)
	ops := 0
	restore := durable.SetFaultForTest(func(string, string) error { ops++; return nil })
	_, err := unpack(t, t.TempDir(), b)
	restore()
	must(t, err)
	if ops < 20 {
		t.Fatalf("%d operations", ops)
	}
	for n := range ops {
		for _, lasting := range []bool{false, true} {
			dir := t.TempDir()
			i := 0
			restore := durable.SetFaultForTest(func(string, string) error {
				i++
				if i-1 == n || lasting && i > n {
					return syscall.ENOSPC
				}
				return nil
			})
			_, err := unpack(t, dir, b)
			restore()
			if !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("operation %d: %v", n, err)
			}
			for _, thing := range []*thing{x, y} {
				if folder.Exists(filepath.Join(dir, thing.path().Hash+narinfoEnd)) {
					wantItem(t, dir, thing)
				}
			}
			done, err := unpack(t, dir, b)
			if err != nil || done.Counts[StateImported]+done.Counts[StatePresent] != 2 || len(files(t, dir)) != 5 {
				t.Errorf("operation %d: %+v, %v, %v", n, done, err, files(t, dir))
			}
		}
	}
}

// TestInterrupted: an import that is interrupted goes on where it was.
func TestInterrupted(t *testing.T) {
	x, y := newThing(t, 1, 100_000, "zstd"), newThing(t, 2, 2000, "gzip")
	b := pack(t, manifestOf(t, x, y), x, y)
	index, err := eriscbor.ReadIndex(bytes.NewReader(b), nil)
	must(t, err)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Import(ctx, dir, index, bytes.NewReader(b), trusted(t), ImportOptions{Progress: func(done, total int) {
		if done != 1 || total != 2 {
			t.Errorf("progress %d of %d", done, total)
		}
		cancel()
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	wantItem(t, dir, x)
	if names := files(t, dir); len(names) != 3 {
		t.Errorf("the folder has %v", names)
	}
	done, err := unpack(t, dir, b)
	if err != nil || done.Counts[StatePresent] != 1 || done.Counts[StateImported] != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestBrokenStick: a bundle that cannot be read fails items, and not the folder.
func TestBrokenStick(t *testing.T) {
	x, y := newThing(t, 1, 100_000, "zstd"), newThing(t, 2, 2000, "gzip")
	b := pack(t, manifestOf(t, y, x), y, x)
	index, err := eriscbor.ReadIndex(bytes.NewReader(b), nil)
	must(t, err)
	broken := readerAtFunc(func(p []byte, off int64) (int, error) {
		if len(p) == int(eris.Size32KiB) { // those of x alone
			return 0, &fs.PathError{Op: "read", Path: "/media/stick", Err: syscall.EIO}
		}
		return bytes.NewReader(b).ReadAt(p, off)
	})
	dir := t.TempDir()
	done, err := Import(t.Context(), dir, index, broken, trusted(t), ImportOptions{})
	if !errors.Is(err, syscall.EIO) || done.Counts[StateFailed] != 1 || done.Counts[StateImported] != 1 || !strings.Contains(err.Error(), "block ") {
		t.Errorf("%+v, %v", done, err)
	}
	wantItem(t, dir, y)
	if slices.ContainsFunc(files(t, dir), func(name string) bool { return strings.Contains(name, durable.TempPrefix) }) {
		t.Errorf("the folder has %v", files(t, dir))
	}
}

type readerAtFunc func(p []byte, off int64) (int, error)

func (f readerAtFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }
