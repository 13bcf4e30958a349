package doctor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ersatz/nixsig"
)

const (
	nixConf     = "/etc/nix/nix.conf"
	maxNixConf  = 1 << 20 // bytes of one file
	maxIncludes = 64      // files in all
)

// nixSettings are those of a nix.conf that say where substitutes come from, with
// Nix's own values where it does not name them.
type nixSettings struct {
	substituters, keys []string
	unsigned           bool // require-sigs is false
}

func defaultNixSettings() nixSettings {
	return nixSettings{
		substituters: []string{"https://cache.nixos.org/"},
		keys:         []string{"cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="},
	}
}

// trusted returns the keys of trusted-public-keys.
func (s nixSettings) trusted() ([]nixsig.PublicKey, error) {
	var keys []nixsig.PublicKey
	for _, text := range s.keys {
		key, err := nixsig.ParsePublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("trusted-public-keys: %w", err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// parse applies the lines of a nix.conf (Nix manual, "nix.conf", "Configuration
// file"). It has files that are included read by include; a file that need not
// be there is optional.
func (s *nixSettings) parse(text string, include func(name string, optional bool) error) error {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case len(f) == 2 && (f[0] == "include" || f[0] == "!include"):
			if err := include(f[1], f[0] == "!include"); err != nil {
				return err
			}
		case len(f) < 2 || f[1] != "=":
			return fmt.Errorf("%q is not NAME = VALUE", strings.TrimSpace(line))
		default:
			s.set(f[0], f[2:])
		}
	}
	return nil
}

// set applies one setting. Those with another name before Nix 2.0 have it still.
func (s *nixSettings) set(name string, values []string) {
	name, more := strings.CutPrefix(name, "extra-")
	var list *[]string
	switch name {
	case "substituters", "binary-caches":
		list = &s.substituters
	case "trusted-public-keys", "binary-cache-public-keys":
		list = &s.keys
	case "require-sigs":
		s.unsigned = len(values) == 1 && slices.Contains([]string{"false", "no", "0"}, values[0])
		return
	default:
		return
	}
	if !more {
		*list = nil
	}
	*list = append(*list, values...)
}

// readNixConf returns what the machine's nix.conf says; Nix's own values if
// there is none.
func (e *examination) readNixConf() (nixSettings, error) {
	s := defaultNixSettings()
	files := 0
	var include func(name string, optional bool) error
	include = func(name string, optional bool) error {
		if files++; files > maxIncludes {
			return fmt.Errorf("%s: more than %d files, or one that includes itself", name, maxIncludes)
		}
		text, err := readNixConf(e.path(name))
		if optional && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return s.parse(text, func(included string, optional bool) error {
			if !filepath.IsAbs(included) {
				included = filepath.Join(filepath.Dir(name), included)
			}
			return include(included, optional)
		})
	}
	return s, include(nixConf, true)
}

// readNixConf reads one file.
func readNixConf(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxNixConf+1))
	if err == nil && len(text) > maxNixConf {
		err = fmt.Errorf("%s has more than %d bytes", name, maxNixConf)
	}
	return string(text), err
}
