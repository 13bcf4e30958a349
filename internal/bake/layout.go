package bake

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"ersatz/internal/block/narindex"
	"ersatz/internal/compress"
)

// Public keys in the cache folder, as URLs have them.
const (
	KeyFile    = "signing-key.pub" // Guix's; none if narinfos are not signed for Guix
	NixKeyFile = "nix-key.pub"     // Nix's, NAME:BASE64; likewise
)

// Names in the cache folder besides those of Layout.
const (
	infoFile = "nix-cache-info"
	lockFile = narindex.Dir + "/lock"
	suffix   = ".narinfo"
)

// Layout names the files of a cache, relative to its folder, as the URLs have
// them. The zero Layout is the usual one.
type Layout struct {
	NarPath string // what the names of nars begin with; default "nar"
}

func (l Layout) narPath() string {
	if l.NarPath == "" {
		return "nar"
	}
	return l.NarPath
}

// Narinfo returns the name of the narinfo of the item with a hash part.
func (l Layout) Narinfo(hash string) string { return hash + suffix }

// Nar returns the name of a nar; base is the last component of the store path.
func (l Layout) Nar(m compress.Method, base string) string {
	return path.Join(l.narDir(m.Name), base)
}

func (l Layout) narDir(method string) string {
	if method == compress.None.Name {
		return l.narPath()
	}
	return path.Join(l.narPath(), method)
}

// URL returns what a narinfo says of where a nar is: its name, each component
// percent-encoded.
func (l Layout) URL(m compress.Method, base string) string {
	parts := strings.Split(l.Nar(m, base), "/")
	for i, p := range parts {
		parts[i] = encode(p)
	}
	return strings.Join(parts, "/")
}

// encode encodes all but the unreserved characters (RFC 3986, 2.3), as Guile's
// uri-encode does.
func encode(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// validate refuses names of nars that would leave the folder or collide with
// other files in it.
func (l Layout) validate() error {
	p := l.narPath()
	first, _, _ := strings.Cut(p, "/")
	if !filepath.IsLocal(p) || path.Clean(p) != p || p == "." {
		return fmt.Errorf("path of nars %q is not a relative path without dots", p)
	}
	taken := []string{narindex.Dir, infoFile, KeyFile, NixKeyFile, oldHashes}
	if slices.Contains(taken, first) || slices.Contains(methodNames(), first) || strings.HasSuffix(first, suffix) {
		return fmt.Errorf("path of nars %q collides with other files of the cache", p)
	}
	return nil
}

// methodNames returns the methods that nars can be stored in, which are names
// of folders too.
func methodNames() []string { return []string{"zstd", "lzip", "gzip", compress.None.Name} }

// dirs returns the folders that files are written to.
func (l Layout) dirs() []string {
	dirs := []string{".", narindex.TreeDir, narindex.TorrentDir}
	for _, name := range methodNames() {
		dirs = append(dirs, l.narDir(name))
	}
	return dirs
}

// Methods returns the methods that an item is stored in, of those that are
// configured: a file that is compressed already is stored as it is. base is the
// last component of its store path.
func Methods(base string, configured []compress.Method) []compress.Method {
	compressed := []string{".gz", ".bz2", ".xz", ".lz", ".lzma", ".zst", ".tgz", ".tbz2", ".zip"}
	if slices.Contains(compressed, path.Ext(base)) {
		return []compress.Method{compress.None}
	}
	return configured
}

// named returns which of an item's nars the URN names: the first of zstd, else
// the first.
func named(methods []compress.Method) int {
	i := slices.IndexFunc(methods, func(m compress.Method) bool { return m.Name == "zstd" })
	return max(i, 0)
}

func checkMethods(methods []compress.Method) error {
	for i, m := range methods {
		if !slices.Contains(methodNames(), m.Name) {
			return fmt.Errorf("compression method %q is none of zstd, lzip, gzip and none", m.Name)
		}
		if slices.ContainsFunc(methods[:i], func(n compress.Method) bool { return n.Name == m.Name }) {
			return errors.New("compression method " + m.Name + " is given twice")
		}
	}
	return nil
}
