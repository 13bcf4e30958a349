package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"ersatz/internal/transport/ipfs"
)

// maxSkew is by how much a clock may differ from a server's.
const maxSkew = 5 * time.Minute

// oldest is before any machine that runs this: a clock that shows less was
// never set.
var oldest = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// defaultServers are those of guix-daemon 1.5.0.
func defaultServers() []string {
	return []string{"https://bordeaux.guix.gnu.org", "https://ci.guix.gnu.org"}
}

// answer is what one server said.
type answer struct {
	finding Finding
	date    time.Time // of its clock; zero if it did not say
	at      time.Time // of ours
}

// asking says for whom servers are asked.
type asking struct {
	check   string // of its findings
	setting string // where their addresses come from
	silent  string // what to do if one does not answer
	// judge returns what is wrong with a server that has sent this
	// nix-cache-info; nil if nothing is.
	judge func(ctx context.Context, server, info string) *Finding
}

// checkServers asks the servers of guix-daemon.
func (e *examination) checkServers(ctx context.Context) []answer {
	servers := e.o.Servers
	if len(servers) == 0 {
		servers = e.daemon.servers
	}
	if len(servers) == 0 {
		servers = defaultServers()
	}
	const setting = "the daemon's --substitute-urls"
	return e.askServers(ctx, servers, asking{
		check: "server", setting: setting, silent: "check the network, or take the server out of " + setting, judge: e.judgeKey,
	})
}

// askServers asks all servers at once and adds what they are found to be.
func (e *examination) askServers(ctx context.Context, servers []string, a asking) []answer {
	answers := make([]answer, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { answers[i] = e.askServer(ctx, s, a) })
	}
	wg.Wait()
	for _, a := range answers {
		e.findings = append(e.findings, a.finding)
	}
	return answers
}

// shown returns an address as it may be printed: without a password.
func shown(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	return u.Redacted()
}

// askServer asks one server for its nix-cache-info and its public key.
func (e *examination) askServer(ctx context.Context, server string, by asking) answer {
	bad := func(err error, advice string) answer {
		return answer{finding: Finding{by.check, Bad, fmt.Sprintf("%s: %v", shown(server), err), advice}}
	}
	u, err := url.Parse(server)
	if err != nil {
		return bad(err, "mend the address in "+by.setting)
	}
	if u.Scheme == "file" {
		if _, err := os.Stat(e.path(u.Path + "/nix-cache-info")); err != nil {
			return bad(err, "mend the address in "+by.setting)
		}
		return answer{finding: Finding{by.check, OK, shown(server), ""}}
	}
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(server, "/")+"/nix-cache-info", nil)
	if err != nil {
		return bad(err, "mend the address in "+by.setting)
	}
	start := e.o.Now()
	resp, err := e.o.Client.Do(req)
	if err != nil {
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err
		}
		return bad(err, by.silent)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	took := e.o.Now().Sub(start)
	switch {
	case err != nil:
		return bad(err, "check the network")
	case resp.StatusCode != http.StatusOK:
		return bad(errors.New(resp.Status), "ask the server's operator, or check the address")
	case !strings.Contains(string(body), "StoreDir:"):
		return bad(errors.New("the answer is no nix-cache-info"), "check the address: another service, or a login page, answers")
	}
	a := answer{at: e.o.Now(), finding: Finding{by.check, OK, fmt.Sprintf("%s answered in %d ms", shown(server), took.Milliseconds()), ""}}
	if f := by.judge(ctx, server, string(body)); f != nil {
		a.finding = *f
	}
	// Some servers send no date.
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		a.date = date
	}
	return a
}

// checkClock compares the clock with the servers'. A wrong one makes cached
// narinfos live too long or too short.
func (e *examination) checkClock(answers []answer) {
	const check = "clock"
	const advice = "set it: sudo timedatectl set-ntp true"
	if now := e.o.Now(); now.Before(oldest) {
		e.add(check, Bad, "it shows "+now.UTC().Format(time.DateTime)+" UTC, so it was never set", advice)
		return
	}
	compared := 0
	for _, a := range answers {
		if a.date.IsZero() {
			continue
		}
		compared++
		if skew := a.at.Sub(a.date); skew.Abs() > maxSkew {
			e.add(check, Bad, fmt.Sprintf("it differs from a server's by %v", skew.Round(time.Second)), advice)
			return
		}
	}
	if compared == 0 {
		e.add(check, Note, "it looks sane; no server told the time to compare it with", "")
		return
	}
	e.add(check, OK, fmt.Sprintf("within %v of %s", maxSkew, count(compared, "server")), "")
}

func (e *examination) checkIPFS(ctx context.Context) {
	const check = "ipfs"
	if e.o.IPFS == "" {
		e.add(check, Note, "no IPFS daemon is set; blocks come from servers alone", "")
		return
	}
	const advice = "start the daemon (ipfs daemon), or mend the address in the configuration"
	c, err := ipfs.New(e.o.IPFS, nil)
	if err != nil {
		e.add(check, Bad, err.Error(), advice)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	version, err := c.Version(ctx)
	if err != nil {
		e.add(check, Bad, err.Error(), advice)
		return
	}
	e.add(check, OK, fmt.Sprintf("Kubo %s at %s", version, shown(e.o.IPFS)), "")
}
