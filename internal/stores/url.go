package stores

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
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

// name is what logs, figures and states call what u opens. A network of which
// there is one keeps its name when a parameter changes.
func (u URL) name() string {
	if sch, _ := schemeOf(u.scheme); sch.one {
		return u.scheme
	}
	return u.String()
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
