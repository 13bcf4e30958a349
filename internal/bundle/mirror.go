package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ersatz/internal/compress"
	"ersatz/internal/durable"
	"ersatz/internal/folder"
	"ersatz/internal/upstream"
	"ersatz/narinfo"
	"ersatz/storepath"
)

// Names in the folder, which has the layout of a substitute server's URLs.
const (
	narDir     = "nar"
	infoFile   = "nix-cache-info"
	lockFile   = ".lock"
	narinfoEnd = ".narinfo"

	// blocksDir is a folder of those that publish and a node manage themselves.
	blocksDir = "eris"
)

// maxInfo bounds nix-cache-info, in bytes.
const maxInfo = 4 << 10

// folderError says that the folder, and not what is put there, is at fault.
type folderError struct{ error }

func (e *folderError) Unwrap() error { return e.error }

// mirror is a folder of narinfos and nars, which one process writes to.
type mirror struct {
	dir      string
	storeDir string // that its nix-cache-info names, "" if there is none yet
	lock     *os.File
}

// openMirror opens a folder, which it makes if it is missing, and removes what
// killed processes have left half done.
func openMirror(dir string) (*mirror, error) {
	if folder.Exists(filepath.Join(dir, blocksDir)) {
		return nil, fmt.Errorf("%s belongs to ersatz publish or to a node; a folder that is neither's is needed", dir)
	}
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := folder.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, err
	}
	m := &mirror{dir: dir, lock: lock}
	if m.storeDir, err = readStoreDir(m.path(infoFile)); err == nil {
		err = m.sweep()
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return m, nil
}

func (m *mirror) close() error { return m.lock.Close() }

func (m *mirror) path(name string) string { return filepath.Join(m.dir, filepath.FromSlash(name)) }

func (m *mirror) sweep() error {
	now := time.Now()
	errs := []error{durable.SweepTemp(m.dir, now), durable.SweepTemp(m.path(narDir), now)}
	entries, err := os.ReadDir(m.path(narDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range entries {
		if e.IsDir() {
			errs = append(errs, durable.SweepTemp(m.path(path.Join(narDir, e.Name())), now))
		}
	}
	return errors.Join(errs...)
}

// readStoreDir returns the StoreDir of a nix-cache-info, "" if there is no such
// file.
func readStoreDir(name string) (string, error) {
	text, err := folder.Read(name, maxInfo)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte("StoreDir:")); ok {
			return strings.TrimSpace(string(value)), nil
		}
	}
	return "", fmt.Errorf("%s has no StoreDir", name)
}

// has returns StatePresent if the item is there, StateDiffers if another build
// of it is, else "". What judge does not have count is as good as absent.
func (m *mirror) has(p storepath.Path, s narinfo.Signed, judge upstream.Judge) (string, error) {
	n, err := m.narinfo(p.Hash + narinfoEnd)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, narinfo.ErrMalformed) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if _, err := judge(n); err != nil || !slices.ContainsFunc(n.Nars, m.hasNar) {
		return "", nil
	}
	if !s.Agrees(n) {
		return StateDiffers, nil
	}
	return StatePresent, nil
}

// narinfo reads a narinfo of the folder.
func (m *mirror) narinfo(name string) (*narinfo.Narinfo, error) {
	text, err := folder.Read(m.path(name), narinfo.MaxSize)
	if err != nil {
		return nil, err
	}
	return narinfo.Parse(text)
}

// hasNar reports whether a nar is there, at its full length if that is said.
func (m *mirror) hasNar(n narinfo.Nar) bool {
	name, err := url.PathUnescape(n.URL)
	if err != nil || !filepath.IsLocal(name) {
		return false
	}
	fi, err := os.Lstat(m.path(name))
	return err == nil && fi.Mode().IsRegular() && (n.FileSize == 0 || uint64(fi.Size()) == n.FileSize)
}

// narName returns the name of a nar in the folder, and its URL: stock Guix takes
// the URL of a file for its name, so that nothing is encoded in it but what
// would end it.
func narName(method, base string) (name, ref string) {
	name = path.Join(narDir, method, base)
	if method == compress.None.Name {
		name = path.Join(narDir, base)
	}
	return name, strings.ReplaceAll(name, "?", "%3F")
}

// put writes an item: the nar, then the narinfo, so that one that is there means
// that all is. It returns the size of the compressed nar. An error that is not a
// *folderError is one of the content, and nothing of the item is there.
func (m *mirror) put(n *narinfo.Narinfo, p storepath.Path, s narinfo.Signed, method compress.Method, content io.Reader) (size int64, err error) {
	if m.storeDir != "" && m.storeDir != p.Dir {
		return 0, fmt.Errorf("%s is for items of %s, not of %s", m.dir, m.storeDir, p.Dir)
	}
	name, ref := narName(method.Name, p.Base())
	if err := durable.MkdirAll(filepath.Dir(m.path(name)), 0o755); err != nil {
		return 0, &folderError{err}
	}
	f, err := durable.Create(m.path(name), 0o644)
	if err != nil {
		return 0, &folderError{err}
	}
	defer func() { err = errors.Join(err, f.Abort()) }()
	file := &fileWriter{w: f}
	if err := copyNar(file, content, method.Name, s); err != nil {
		return 0, err
	}
	text := n.AppendNar(n.Portable(), narinfo.Nar{URL: ref, Compression: method.Name, FileSize: uint64(file.n)})
	if again, err := narinfo.Parse(text); err != nil || !s.Agrees(again) {
		return 0, errors.Join(fmt.Errorf("%w: no nar can be added to it", narinfo.ErrMalformed), err)
	}
	if err := m.claim(p.Dir); err != nil {
		return 0, &folderError{err}
	}
	info := m.path(p.Hash + narinfoEnd)
	if err := durable.Remove(info); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, &folderError{err} // of another nar, perhaps
	}
	if err := f.Commit(); err != nil {
		return 0, &folderError{err}
	}
	err = durable.WriteFile(info, 0o644, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
	if err != nil {
		return 0, &folderError{err}
	}
	return file.n, nil
}

// claim makes the folder one of a store, if it is of none.
func (m *mirror) claim(storeDir string) error {
	if m.storeDir != "" {
		return nil
	}
	err := durable.WriteFile(m.path(infoFile), 0o644, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "StoreDir: %s\nWantMassQuery: 1\nPriority: 10\n", storeDir)
		return err
	})
	if err == nil {
		m.storeDir = storeDir
	}
	return err
}

// fileWriter counts, and marks errors as the folder's.
type fileWriter struct {
	w io.Writer
	n int64
}

func (f *fileWriter) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.n += int64(n)
	if err != nil {
		err = &folderError{err}
	}
	return n, err
}

// List calls each for every item that a folder has a narinfo of, as it says.
func List(dir string, each func(p storepath.Path) error) error {
	m := &mirror{dir: dir}
	return folder.List(dir, func(base string) error {
		if !strings.HasSuffix(base, narinfoEnd) || strings.HasPrefix(base, durable.TempPrefix) {
			return nil
		}
		n, err := m.narinfo(base)
		if err != nil {
			return fmt.Errorf("%s: %w", m.path(base), err)
		}
		p, err := storepath.Parse(n.StorePath)
		if err != nil || p.Hash+narinfoEnd != base {
			return fmt.Errorf("%s: %w: it is of %q", m.path(base), narinfo.ErrMalformed, n.StorePath)
		}
		if !slices.ContainsFunc(n.Nars, m.hasNar) {
			return nil
		}
		return each(p)
	})
}
