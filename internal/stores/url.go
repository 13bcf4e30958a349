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

// maxURL bounds a store URL, and maxList a list of them, in bytes; maxURLs how
// many a list has.
const (
	maxURL  = 8 << 10
	maxList = 64 << 10
	maxURLs = 64
)

// ErrInvalid means that a store URL, or the use that is to be made of it, is
// wrong: the command line or a setting is to be mended.
var ErrInvalid = errors.New("invalid store URL")

// invalidError is one that matches ErrInvalid.
type invalidError struct {
	msg   string
	cause error // may be nil
}

func (e *invalidError) Error() string { return e.msg }

func (e *invalidError) Unwrap() error { return e.cause }

// Is reports whether target is ErrInvalid.
func (e *invalidError) Is(target error) bool { return target == ErrInvalid }

func invalid(format string, args ...any) error {
	return &invalidError{msg: fmt.Sprintf(format, args...)}
}

// errScheme means that a scheme is not one of ours.
var errScheme = errors.New("scheme is none of")

// URL is a store URL: docs/stores.md has what each scheme's may say. The zero
// URL is none.
type URL struct {
	scheme string
	user   string // name, or name:password, percent-encoded
	host   string // with the port, if it has one
	path   string // decoded
	params []param

	// What the query grants. If it names neither, said is false.
	get, put, said bool
}

// param is name=value of a query, decoded.
type param struct{ name, value string }

// Parse reads a store URL, without asking anybody. The error matches ErrInvalid;
// it repeats no secret.
func Parse(s string) (URL, error) {
	u, err := parse(s)
	if err != nil {
		return URL{}, &invalidError{fmt.Sprintf("store URL %s: %v", hint(s), err), err}
	}
	return u, nil
}

// ParseList reads store URLs with white space between them, as ERIS_STORE_URL
// has them. Those of schemes that are not known here, which other programs may
// know, come back as others, without secrets. The error matches ErrInvalid and
// names all that are wrong.
func ParseList(s string) (urls []URL, others []string, err error) {
	if len(s) > maxList {
		return nil, nil, invalid("store URLs of more than %d bytes", maxList)
	}
	fields := strings.Fields(s)
	if len(fields) > maxURLs {
		return nil, nil, invalid("more than %d store URLs", maxURLs)
	}
	var errs []error
	for _, f := range fields {
		switch u, err := Parse(f); {
		case errors.Is(err, errScheme):
			others = append(others, hint(f))
		case err != nil:
			errs = append(errs, err)
		default:
			urls = append(urls, u)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	return urls, others, nil
}

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

// param returns the value of a parameter, "" if it has none.
func (u URL) param(name string) string {
	for _, p := range u.params {
		if p.name == name {
			return p.value
		}
	}
	return ""
}

// Params returns the values of a parameter, such as "tr". None of those that a
// scheme knows is a secret.
func (u URL) Params(name string) (values []string) {
	for _, p := range u.params {
		if p.name == name {
			values = append(values, p.value)
		}
	}
	return values
}

// Scheme returns the scheme, such as "coap+tcp": what a fetch.Network's Kind is.
func (u URL) Scheme() string { return u.scheme }

// Gets and Puts report what the query grants; without get and put in it, that is
// get.
func (u URL) Gets() bool { return u.get }

// Puts is beside Gets.
func (u URL) Puts() bool { return u.put }

// Servers returns the bases of those URLs that are servers by HTTP, as
// block.Wanted has them.
func Servers(urls []URL) (bases []string) {
	for _, u := range urls {
		if u.scheme == schemeHTTP || u.scheme == schemeHTTPS {
			bases = append(bases, u.base())
		}
	}
	return bases
}

// Full returns the URL in the one spelling that all of its have, which Parse
// reads, with the secrets that it may hold.
func (u URL) Full() string { return u.text(u.user, escapePath(u.path)) }

// String returns the URL for logs and errors: instead of what may be a secret, a
// user or the path of a CoAP store, there is an ellipsis.
func (u URL) String() string {
	user, path := u.user, escapePath(u.path)
	if user != "" {
		user = "…"
	}
	if sch, _ := schemeOf(u.scheme); sch.secret != nil && sch.secret(u.path) {
		path = "/…"
	}
	return u.text(user, path)
}

func (u URL) text(user, path string) string {
	var b strings.Builder
	b.WriteString(u.scheme + ":")
	if u.host != "" || u.scheme == schemeFile {
		b.WriteString("//")
	}
	if user != "" {
		b.WriteString(user + "@")
	}
	b.WriteString(strings.ReplaceAll(u.host, "%", "%25") + path) // a zone: RFC 6874
	var query []string
	if u.said && u.get {
		query = append(query, "get")
	}
	if u.said && u.put {
		query = append(query, "put")
	}
	for _, p := range u.params {
		query = append(query, p.name+"="+escape(p.value))
	}
	if len(query) > 0 {
		b.WriteString("?" + strings.Join(query, "&"))
	}
	return b.String()
}

func escapePath(path string) string { return (&url.URL{Path: path}).EscapedPath() }

// escape writes a value as a query can hold it, and leaves what people can read
// then, such as the slashes of addresses.
func escape(s string) string {
	return strings.NewReplacer("%2F", "/", "%3A", ":", "%2C", ",").Replace(url.QueryEscape(s))
}
