package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// names are the settings that a file can have.
func names() []string { return []string{"acl", "ipfs", "log", "node", "state", "stores", "votes"} }

// Settings are the "name = value" lines of a file.
type Settings map[string]string

// Parse reads a file: lines of the form "name = value", empty lines, and lines
// that start with "#". White space around names and values does not count. An
// unknown name, one that stands twice and one without a value are errors; all
// of them are reported, with their lines, and match ErrInvalid.
func Parse(text []byte) (Settings, error) {
	s := Settings{}
	var errs []error
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		wrong := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("line %d: %s: %w", number, fmt.Sprintf(format, args...), ErrInvalid))
		}
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, found := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch {
		case !found:
			wrong("%.80q is not of the form name = value", line)
		case !slices.Contains(names(), name):
			wrong("unknown name %.80q: the names are %s", name, strings.Join(names(), ", "))
		case value == "":
			wrong("%s has no value", name)
		case s[name] != "":
			wrong("%s stands twice", name)
		case !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }):
			wrong("%s has a value with control characters", name)
		default:
			s[name] = value
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return s, nil
}

// String prints the settings as Parse reads them.
func (s Settings) String() string {
	var b strings.Builder
	for _, name := range names() {
		if value := s[name]; value != "" {
			fmt.Fprintf(&b, "%s = %s\n", name, value)
		}
	}
	return b.String()
}
