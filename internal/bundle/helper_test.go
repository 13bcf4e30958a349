package bundle

import (
	"bytes"
	"crypto/sha256"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"ersatz/eris"
	"ersatz/eriscbor"
	"ersatz/guixsig"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/compress"
	"ersatz/internal/transport/httpclient"
	"ersatz/internal/transport/n2r"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// key returns the same key for the same number.
func key(t testing.TB, n byte) *guixsig.PrivateKey {
	t.Helper()
	k, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{n}, 32)))
	must(t, err)
	return k
}

// trusted is the judge of who trusts key 1.
func trusted(t testing.TB) upstream.Judge {
	acl := guixsig.ACL{}.Add(key(t, 1).Public())
	return func(n *narinfo.Narinfo) (narinfo.Signed, error) { return n.VerifyGuix(acl) }
}

// noise returns n bytes that do not compress.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

// blocks is what a server of blocks has.
type blocks = blocktest.Blocks

// thing is an item as servers have it.
type thing struct {
	fields narinfo.Fields
	signer byte // number of the key
	method compress.Method
	file   []byte // the compressed nar
	rc     eris.ReadCap
	blocks blocks
}

// newThing makes an item of size random bytes, which refers to others. Its URN
// is signed.
func newThing(t testing.TB, seed byte, size int, method string, refs ...*thing) *thing {
	t.Helper()
	archive := noise(seed, size)
	x := &thing{signer: 1, method: compress.Method{Name: method, Level: 1}, blocks: blocks{}}
	if method == "none" {
		x.method = compress.None
	}
	name := sha256.Sum256([]byte{seed})
	p, err := storepath.ParseBase(storepath.Guix, nixbase32.Encode(name[:20])+"-thing+1?")
	must(t, err)
	x.fields = narinfo.Fields{StorePath: p, NarHash: sha256.Sum256(archive), NarSize: uint64(size)}
	for _, r := range append(refs, x) {
		x.fields.References = append(x.fields.References, r.path().Base())
	}
	var b bytes.Buffer
	w, err := compress.NewWriter(&b, x.method)
	must(t, err)
	_, err = w.Write(archive)
	must(t, err)
	must(t, w.Close())
	x.file = b.Bytes()
	x.rc, _, err = eris.Encode(bytes.NewReader(x.file), eris.Recommended(int64(len(x.file))), eris.Secret{}, func(b eris.Block) error {
		x.blocks[b.Ref] = bytes.Clone(b.Data)
		return nil
	})
	must(t, err)
	x.fields.ERIS, x.fields.ERISFormat = x.rc.URN(), x.method.Format()
	return x
}

func (x *thing) path() storepath.Path { return x.fields.StorePath }

// unsigned leaves the URN out of the narinfo.
func (x *thing) unsigned() *thing {
	x.fields.ERIS, x.fields.ERISFormat = "", ""
	return x
}

func (x *thing) signed(t testing.TB) []byte {
	t.Helper()
	text, err := narinfo.SignGuix(x.fields.Body(), key(t, x.signer), "test")
	must(t, err)
	return text
}

func (x *thing) narPath() string { return "/nar/" + x.method.Name + "/" + x.path().Hash }

// entry is what a manifest says of it.
func (x *thing) entry(t testing.TB) entry {
	return entry{x.rc, compress.Method{Name: x.method.Name}, x.signed(t)}
}

// origin is a substitute server.
type origin struct {
	url string

	mu     sync.Mutex
	files  map[string][]byte // by path
	blocks blocks
	asked  map[string]int // requests by the first component of the path
}

