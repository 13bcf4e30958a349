package substitute

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode"

	"ersatz/internal/upstream"
	"ersatz/nixbase32"
	"ersatz/storepath"
)

// Limits of a request.
const (
	maxLine  = 16 << 20 // bytes
	maxPaths = 1 << 17
)

// ErrProtocol means that a request is malformed: the two sides do not
// understand each other, and there is no way to go on.
var ErrProtocol = errors.New("malformed request")

// request is one line of the daemon.
type request struct {
	verb  string   // have, info or substitute
	paths []string // of have and info; for substitute the path, then DEST
}

// parseRequest reads a line without its newline.
func parseRequest(line string) (request, error) {
	if strings.ContainsAny(line, "\x00\r\n") {
		return request{}, fmt.Errorf("%w: control character", ErrProtocol)
	}
	words := strings.Fields(line)
	if len(words) == 0 {
		return request{}, fmt.Errorf("%w: empty line", ErrProtocol)
	}
	r := request{words[0], words[1:]}
	switch {
	case r.verb == "substitute" && len(r.paths) != 2:
		return request{}, fmt.Errorf("%w: substitute with %d arguments", ErrProtocol, len(r.paths))
	case r.verb == "substitute" && (!path.IsAbs(r.paths[1]) || path.Clean(r.paths[1]) != r.paths[1] || r.paths[1] == "/"):
		return request{}, fmt.Errorf("%w: destination %.300q", ErrProtocol, r.paths[1])
	case (r.verb == "have" || r.verb == "info") && len(r.paths) > maxPaths:
		return request{}, fmt.Errorf("%w: %s of %d paths", ErrProtocol, r.verb, len(r.paths))
	case r.verb != "substitute" && r.verb != "have" && r.verb != "info":
		return request{}, fmt.Errorf("%w: %.80q", ErrProtocol, r.verb)
	}
	return r, nil
}

// serve reads requests until the input ends and hands each to answer, which
// returns the reply and, unless it is nil, what is to be done after that.
func serve(ctx context.Context, in io.Reader, replies io.Writer, answer func(context.Context, request) (string, func(), error)) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	lines.Split(wholeLines)
	for lines.Scan() {
		r, err := parseRequest(lines.Text())
		if err != nil {
			return err
		}
		reply, after, err := answer(ctx, r)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(replies, reply); err != nil {
			return fmt.Errorf("reply: %w", err)
		}
		if after != nil {
			after()
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("%w: line of more than %d bytes", ErrProtocol, maxLine)
	} else if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	return ctx.Err()
}

// wholeLines splits at newlines. A last line without one was cut off, and half
// a name is not to be acted upon.
func wholeLines(data []byte, atEOF bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return 0, nil, fmt.Errorf("%w: cut off", ErrProtocol)
	}
	return 0, nil, nil
}

// Query answers "have" and "info" requests until the input ends. The error
// matches ErrProtocol for a malformed one; else it is that of a pipe, or
// ctx's. Nothing that a server does is an error.
func (s *Substituter) Query(ctx context.Context, requests io.Reader, replies io.Writer) error {
	return serve(ctx, requests, replies, func(ctx context.Context, r request) (string, func(), error) {
		if r.verb == "substitute" {
			return "", nil, fmt.Errorf("%w: substitute among queries", ErrProtocol)
		}
		choices := s.find(ctx, s.parsePaths(r.paths))
		s.tellTooFew(choices)
		if r.verb == "info" {
			return describeAll(choices, true), func() { s.prepare(choices) }, nil
		}
		return describeAll(choices, false), nil, nil
	})
}

// prepare gets ready for what follows from a query: that items are asked for, and
// what they refer to.
func (s *Substituter) prepare(choices []upstream.Choice) {
	r, _ := s.rules() // without which nothing was found
	s.crawler.follow(r, choices)
	s.ahead.tell(choices)
}

// describeAll returns the reply to "have" or, with info, to "info".
func describeAll(choices []upstream.Choice, info bool) string {
	var b strings.Builder
	for _, c := range choices {
		if len(c.Builds) == 0 {
			continue
		}
		p, signed := c.Path, c.Builds[0].Signed
		fmt.Fprintf(&b, "%s\n", p)
		if !info {
			continue
		}
		// The daemon gives up all of the query at one that is no store path.
		if _, err := storepath.ParseBase(p.Dir, signed.Deriver); err == nil {
			fmt.Fprintf(&b, "%s/%s", p.Dir, signed.Deriver)
		}
		fmt.Fprintf(&b, "\n%d\n", len(signed.References))
		for _, ref := range signed.References {
			fmt.Fprintf(&b, "%s/%s\n", p.Dir, ref)
		}
		fmt.Fprintf(&b, "%d\n%d\n", c.Builds[0].DownloadSize(), signed.NarSize)
	}
	b.WriteByte('\n')
	return b.String()
}

// parsePaths leaves out what is no store path: nobody has it.
func (s *Substituter) parsePaths(names []string) []storepath.Path {
	paths := make([]storepath.Path, 0, len(names))
	seen := make(map[storepath.Path]bool, len(names))
	for _, name := range names {
		p, err := storepath.Parse(name)
		if err != nil {
			s.log.Warn("asked for what is no store path", "error", err)
			continue
		}
		if !seen[p] {
			seen[p] = true
			paths = append(paths, p)
		}
	}
	return paths
}

// Substitute answers "substitute" requests until the input ends. Its errors
// are those of Query.
func (s *Substituter) Substitute(ctx context.Context, requests io.Reader, replies io.Writer) error {
	return serve(ctx, requests, replies, func(ctx context.Context, r request) (string, func(), error) {
		if r.verb != "substitute" {
			return "", nil, fmt.Errorf("%w: %s among substitutions", ErrProtocol, r.verb)
		}
		return s.substitute(ctx, r.paths[0], r.paths[1]), nil, ctx.Err()
	})
}

// substitute installs an item and returns the reply.
func (s *Substituter) substitute(ctx context.Context, name, dest string) string {
	p, err := storepath.Parse(name)
	if err != nil {
		s.tell("%s: %v\n", name, err)
		return "not-found\n"
	}
	info, err := s.install(ctx, p, dest)
	if err == nil {
		return fmt.Sprintf("success sha256:%s %d\n", nixbase32.Encode(info.Hash[:]), info.Size)
	}
	s.tell("%s\n", describe(p, err))
	var mismatch *hashError
	if errors.As(err, &mismatch) {
		return fmt.Sprintf("hash-mismatch sha256 %s %s\n", nixbase32.Encode(mismatch.want[:]), nixbase32.Encode(mismatch.got[:]))
	}
	return "not-found\n"
}

// describe says in lines of their own why an item could not be had.
func describe(p storepath.Path, err error) string {
	return fmt.Sprintf("no substitute for %s:\n  %s", p, strings.ReplaceAll(err.Error(), "\n", "\n  "))
}

// tell writes to people. Servers have a say in some messages, but none in what
// else a terminal does.
func (s *Substituter) tell(format string, args ...any) {
	io.WriteString(s.messages, strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' {
			return unicode.ReplacementChar
		}
		return r
	}, fmt.Sprintf(format, args...)))
}
