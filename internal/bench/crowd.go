package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"ersatz/eris"
	"ersatz/guixsig"
	"ersatz/internal/block/narindex"
	"ersatz/internal/compress"
	"ersatz/internal/keep"
	"ersatz/narinfo"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

// crowd is a folder with very many small items, a server's and a node's at once:
// what both have is the same, and neither looks at what the other has besides.
// All items have the same nar and the same tree, which are one file each; each
// has a narinfo, a record and rows in the index of its own. The rows are of blocks
// that there are not. So it takes minutes to make, not an hour.
type crowd struct {
	dir   string
	n     int
	nar   []byte // compressed
	c     eris.ReadCap
	key   *guixsig.PrivateKey
	nodes int64
}

// crowdItem returns the store path of the ith item.
func crowdItem(i int) storepath.Path {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	return storepath.Path{Dir: storepath.Guix, Hash: nixbase32.Encode(sum[:20]), Name: fmt.Sprintf("item-%d-1.0", i)}
}

// makeCrowd makes the folder dir.
func makeCrowd(ctx context.Context, dir string, n int, key *guixsig.PrivateKey) (*crowd, error) {
	w := &crowd{dir: dir, n: n, key: key}
	if err := w.first(ctx); err != nil {
		return nil, err
	}
	rows := make(chan error, 1)
	go func() { rows <- w.rows(ctx) }()
	err := w.files(ctx)
	if err = errors.Join(err, <-rows); err != nil {
		return nil, err
	}
	return w, w.settle(ctx)
}

// settle does what a node does in the background when it has a folder for the first
// time, which takes it minutes.
func (w *crowd) settle(ctx context.Context) error {
	store, err := keep.Open(w.dir, keep.Options{Quota: crowdQuota})
	if err != nil {
		return err
	}
	return errors.Join(store.Settle(ctx), store.Close())
}