func newOrigin(t testing.TB, things ...*thing) *origin {
	t.Helper()
	o := &origin{files: map[string][]byte{}, blocks: blocks{}, asked: map[string]int{}}
	for _, x := range things {
		o.files["/"+x.path().Hash+".narinfo"] = append(x.signed(t), narinfo.Locations([]narinfo.Nar{
			{URL: x.narPath()[1:], Compression: x.method.Name, FileSize: uint64(len(x.file))},
		})...)
		o.files[x.narPath()] = x.file
		maps.Copy(o.blocks, x.blocks)
	}
	s := httptest.NewServer(o)
	t.Cleanup(s.Close)
	o.url = s.URL
	return o
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked[strings.Split(r.URL.Path, "/")[1]]++
	file, ok := o.files[r.URL.Path]
	switch {
	case r.URL.Path == n2r.BatchPath || r.URL.Path == n2r.BlockPath:
		n2r.Handler(o.blocks).ServeHTTP(w, r)
	case ok:
		w.Write(file)
	default:
		http.NotFound(w, r)
	}
}

func servers(t testing.TB, urls ...string) (list []*upstream.Server) {
	t.Helper()
	for _, u := range urls {
		sv, err := upstream.ParseServer(u)
		must(t, err)
		list = append(list, sv)
	}
	return list
}

func newClient(t testing.TB) *upstream.Client {
	hc := httpclient.New(httpclient.Options{Idle: upstream.DefaultStall})
	c := upstream.New(hc, nil, upstream.Options{})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		hc.CloseIdleConnections()
	})
	return c
}

// export exports an item, with all that it refers to.
func export(t testing.TB, x *thing, o ExportOptions, urls ...string) ([]byte, Exported, error) {
	t.Helper()
	var b bytes.Buffer
	done, err := Export(t.Context(), &b, newClient(t), servers(t, urls...), []storepath.Path{x.path()}, trusted(t), o)
	return b.Bytes(), done, err
}

// pack makes a bundle by hand: a manifest, and the blocks of things.
func pack(t testing.TB, manifest []byte, things ...*thing) []byte {
	t.Helper()
	var b bytes.Buffer
	w := eriscbor.NewWriter(&b)
	rc, _, err := eris.Encode(bytes.NewReader(manifest), eris.Size1KiB, eris.Secret{}, w.Emit)
	must(t, err)
	caps := []eris.ReadCap{rc}
	for _, x := range things {
		for ref, block := range x.blocks {
			must(t, w.Block(ref, block))
		}
		caps = append(caps, x.rc)
	}
	must(t, w.Finish(caps...))
	return b.Bytes()
}

// manifestOf prints a manifest.
func manifestOf(t testing.TB, things ...*thing) []byte {
	t.Helper()
	b := []byte(magic)
	for _, x := range things {
		b = x.entry(t).append(b)
	}
	return b
}

// unpack imports a bundle, of which blocks may be wrong.
func unpack(t testing.TB, dir string, bundle []byte) (Imported, error) {
	t.Helper()
	x, err := eriscbor.ReadIndex(bytes.NewReader(bundle), nil)
	must(t, err)
	return Import(t.Context(), dir, x, bytes.NewReader(bundle), trusted(t), ImportOptions{})
}

// wantItem checks that a folder is a server from which the item can be had.
func wantItem(t testing.TB, dir string, x *thing) {
	t.Helper()
	c := newClient(t)
	answers := c.Ask(t.Context(), servers(t, "file://"+dir), []storepath.Path{x.path()})
	choice := upstream.Choose(x.path(), answers[0], trusted(t))
	if len(choice.Builds) != 1 || len(choice.Builds[0].Nars) != 1 {
		t.Errorf("%s: %d builds, %v", x.path(), len(choice.Builds), choice.Refused)
		return
	}
	body, err := c.OpenNar(t.Context(), choice.Builds[0].Nars[0], choice.Builds[0])
	if err != nil {
		t.Error(err)
		return
	}
	defer body.Close()
	file, err := io.ReadAll(body)
	if err != nil || !bytes.Equal(file, x.file) {
		t.Errorf("%s: nar of %d bytes, not of %d, %v", x.path(), len(file), len(x.file), err)
	}
}

// files returns the names in a folder, but for the lock.
func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() != lockFile {
			rel, _ := filepath.Rel(dir, name)
			names = append(names, rel)
		}
		return err
	}))
	return names
}

func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}
