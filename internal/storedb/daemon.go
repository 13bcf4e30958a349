package storedb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"ersatz/internal/wire"
)

// The worker protocol of guix-daemon (Guix 1.5.0, guix/store.scm and
// nix/libstore/worker-protocol.hh) and of nix-daemon (Nix 2.8,
// libstore/worker-protocol.hh), as far as two questions need it.
const (
	magicClient = 0x6e697863
	magicDaemon = 0x6478696f

	// Versions: major and minor, a byte each. Guix has gone on from 1.17 to
	// 1.99 on its own. To Nix, of which 2.8 has 1.34, this client is one of
	// 1.18: the oldest that newer daemons know, whose errors are still texts.
	guixVersion = 0x163
	nixVersion  = 0x112

	opQueryPathInfo         = 26
	opQueryPathFromHashPart = 29

	stderrNext  = 0x6f6c6d67
	stderrLast  = 0x616c7473
	stderrError = 0x63787470

	maxText  = 64 << 10 // bytes of a message of the daemon
	maxPath  = 1 << 10  // bytes of a path, or a hash
	maxRefs  = 1 << 16  // references of an item
	deadline = 30 * time.Second
)

// socketDB asks the daemon, one question at a time over one connection, which
// is made anew after an error.
type socketDB struct {
	path string

	mu   sync.Mutex
	conn net.Conn // nil: none
	nix  bool     // the daemon is Nix's
	r    *wire.Reader
	w    *wire.Writer
	buf  *bufio.Writer
}

func openSocket(path string) (*socketDB, error) {
	s := &socketDB{path: path}
	if err := s.dial(); err != nil {
		return nil, fmt.Errorf("daemon socket %s: %w", path, err)
	}
	return s, nil
}

func (s *socketDB) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drop()
}

func (s *socketDB) drop() error {
	if s.conn == nil {
		return nil
	}
	err := s.conn.Close()
	s.conn = nil
	return err
}

func (s *socketDB) dial() error {
	conn, err := net.DialTimeout("unix", s.path, deadline)
	if err != nil {
		return err
	}
	s.conn, s.buf = conn, bufio.NewWriter(conn)
	s.r, s.w = wire.NewReader(bufio.NewReader(conn)), wire.NewWriter(s.buf)
	if err := s.handshake(); err != nil {
		return errors.Join(err, s.drop())
	}
	return nil
}

func (s *socketDB) handshake() error {
	if err := s.conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		return err
	}
	if err := s.send(magicClient); err != nil {
		return err
	}
	magic, err := s.r.Uint64()
	if err != nil {
		return err
	}
	version, err := s.r.Uint64()
	if err != nil {
		return err
	}
	if magic != magicDaemon || version>>8 != guixVersion>>8 || version < nixVersion {
		return fmt.Errorf("neither guix-daemon nor nix-daemon: magic %#x, protocol %#x", magic, version)
	}
	ours := uint64(guixVersion)
	if s.nix = version < guixVersion; s.nix {
		ours = nixVersion
	}
	// No CPU affinity, no space to reserve.
	if err := s.send(ours, 0, 0); err != nil {
		return err
	}
	return s.drain()
}

// send writes numbers and flushes.
func (s *socketDB) send(numbers ...uint64) error {
	for _, n := range numbers {
		if err := s.w.Uint64(n); err != nil {
			return err
		}
	}
	return s.buf.Flush()
}

// daemonError is what the daemon says instead of an answer; the connection
// goes on.
type daemonError struct{ msg string }

func (e *daemonError) Error() string { return "daemon: " + e.msg }

// drain reads what the daemon would print, up to its answer.
func (s *socketDB) drain() error {
	for {
		tag, err := s.r.Uint64()
		if err != nil {
			return err
		}
		switch tag {
		case stderrLast:
			return nil
		case stderrNext:
			if _, err := s.r.String(maxText); err != nil {
				return err
			}
		case stderrError:
			msg, err := s.r.String(maxText)
			if err != nil {
				return err
			}
			if _, err := s.r.Uint64(); err != nil {
				return err
			}
			return &daemonError{msg}
		default:
			return fmt.Errorf("daemon sent tag %#x", tag)
		}
	}
}

