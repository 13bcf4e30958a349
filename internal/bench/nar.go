package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"ersatz/internal/realguix"
	"ersatz/nar"
)

// narGroup measures the archive format itself, on trees in memory.
func narGroup(ctx context.Context, o Options) ([]Table, error) {
	files, size, big := 6395, int64(209e6), int64(100*mib)
	if o.Quick {
		files, size, big = 1600, 52e6, 25*mib
	}
	trees := []struct {
		what string
		make func(path string) error
	}{
		{fmt.Sprintf("%.0f MB in %d files", float64(size)/1e6, files), func(path string) error { return realguix.MakePackage(path, 2, files, size) }},
		{fmt.Sprintf("one file of %d MiB", big/mib), func(path string) error { return realguix.MakeFile(path, 3, big) }},
	}
	var tables []Table
	for _, tree := range trees {
		t, err := measureNar(ctx, o, 3*size, tree.what, tree.make)
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// measureNar dumps a tree and restores it, in a folder that has room for some
// bytes.
func measureNar(ctx context.Context, o Options, room int64, what string, make func(path string) error) (_ Table, err error) {
	dir, err := memoryDir(room)
	if err != nil {
		return Table{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Table{}, err
	}
	defer func() {
		err = errors.Join(err, nar.RemoveAll(root, "tree"), nar.RemoveAll(root, "copy"), root.Close(), os.Remove(dir))
	}()
	tree, dst := filepath.Join(dir, "tree"), filepath.Join(dir, "copy")
	if err := make(tree); err != nil {
		return Table{}, err
	}
	var archive bytes.Buffer
	want, err := nar.Dump(&archive, tree)
	if err != nil {
		return Table{}, err
	}
	same := func(got nar.Info, err error) error {
		if err == nil && got != want {
			err = fmt.Errorf("another archive: %x of %d bytes", got.Hash, got.Size)
		}
		return err
	}
	// removed has what was restored removed, which is not measured.
	removed := func(work func() error) func(context.Context) (usage, error) {
		return func(context.Context) (usage, error) {
			u, err := inProcess(work)
			return u, errors.Join(err, nar.RemoveAll(root, "copy"))
		}
	}
	plain := func(work func() error) func(context.Context) (usage, error) {
		return func(context.Context) (usage, error) { return inProcess(work) }
	}
	hasher := func() error { return same(hashOf(archive.Bytes()), nil) }
	read := func() io.Reader { return bytes.NewReader(archive.Bytes()) }

	dump := side{name: "ersatz, dump", once: plain(func() error { return same(nar.Dump(io.Discard, tree)) })}
	restore := side{name: "ersatz, restore", once: removed(func() error { return same(nar.Restore(read(), root, "copy", nar.RestoreOptions{})) })}
	peerDump := side{name: "go-nix, dump", once: plain(func() error { return goNixDump(io.Discard, tree) })}
	peerDumpHash := side{name: "go-nix, dump and hash", once: plain(func() error {
		h := nar.NewHasher()
		return errors.Join(goNixDump(h, tree), same(h.Info(), nil))
	})}
	peerRestore := side{name: "go-nix, restore", once: removed(func() error { return goNixRestore(read(), dst) })}
	peerRestoreHash := side{name: "go-nix, restore and hash", once: removed(func() error {
		h := nar.NewHasher()
		return errors.Join(goNixRestore(io.TeeReader(read(), h), dst), same(h.Info(), nil))
	})}
	bareDump := side{name: "system calls of a dump", once: plain(func() error { return bareRead(tree) })}
	files, err := bareList(tree)
	if err != nil {
		return Table{}, err
	}
	bareRestore := side{name: "system calls of a restore", once: removed(func() error { return bareWrite(dst, files) })}
	hash := side{name: "SHA-256", once: plain(hasher)}
	if err := turns(ctx, o, &dump, &peerDump, &peerDumpHash, &bareDump, &restore, &peerRestore, &peerRestoreHash, &bareRestore, &hash); err != nil {
		return Table{}, err
	}

	t := Table{
		Title: "Nars: " + what,
		Note: "A tree in memory (tmpfs) to an archive that nobody keeps, and an archive in memory to a tree. ersatz always hashes; go-nix does not by itself, and with SHA-256 " +
			"hashes what it reads or writes. go-nix has no restore: a loop around its reader makes files, with their times and permissions. The limit is the " +
			"same system calls one after the other by one thread with nothing around them or, where both hash, SHA-256 of the archive in memory: it cannot be shared among cores.",
		Peer: "go-nix", Limit: "limit",
	}
	n := float64(want.Size)
	row := func(what string, ours, peer, limit side) {
		t.versus(what+": wall", megabytes, ours.perSecond(n), peer.perSecond(n), limit.perSecond(n))
		t.versus(what+": CPU", megabytes, ours.perCPUSecond(n), peer.perCPUSecond(n), limit.perCPUSecond(n))
	}
	row("dump, hash by ersatz only", dump, peerDump, bareDump)
	row("dump and hash", dump, peerDumpHash, hash)
	row("restore, hash by ersatz only", restore, peerRestore, bareRestore)
	row("restore and hash", restore, peerRestoreHash, hash)
	return t, nil
}

func hashOf(archive []byte) nar.Info {
	return nar.Info{Hash: sha256.Sum256(archive), Size: int64(len(archive))}
}