// as makes the folder one of publish or of a node: each refuses what is the other's.
func (w *crowd) as(program string) error {
	if program == "publish" {
		return os.RemoveAll(filepath.Join(w.dir, "parts"))
	}
	if err := os.Remove(filepath.Join(w.dir, "nix-cache-info")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// crowdQuota is more than a crowd takes: 1 TiB.
const crowdQuota = 1 << 40

const (
	crowdNar  = "nar/zstd"
	crowdSize = 4000 // bytes of a nar before it is compressed, which does not matter here
)

// first makes the nar, the tree and the index, with the first item in it.
func (w *crowd) first(ctx context.Context) error {
	for _, d := range []string{crowdNar, "narinfo"} {
		if err := os.MkdirAll(filepath.Join(w.dir, d), 0o755); err != nil {
			return err
		}
	}
	var nar bytes.Buffer
	z, err := compress.NewWriter(&nar, compress.Method{Name: "zstd", Level: 1})
	if err != nil {
		return err
	}
	if _, err := z.Write(randomBytes(crowdSize, 1)); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	w.nar = nar.Bytes()
	p := crowdItem(0)
	if err := os.WriteFile(filepath.Join(w.dir, crowdNar, p.Base()), w.nar, 0o644); err != nil {
		return err
	}
	x, err := narindex.Open(w.dir)
	if err != nil {
		return err
	}
	tree, err := x.NewWriter(p)
	if err != nil {
		return errors.Join(err, x.Close())
	}
	c, length, err := eris.Encode(bytes.NewReader(w.nar), eris.Size1KiB, eris.Secret{}, func(b eris.Block) error {
		w.nodes++
		return tree.Add(b)
	})
	w.c = c
	if err == nil {
		err = tree.Commit(ctx, c, length, crowdNar+"/"+p.Base())
	}
	return errors.Join(err, tree.Abort(), x.Close())
}

// body returns the signed fields of an item's narinfo.
func (w *crowd) body(i int) []byte {
	p := crowdItem(i)
	return narinfo.Fields{
		StorePath: p, NarHash: sha256.Sum256([]byte(p.Hash)), NarSize: crowdSize,
		References: []string{crowdItem(i + 1).Base(), crowdItem(i + 2).Base()}, Deriver: p.Base() + ".drv",
		ERISFormat: "application/x-nix-archive+zstd-1", ERIS: w.c.URN(),
	}.Body()
}

// narinfo returns an item's narinfo.
func (w *crowd) narinfo(i int) ([]byte, error) {
	signed, err := narinfo.SignGuix(w.body(i), w.key, "crowd")
	if err != nil {
		return nil, err
	}
	at := narinfo.Locations([]narinfo.Nar{{URL: crowdNar + "/" + crowdItem(i).Base(), Compression: "zstd", FileSize: uint64(len(w.nar))}})
	return append(signed, at...), nil
}

// files writes what each item has in the folder, on several cores.
func (w *crowd) files(ctx context.Context) error {
	const workers = 2
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			for i := k; i < w.n && errs[k] == nil; i += workers {
				errs[k] = errors.Join(w.item(i), ctx.Err())
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// item writes the narinfo of an item where `ersatz publish` has it, the record
// where `ersatz node` has it (docs/node.md, "What is kept"), and links to the
// nar and the tree.
func (w *crowd) item(i int) error {
	p := crowdItem(i)
	text, err := w.narinfo(i)
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("ersatz-keep-1\n")
	for _, f := range [][2]string{
		{"StorePath", p.String()}, {"NarHash", narinfo.FormatHash(sha256.Sum256([]byte(p.Hash)))}, {"NarSize", fmt.Sprint(crowdSize)},
		{"Server", "http://crowd.example"}, {"Compression", "zstd"}, {"FileSize", fmt.Sprint(len(w.nar))}, {"ETag", ""},
		{"ERIS", w.c.URN()}, {"ERISFormat", "application/x-nix-archive+zstd-1"}, {"Signed", "yes"},
	} {
		b.WriteString(f[0] + ": " + f[1] + "\n")
	}
	b.WriteString("\n" + string(text))
	err = errors.Join(os.WriteFile(filepath.Join(w.dir, p.Hash+".narinfo"), text, 0o644),
		os.WriteFile(filepath.Join(w.dir, "narinfo", p.Hash), []byte(b.String()), 0o644))
	if first := crowdItem(0); err == nil && i > 0 {
		for _, dir := range []string{crowdNar, narindex.TreeDir} {
			err = errors.Join(err, os.Link(filepath.Join(w.dir, dir, first.Base()), filepath.Join(w.dir, dir, p.Base())))
		}
	}
	return err
}

// rows adds the other items to the index, in one transaction.
func (w *crowd) rows(ctx context.Context) (err error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.dir, narindex.File)+"?_pragma=journal_mode(wal)&_pragma=synchronous(off)&_pragma=cache_size(-65536)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing after Commit
	items, err := tx.PrepareContext(ctx, `INSERT INTO items (id, hash, base, nar, rows) VALUES (?, ?, ?, ?, ?)`)
	if err != nil {
		return err
	}
	defer items.Close()
	one := `INSERT INTO blocks (ref, item, node) VALUES (?, ?, ?)` + strings.Repeat(`, (?, ?, ?)`, int(w.nodes)-1)
	blocks, err := tx.PrepareContext(ctx, one)
	if err != nil {
		return err
	}
	defer blocks.Close()
	for i := 1; i < w.n; i++ {
		p := crowdItem(i)
		if _, err := items.ExecContext(ctx, i+1, p.Hash, p.Base(), crowdNar+"/"+p.Base(), w.nodes); err != nil {
			return err
		}
		var args []any
		for node := range w.nodes {
			sum := sha256.Sum256([]byte(fmt.Sprint(p.Hash, node)))
			args = append(args, int64(binary.BigEndian.Uint64(sum[:])), i+1, node)
		}
		if _, err := blocks.ExecContext(ctx, args...); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// indexSize returns the bytes of the index, with what is not written back yet.
func (w *crowd) indexSize() (int64, error) {
	var sum int64
	for _, suffix := range []string{"", "-wal"} {
		fi, err := os.Stat(filepath.Join(w.dir, narindex.File+suffix))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		sum += fi.Size()
	}
	return sum, nil
}

// crowdKeys writes the key pair that a server wants.
func crowdKeys(dir string, key *guixsig.PrivateKey) (public, private string, err error) {
	public, private = filepath.Join(dir, "key.pub"), filepath.Join(dir, "key.sec")
	return public, private, errors.Join(os.WriteFile(public, key.Public().Text(), 0o644), os.WriteFile(private, key.Text(), 0o600))
}
