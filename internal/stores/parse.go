package stores

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// hint returns as much of a text that is no store URL as can be repeated: a path
// or a query may hold secrets.
func hint(s string) string {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return fmt.Sprintf("%.40q", s)
	}
	if host, found := strings.CutPrefix(rest, "//"); found {
		host, more, cut := cutAny(host, "/?#")
		if at := strings.LastIndexByte(host, '@'); at >= 0 {
			host = host[at+1:]
		}
		scheme, rest = scheme+"://"+host, more
		if !cut {
			return fmt.Sprintf("%.80q", scheme)
		}
	} else {
		scheme += ":"
	}
	if rest == "" {
		return fmt.Sprintf("%.80q", scheme)
	}
	return fmt.Sprintf("%.80q", scheme+"…")
}

func cutAny(s, chars string) (before, after string, found bool) {
	if i := strings.IndexAny(s, chars); i >= 0 {
		return s[:i], s[i:], true
	}
	return s, "", false
}

func parse(s string) (URL, error) {
	switch {
	case len(s) > maxURL:
		return URL{}, fmt.Errorf("more than %d bytes", maxURL)
	case strings.ContainsFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) || r == ' ' }):
		return URL{}, errors.New("has white space, or characters that do not print")
	}
	if strings.HasPrefix(s, "magnet:") {
		return parseMagnet(s)
	}
	text, _, ok := strings.Cut(s, ":")
	if !ok {
		return URL{}, fmt.Errorf("has no scheme, such as file:///%s", strings.TrimLeft(s[:min(len(s), 40)], "./"))
	}
	sch, ok := schemeOf(strings.ToLower(text))
	if !ok {
		return URL{}, fmt.Errorf("%w %s", errScheme, strings.Join(Schemes(), ", "))
	}
	u := URL{scheme: strings.ToLower(text)}
	p, err := url.Parse(s)
	switch {
	case err != nil:
		return URL{}, errors.New("is not well-formed") // url.Error repeats all of it
	case p.Fragment != "" || strings.HasSuffix(s, "#"):
		return URL{}, errors.New("has a fragment, #…")
	case p.User != nil && !sch.user:
		return URL{}, errors.New("has a user, which its scheme knows nothing of")
	case p.Opaque != "":
		return URL{}, fmt.Errorf("is not of the form %s", sch.form)
	}
	if p.User != nil {
		u.user = p.User.String()
	}
	if u.path = p.Path; !utf8.ValidString(u.path) || strings.ContainsFunc(u.path, unicode.IsControl) {
		return URL{}, errors.New("has a path with characters that do not print")
	}
	if u.host, err = hostOf(p, sch); err != nil {
		return URL{}, err
	}
	if err := u.parseQuery(p.RawQuery, sch); err != nil {
		return URL{}, err
	}
	if sch.check == nil {
		return u, nil
	}
	return u, sch.check(&u)
}

// hostOf returns the host of a URL with its port, in one spelling: an address,
// or a name, which may hold letters, digits, dots, hyphens and underscores.
func hostOf(p *url.URL, sch scheme) (string, error) {
	if !sch.host {
		if p.Host != "" && (sch.name != schemeFile || !strings.EqualFold(p.Host, "localhost")) {
			return "", fmt.Errorf("has a host, unlike %s", sch.form)
		}
		return "", nil
	}
	host, port := p.Hostname(), p.Port()
	if n, err := strconv.ParseUint(port, 10, 16); port != "" && (err != nil || port != strconv.FormatUint(n, 10)) {
		return "", fmt.Errorf("port %.10q is not one", port)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		host = a.String()
	} else {
		host = strings.ToLower(host)
		odd := func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_')
		}
		if host == "" || len(host) > 255 || strings.ContainsFunc(host, odd) {
			return "", fmt.Errorf("is not of the form %s", sch.form)
		}
	}
	if port != "" {
		return net.JoinHostPort(host, port), nil
	}
	if strings.Contains(host, ":") {
		return "[" + host + "]", nil
	}
	return host, nil
}

// parseQuery reads get, put and the parameters of the scheme.
func (u *URL) parseQuery(query string, sch scheme) error {
	for part := range strings.SplitSeq(query, "&") {
		name, value, valued := strings.Cut(part, "=")
		if part == "" {
			continue
		}
		if !valued {
			switch {
			case name == "get" && !u.get:
				u.get = true
			case name == "put" && !u.put:
				u.put = true
			default:
				return fmt.Errorf("query has %.20q, which is none of get, put and NAME=VALUE, or stands twice", name)
			}
			u.said = true
			continue
		}
		name, err := url.QueryUnescape(name)
		if err != nil {
			return errors.New("query is not well-formed")
		}
		if value, err = url.QueryUnescape(value); err != nil || value == "" || strings.ContainsFunc(value, unicode.IsControl) {
			return fmt.Errorf("query has no good value for %.20q", name)
		}
		kind, ok := sch.params[name]
		switch {
		case !ok && len(sch.params) == 0:
			return fmt.Errorf("query has %.20q; %s: knows get and put alone", name, u.scheme)
		case !ok:
			return fmt.Errorf("query has %.20q; %s: knows get, put, %s", name, u.scheme, strings.Join(sch.names(), ", "))
		case !kind.many && u.param(name) != "":
			return fmt.Errorf("query has %s twice", name)
		}
		if kind.check != nil {
			if err := kind.check(value); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if p := (param{name, value}); !slices.Contains(u.params, p) {
			u.params = append(u.params, p)
		}
	}
	if !u.said {
		u.get = true
	}
	return nil
}
