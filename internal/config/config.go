// Package config reads the settings of ersatz-substitute and `ersatz doctor`
// from the environment and a file, as docs/substitute.md ("Settings") has it:
// guix-daemon passes no flags.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// The places where settings and defaults are.
const (
	DefaultFile  = "/etc/ersatz/config"
	DefaultACL   = "/etc/guix/acl"
	DefaultState = "/var/lib/ersatz"
	DefaultNode  = "/run/ersatz/node.sock"
)

// noNode is the setting that no node is asked.
const noNode = "none"

// maxFile bounds the file, in bytes.
const maxFile = 64 << 10

// ErrInvalid means that a setting, or the file's syntax, is wrong.
var ErrInvalid = errors.New("invalid configuration")

// Config holds the settings, each with its value or default.
type Config struct {
	// ACL is the file of the keys that are accepted.
	ACL string
	// Votes is the file of a policy of votes, "" if one key is enough.
	Votes string
	// States are the folders that can hold the state: the first that can be
	// written is used, and none has to be.
	States []string
	// IPFS is the address of a Kubo RPC, "" if none is used.
	IPFS string
	// Node is the Unix socket of the node that is asked first, "" if none is.
	Node string
	// Stores are store URLs with white space between them, for ersatz encode and
	// decode, as they stand in the file.
	Stores string
	// Log is the least level that is logged.
	Log slog.Level
	// File is the file that was read, "" if there is none.
	File string
}

// Load reads the environment, and the file that ERSATZ_CONFIG names, else
// DefaultFile, which may be missing. The error names every wrong setting and
// matches ErrInvalid, unless the file cannot be read.
func Load(getenv func(string) string) (Config, error) {
	name := getenv("ERSATZ_CONFIG")
	named := name != ""
	if !named {
		name = DefaultFile
	}
	text, err := readFile(name)
	if errors.Is(err, fs.ErrNotExist) && !named {
		text, name, err = nil, "", nil
	}
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	settings, err := Parse(text)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	c, err := resolve(settings, getenv)
	if err != nil {
		return Config{}, err
	}
	c.File = name
	return c, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes: %w", name, maxFile, ErrInvalid)
	}
	return text, err
}

// resolve looks each setting up: environment, file, default.
func resolve(s Settings, getenv func(string) string) (Config, error) {
	var errs []error
	get := func(name string, check func(string) error) string {
		origin, value := "ERSATZ_"+strings.ToUpper(name), getenv("ERSATZ_"+strings.ToUpper(name))
		if value == "" {
			origin, value = name, s[name]
		}
		if value == "" {
			return ""
		}
		if err := check(value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w: %w", origin, err, ErrInvalid))
		}
		return value
	}
	c := Config{Log: slog.LevelWarn, Stores: s["stores"]}
	if c.ACL = get("acl", absolute); c.ACL == "" {
		c.ACL = DefaultACL
	}
	c.Votes = get("votes", absolute)
	if state := get("state", absolute); state != "" {
		c.States = []string{state}
	} else {
		c.States = defaultStates(getenv)
	}
	c.IPFS = get("ipfs", httpURL)
	if c.Node = get("node", absoluteOrNone); c.Node == "" {
		c.Node = DefaultNode
	} else if c.Node == noNode {
		c.Node = ""
	}
	get("log", func(v string) error {
		if v != strings.ToLower(v) || c.Log.UnmarshalText([]byte(v)) != nil || strings.ContainsAny(v, "+-") {
			return fmt.Errorf("%q is none of debug, info, warn and error", v)
		}
		return nil
	})
	return c, errors.Join(errs...)
}

// defaultStates returns the system's folder and the user's (XDG Base Directory
// Specification, "Environment variables").
func defaultStates(getenv func(string) string) []string {
	states := []string{DefaultState}
	if dir := getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return append(states, filepath.Join(dir, "ersatz"))
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		states = append(states, filepath.Join(home, ".local/state/ersatz"))
	}
	return states
}

func absolute(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is no absolute path", path)
	}
	return nil
}

func absoluteOrNone(path string) error {
	if path == noNode {
		return nil
	}
	return absolute(path)
}

func httpURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q is no http URL", s)
	}
	return nil
}
