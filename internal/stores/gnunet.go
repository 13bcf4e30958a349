package stores

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"ersatz/internal/block"
	"ersatz/internal/fetch"
	"ersatz/internal/share"
	"ersatz/internal/transport/gnunet"
)

func gnunetSchemes() []scheme {
	return []scheme{{
		name: schemeGNUnet, form: "gnunet:[/SOCKET][?expiry=TIME&replication=N]",
		params: map[string]paramRule{"expiry": {check: expiry}, "replication": {check: number}},
		check:  checkGNUnet,
		public: true, one: true,
		uses: useFrom | useTo | useServe,
		open: openGNUnet,
	}}
}

// checkGNUnet fills in the path.
func checkGNUnet(u *URL) error {
	if u.path == "" {
		u.path = gnunet.DefaultSocket
	}
	if !filepath.IsAbs(u.path) {
		return errors.New("has no absolute path of a socket")
	}
	u.path = filepath.Clean(u.path)
	return nil
}

func expiry(s string) error {
	if d, err := time.ParseDuration(s); err != nil || d < time.Minute {
		return fmt.Errorf("%.20q is no time, such as 48h, of a minute at least", s)
	}
	return nil
}

func number(s string) error {
	if n, err := strconv.ParseUint(s, 10, 16); err != nil || strconv.FormatUint(n, 10) != s {
		return fmt.Errorf("%.20q is no number", s)
	}
	return nil
}

func openGNUnet(_ context.Context, s *Set, u URL, uses use) error {
	o := gnunet.Options{Socket: u.path, Limit: s.o.Limiter}
	o.Expiry, _ = time.ParseDuration(u.param("expiry")) // checked
	o.Replication, _ = strconv.Atoi(u.param("replication"))
	c, err := gnunet.New(o)
	if err != nil {
		return invalid("%v", err)
	}
	s.onClose(c.Close)
	if uses.has(useFrom) {
		s.source(u, block.Everything(c), fetch.Network{Start: 5 * time.Second, Batch: 256, Parallel: 2})
	}
	if uses.has(useTo) {
		s.putter(u, c)
	}
	if uses.has(useServe) {
		s.sink(u, share.Sink{Net: share.Plain(c), Renew: c.Renew(), Keeps: true})
	}
	return nil
}
