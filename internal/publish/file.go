package publish

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ersatz/internal/storedb"
	"ersatz/internal/web"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

const binary = "application/octet-stream;charset=ISO-8859-1"

// file answers /file/NAME/sha256/HASH with the content of a flat fixed-output
// item (Guix manual, "Invoking guix publish").
func (s *Server) file(w http.ResponseWriter, r *http.Request, name, text string) {
	hash, err := nixbase32.Decode(text)
	if err != nil || len(hash) != 32 || !storepath.ValidName(name) {
		web.NotFound(w, r, 0)
		return
	}
	p, err := storepath.FixedOutput(s.store.StoreDir(), name, false, "sha256", hash)
	if err != nil {
		web.NotFound(w, r, 0)
		return
	}
	if _, err := s.store.Info(r.Context(), p); errors.Is(err, storedb.ErrNotFound) {
		web.NotFound(w, r, 0)
		return
	} else if err != nil {
		s.unavailable(w, r, "asking the store database for a file", err)
		return
	}
	f, _, err := openRegular(p.String())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		web.NotFound(w, r, 0)
	case err != nil:
		s.unavailable(w, r, "opening a file", err)
	default:
		defer f.Close()
		w.Header().Set("Content-Type", binary)
		w.Header().Set("ETag", strconv.Quote(text))
		serveContent(w, r, f)
	}
}

// log answers /log/NAME with the build log of an item or a derivation, as it
// lies there: compressed in most cases.
func (s *Server) log(w http.ResponseWriter, r *http.Request, name string) {
	p, err := storepath.ParseBase(s.store.StoreDir(), name)
	if err != nil {
		web.NotFound(w, r, 0)
		return
	}
	if !strings.HasSuffix(name, ".drv") {
		info, err := s.store.Info(r.Context(), p)
		if err != nil && !errors.Is(err, storedb.ErrNotFound) {
			s.unavailable(w, r, "asking the store database for a deriver", err)
			return
		}
		if p, err = storepath.ParseBase(p.Dir, path.Base(info.Deriver)); err != nil {
			web.NotFound(w, r, 0)
			return
		}
	}
	base := p.Base()
	file := filepath.Join(s.opt.LogDir, "drvs", base[:2], base[2:])
	for _, form := range []logForm{
		{".gz", "text/plain;charset=UTF-8", "gzip"},
		s.bzip2Form(r),
		{"", "text/plain;charset=UTF-8", ""},
	} {
		f, fi, err := openRegular(file + form.suffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			s.unavailable(w, r, "opening a log", err)
			return
		}
		defer f.Close()
		h := w.Header()
		h.Set("Content-Type", form.contentType)
		h.Set("ETag", etag(fi))
		h.Set("Vary", "Accept-Encoding")
		if form.encoding != "" {
			h.Set("Content-Encoding", form.encoding)
			// http.ServeContent leaves it out beside an encoding.
			h.Set("Content-Length", strconv.FormatInt(fi.Size(), 10))
		}
		// The log of a running build grows.
		serveContent(w, r, io.NewSectionReader(f, 0, fi.Size()))
		return
	}
	web.NotFound(w, r, 0)
}

// logForm is a way in which a log can lie there and be sent.
type logForm struct{ suffix, contentType, encoding string }

// bzip2Form returns how a log is sent that is compressed by bzip2, as Nix does:
// as an encoding to Nix, whose newer releases say that they know it and whose
// older ones leave the header out; else, as Guix sends it, as what it is.
func (s *Server) bzip2Form(r *http.Request) logForm {
	accepted, told := r.Header["Accept-Encoding"]
	encoded := !told && s.signer.Nix != nil
	for coding := range strings.SplitSeq(strings.Join(accepted, ","), ",") {
		encoded = encoded || strings.TrimSpace(coding) == "bzip2"
	}
	if encoded {
		return logForm{".bz2", "text/plain;charset=UTF-8", "bzip2"}
	}
	return logForm{".bz2", "application/x-bzip2;charset=ISO-8859-1", ""}
}

// openRegular opens a regular file that others may read. For all else, links
// too, the error matches fs.ErrNotExist.
func openRegular(name string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO) || errors.Is(err, fs.ErrPermission) {
		return nil, nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, fi, nil
}

// etag names the content of a file that is replaced as a whole whenever it
// changes.
func etag(fi stamped) string { return string(appendETag(nil, fi)) }

// stamped is what is known of a file: an fs.FileInfo, or a *web.File.
type stamped interface {
	Size() int64
	ModTime() time.Time
}

func appendETag(b []byte, fi stamped) []byte {
	b = strconv.AppendInt(append(b, '"'), fi.Size(), 16)
	b = strconv.AppendInt(append(b, '-'), fi.ModTime().UnixNano(), 16)
	return append(b, '"')
}