// ask sends one question and hands the answer to read. A connection that was
// kept may have died with the daemon at its other end: that is worth a second
// one.
func (s *socketDB) ask(ctx context.Context, op uint64, arg string, read func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.conn != nil
	err := s.askOnce(ctx, op, arg, read)
	if err != nil && kept && s.conn == nil && ctx.Err() == nil {
		err = s.askOnce(ctx, op, arg, read)
	}
	return err
}

// askOnce leaves no connection after an error but one that the daemon has
// answered with.
func (s *socketDB) askOnce(ctx context.Context, op uint64, arg string, read func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.conn == nil {
		if err := s.dial(); err != nil {
			return fmt.Errorf("daemon socket %s: %w", s.path, err)
		}
	}
	err := s.conn.SetDeadline(time.Now().Add(deadline))
	conn := s.conn
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err == nil {
		err = s.w.Uint64(op)
	}
	if err == nil {
		err = s.w.String(arg)
	}
	if err == nil {
		err = s.buf.Flush()
	}
	if err == nil {
		err = s.drain()
	}
	var refused *daemonError
	if errors.As(err, &refused) {
		if strings.Contains(refused.msg, "not valid") {
			return ErrNotFound
		}
		return err
	}
	if err == nil {
		err = read()
	}
	if err != nil {
		// What the end of the context looks like from here is a timeout.
		return errors.Join(fmt.Errorf("daemon socket %s: %w", s.path, err), ctx.Err(), s.drop())
	}
	return nil
}

func (s *socketDB) byHash(ctx context.Context, hash string) (path string, err error) {
	err = s.ask(ctx, opQueryPathFromHashPart, hash, func() (err error) {
		path, err = s.r.String(maxPath)
		return err
	})
	if err == nil && path == "" {
		err = ErrNotFound
	}
	return path, err
}

func (s *socketDB) lookup(ctx context.Context, hash string) (path string, r record, err error) {
	if path, err = s.byHash(ctx, hash); err == nil {
		r, err = s.info(ctx, path)
	}
	return path, r, err
}

func (s *socketDB) info(ctx context.Context, path string) (r record, err error) {
	found := true
	err = s.ask(ctx, opQueryPathInfo, path, func() (err error) {
		r = record{} // of a first try
		if s.nix {
			valid, err := s.r.Uint64()
			if err != nil {
				return err
			}
			if found = valid != 0; !found {
				return nil
			}
		}
		if r.deriver, err = s.r.String(maxPath); err != nil {
			return err
		}
		if r.hash, err = s.r.String(maxPath); err != nil {
			return err
		}
		if r.references, err = s.strings(); err != nil {
			return err
		}
		registered, err := s.r.Uint64()
		if err != nil {
			return err
		}
		size, err := s.r.Uint64()
		r.registered, r.narSize = int64(registered), int64(size)
		if err != nil || !s.nix {
			return err
		}
		// Built here, signatures, content address: not wanted, but read.
		if _, err := s.r.Uint64(); err != nil {
			return err
		}
		if _, err := s.strings(); err != nil {
			return err
		}
		_, err = s.r.String(maxPath)
		return err
	})
	if err == nil && !found {
		err = ErrNotFound
	}
	slices.Sort(r.references)
	return r, err
}

// strings reads a list of paths, or of signatures.
func (s *socketDB) strings() (list []string, err error) {
	n, err := s.r.Uint64()
	if err != nil {
		return nil, err
	}
	if n > maxRefs {
		return nil, fmt.Errorf("%d texts, limit %d", n, maxRefs)
	}
	for range n {
		text, err := s.r.String(maxPath)
		if err != nil {
			return nil, err
		}
		list = append(list, text)
	}
	return list, nil
}
