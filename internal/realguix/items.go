package realguix

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"

	"ersatz/guixsig"
	"ersatz/internal/wire"
	"ersatz/nar"
	"ersatz/storepath"
)

// Item is a store item to be made.
type Item struct {
	Path       storepath.Path
	References []storepath.Path // valid already, or the item itself
	Deriver    string
	Tree       string // on the host: the item's file, link or folder
}

const exportMagic = 0x4558494e // "NIXE"

// Export writes items as `guix archive --import` reads them (Guix 1.5.0,
// nix/libstore/local-store.cc, exportPath), each after those that it refers
// to.
func Export(w io.Writer, key *guixsig.PrivateKey, items ...Item) error {
	for _, item := range items {
		if _, err := w.Write(wire.AppendUint64(nil, 1)); err != nil {
			return err
		}
		hash := sha256.New()
		body := io.MultiWriter(w, hash)
		if _, err := nar.Dump(body, item.Tree); err != nil {
			return err
		}
		b := wire.AppendUint64(nil, exportMagic)
		b = wire.AppendString(b, item.Path.String())
		b = wire.AppendUint64(b, uint64(len(item.References)))
		for _, ref := range item.References {
			b = wire.AppendString(b, ref.String())
		}
		b = wire.AppendString(b, item.Deriver)
		if _, err := body.Write(b); err != nil {
			return err
		}
		b = wire.AppendUint64(nil, 1)
		b = wire.AppendString(b, string(key.Sign([32]byte(hash.Sum(nil))).Text()))
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	_, err := w.Write(wire.AppendUint64(nil, 0))
	return err
}

// Import makes items valid in the machine's store. Its ACL has the key.
func (m *Machine) Import(ctx context.Context, key *guixsig.PrivateKey, items ...Item) error {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(Export(w, key, items...))
	}()
	cmd := m.Command(ctx, "guix", "archive", "--import")
	cmd.Stdin = r
	_, err := run(cmd)
	r.Close() // an import that failed has not read all
	<-done
	if err != nil {
		return err
	}
	for _, item := range items {
		if !m.Exists(item.Path) {
			return fmt.Errorf("realguix: %s is missing after its import", item.Path)
		}
	}
	return nil
}

// Exists reports whether something has the name of the item.
func (m *Machine) Exists(p storepath.Path) bool {
	_, err := os.Lstat(m.Path(p.String()))
	return err == nil
}

// Hash returns the hash and size of the nar of an item in the store.
func (m *Machine) Hash(p storepath.Path) (nar.Info, error) {
	return nar.Dump(io.Discard, m.Path(p.String()))
}

// Delete removes items, which nothing refers to, from the store.
func (m *Machine) Delete(ctx context.Context, paths ...storepath.Path) error {
	args := []string{"gc", "-D"}
	for _, p := range paths {
		args = append(args, p.String())
	}
	_, err := m.Run(ctx, "guix", args...)
	return err
}

// Build asks for items as `guix build` does and returns what it prints. That
// it succeeds does not mean that they are there.
func (m *Machine) Build(ctx context.Context, paths ...storepath.Path) (string, error) {
	args := []string{"build"}
	for _, p := range paths {
		args = append(args, p.String())
	}
	return m.Run(ctx, "guix", args...)
}

// Trust gives the machine its signing key and a list of keys whose signatures
// it accepts.
func (m *Machine) Trust(own *guixsig.PrivateKey, accepted ...guixsig.PublicKey) error {
	var acl guixsig.ACL
	for _, k := range accepted {
		acl = acl.Add(k)
	}
	for _, f := range []struct {
		name string
		text []byte
		perm os.FileMode
	}{
		{"acl", acl.Text(), 0o644},
		{"signing-key.pub", own.Public().Text(), 0o644},
		{"signing-key.sec", own.Text(), 0o400},
	} {
		if err := m.WriteFile("/etc/guix/"+f.name, f.text, f.perm); err != nil {
			return err
		}
	}
	return nil
}

// ForgetNarinfos removes what Guix and ersatz remember of servers' answers.
func (m *Machine) ForgetNarinfos() error {
	for _, dir := range []string{"/var/guix/substitute", "/var/lib/ersatz"} {
		entries, err := os.ReadDir(m.Path(dir))
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		for _, e := range entries {
			if err := os.RemoveAll(m.Path(dir + "/" + e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Version returns the first line that `guix --version` prints.
func (m *Machine) Version(ctx context.Context) (string, error) {
	out, err := m.Run(ctx, "guix", "--version")
	line, _, _ := strings.Cut(out, "\n")
	return line, err
}
