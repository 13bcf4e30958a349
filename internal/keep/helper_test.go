package keep

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ersatz/eris"
	"ersatz/internal/compress"
	"ersatz/internal/folder"
	"ersatz/narinfo"
	"ersatz/storepath"
)

var _ eris.Nodes = (*Part)(nil)

// clock is a clock that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newClock() *clock { return &clock{t: time.Now()} }

func open(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing is in the making, and what was left may have been a moment ago.
	begun := s.begun
	s.begun = time.Now().AddDate(100, 0, 0)
	if err := s.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.begun = begun
	return s
}

// memory returns a folder in memory, if it has room there: for tests that change a
// folder hundreds of times, each time waiting for the disk.
func memory(t *testing.T) string {
	t.Helper()
	const shm, room = "/dev/shm", 32 << 20
	var fs unix.Statfs_t
	if err := unix.Statfs(shm, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC || int64(fs.Bavail)*fs.Bsize < room {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(shm, "keep-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func closing(t testing.TB, s io.Closer) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func random(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// thing is an item with its nar, as it was compressed, and the blocks of that.
type thing struct {
	Item
	nar    []byte // not compressed
	file   []byte // compressed
	blocks map[eris.Ref][]byte
	nodes  []eris.Block // in the encoder's order, with their bytes
}

func makeThing(t testing.TB, n byte, size int) *thing {
	t.Helper()
	const digits = "0123456789abcdfghijklmnpqrsvwxyz"
	hash := strings.Repeat("a", 30) + string(digits[n/32]) + string(digits[n%32])
	p, err := storepath.Parse("/gnu/store/" + hash + "-item-1.0")
	if err != nil {
		t.Fatal(err)
	}
	x := &thing{nar: random(n, size), blocks: map[eris.Ref][]byte{}}
	m := compress.Method{Name: "zstd", Level: 1}
	var b bytes.Buffer
	w, err := compress.NewWriter(&b, m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(x.nar); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	x.file = b.Bytes()
	x.encode(t, eris.Recommended(int64(len(x.file))), p, m)
	return x
}

// encode fills in the rest.
func (x *thing) encode(t testing.TB, size eris.BlockSize, p storepath.Path, m compress.Method) {
	t.Helper()
	c, _, err := eris.Encode(bytes.NewReader(x.file), size, eris.Secret{}, func(b eris.Block) error {
		b.Data, b.Node = bytes.Clone(b.Data), bytes.Clone(b.Node)
		x.blocks[b.Ref] = b.Data
		x.nodes = append(x.nodes, b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	x.Item = Item{
		Path: p, NarHash: sha256.Sum256(x.nar), NarSize: int64(len(x.nar)), Server: "https://example.org", Method: m.Name,
		ReadCap: c, Format: m.Format(), Signed: true, Asked: true,
	}
	x.Narinfo = []byte("StorePath: " + p.String() + "\nURL: nar/x\nCompression: none\nNarHash: " + narinfo.FormatHash(x.NarHash) +
		"\nNarSize: 1\nReferences: \n")
}

func (x *thing) tree(emit func(eris.Block) error) error {
	for _, b := range x.nodes {
		b.Data, b.Node = nil, nil
		if err := emit(b); err != nil {
			return err
		}
	}
	return nil
}

func (x *thing) about() About { return About{Item: x.Item, FileSize: int64(len(x.file))} }

func part(t testing.TB, s *Store, x *thing) *Part {
	t.Helper()
	p, err := s.Part(BlocksID(x.ReadCap), x.about())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// fill stores all nodes of a thing and says so.
func fill(t testing.TB, p *Part, x *thing) {
	t.Helper()
	for _, b := range x.nodes {
		if err := p.Store(b.Level, b.Index, b.Node); err != nil {
			t.Fatal(err)
		}
		p.Done(b.Level, b.Index, b.Ref, b.Key)
	}
	p.Finish(int64(len(x.file)))
}

// twin returns an item with the nar of x and the path of another thing.
func (x *thing) twin(t testing.TB, n byte) *thing {
	y := *x
	y.Path = makeThing(t, n, 1).Path
	y.Narinfo = bytes.ReplaceAll(x.Narinfo, []byte(x.Path.String()), []byte(y.Path.String()))
	return &y
}

// put makes a thing an item.
func put(t testing.TB, s *Store, x *thing) Item {
	t.Helper()
	p := part(t, s, x)
	defer closing(t, p)
	fill(t, p, x)
	i, err := p.Commit(t.Context(), x.Item, x.tree)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// kept compares what is kept of a thing with what it is.
func kept(t testing.TB, s *Store, x *thing) {
	t.Helper()
	f, err := s.Open(x.Path.Hash)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, f)
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, x.file) {
		t.Errorf("%s: %d bytes, not those that came; %v", x.Path, len(got), err)
	}
	i := f.Item
	if i.Path != x.Path || i.NarHash != x.NarHash || i.NarSize != x.NarSize || string(i.Narinfo) != string(x.Narinfo) ||
		i.Server != x.Server || i.Method != x.Method || i.Size != int64(len(x.file)) || i.Format != x.Format {
		t.Errorf("another item: %+v", i)
	}
}

// served returns how many blocks of a thing come, and fails if one is wrong.
func served(t testing.TB, b *Blocks, x *thing) int {
	t.Helper()
	n := given(t, b, x)
	if sent := sentFrames(t, b, x); sent != n {
		t.Errorf("%d blocks are sent, %d given", sent, n)
	}
	return n
}

// given is served while things come and go.
func given(t testing.TB, b *Blocks, x *thing) (n int) {
	t.Helper()
	refs := x.refs()
	next := 0
	err := b.Batch(t.Context(), refs, func(i int, block []byte) error {
		if i != next {
			t.Fatalf("block %d where %d should come", i, next)
		}
		if next++; block != nil {
			n++
			if !bytes.Equal(block, x.blocks[refs[i]]) {
				t.Errorf("wrong bytes of block %d", i)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, ref := range refs {
		if i > 4 && i < len(refs)-4 {
			continue
		}
		block, err := b.Get(t.Context(), ref)
		if err == nil && !bytes.Equal(block, x.blocks[ref]) || err != nil && !errors.Is(err, eris.ErrNotFound) {
			t.Errorf("block %d: %v", i, err)
		}
	}
	return n
}

// faults returns what Fsck says.
func faults(t testing.TB, dir string, o CheckOptions) string {
	t.Helper()
	var b strings.Builder
	err := Fsck(t.Context(), dir, o, func(f folder.Fault) {
		b.WriteString(f.File + ": " + f.Text + "\n")
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// damage changes a byte of a file.
func damage(t testing.TB, name string, off int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b[:], off); err != nil {
		t.Fatal(err)
	}
}

// files returns the names of all files below a folder that hold something of
// items or parts.
func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(name, ".sqlite") && d.Name() != lockFile {
			rel, _ := filepath.Rel(dir, name)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// refs returns the references of all nodes.
func (x *thing) refs() (refs []eris.Ref) {
	for _, node := range x.nodes {
		refs = append(refs, node.Ref)
	}
	return refs
}

// sentFrames returns how many blocks Frames gives, and fails the test if they are
// not those, in order.
func sentFrames(t testing.TB, b *Blocks, x *thing) (n int) {
	t.Helper()
	refs := x.refs()
	var all []byte
	err := b.Frames(t.Context(), refs, func(frames []byte) error {
		all = append(all, frames...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, ref := range refs {
		want := []byte{0, 0, 0, 0}
		if !bytes.HasPrefix(all, want) {
			want = append(binary.BigEndian.AppendUint32(nil, uint32(x.ReadCap.Size)), x.blocks[ref]...)
			n++
		}
		if !bytes.HasPrefix(all, want) {
			t.Fatalf("the frame of block %d of %d is wrong", i, len(refs))
		}
		all = all[len(want):]
	}
	if len(all) > 0 {
		t.Errorf("%d bytes too many are sent", len(all))
	}
	return n
}
