package doctor

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// daemon is what is known of guix-daemon.
type daemon struct {
	pid     int    // 0 if none runs
	uid     int    // of the running one
	guix    string // its variable GUIX, "" if unset
	source  string // where guix was found
	servers []string
	unread  error // why the environment could not be read
}

// guixUnit is that of guix-daemon.
const guixUnit = "guix-daemon.service"

const wrapperAdvice = `install the wrapper and the drop-in, then restart the daemon:
sudo install bin/ersatz-substitute packaging/ersatz-guix /usr/local/bin/
sudo install -D -m 644 packaging/guix-daemon-ersatz.conf /etc/systemd/system/guix-daemon.service.d/ersatz.conf
sudo systemctl daemon-reload && sudo systemctl restart guix-daemon`

func (e *examination) checkDaemon() {
	const check = "daemon"
	d := e.daemon
	configured := e.systemdGUIX()
	switch {
	case d.pid == 0 && configured == "":
		e.add(check, Bad, "no guix-daemon runs, and no unit of systemd sets GUIX for one", wrapperAdvice)
		return
	case d.pid == 0:
		e.add(check, Bad, "no guix-daemon runs", "start it: sudo systemctl start guix-daemon")
		d.guix, d.source = configured, "the unit of systemd"
	case d.unread != nil && configured == "":
		e.add(check, Note, fmt.Sprintf("the environment of guix-daemon (process %d) cannot be read", d.pid), "run doctor as root")
		return
	case d.unread != nil:
		d.guix, d.source = configured, "the unit of systemd"
	case d.guix == "" && configured != "":
		e.add(check, Bad, fmt.Sprintf("the running guix-daemon (process %d) was started before GUIX was set", d.pid),
			"sudo systemctl daemon-reload && sudo systemctl restart guix-daemon")
		return
	case d.guix == "" && e.asksNode(d) != "":
		e.add(check, OK, fmt.Sprintf("guix-daemon (process %d) asks the node at %s", d.pid, e.asksNode(d)), "")
		return
	case d.guix == "":
		e.add(check, Bad, fmt.Sprintf("guix-daemon (process %d) runs without GUIX: ersatz is not asked for substitutes", d.pid), wrapperAdvice)
		return
	}
	e.checkWrapper(d)
}

// asksNode returns the substitute server of a daemon that is this machine's
// node, "" if none is.
func (e *examination) asksNode(d daemon) string {
	i := slices.IndexFunc(d.servers, e.isNode)
	if i < 0 {
		return ""
	}
	return d.servers[i]
}

// isNode reports whether a substitute server is this machine's node, which has
// said where it listens.
func (e *examination) isNode(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	host := strings.ReplaceAll(u.Hostname(), "localhost", "127.0.0.1")
	return slices.ContainsFunc(e.node.Listen, func(at string) bool {
		_, port, err := net.SplitHostPort(at)
		return err == nil && port == u.Port() && loopback(net.JoinHostPort(host, port))
	})
}

// checkWrapper looks at the program that the daemon starts.
func (e *examination) checkWrapper(d daemon) {
	const check = "wrapper"
	where := fmt.Sprintf("GUIX=%s (from %s)", d.guix, d.source)
	fi, err := os.Stat(e.path(d.guix))
	switch {
	case err != nil:
		e.add(check, Bad, fmt.Sprintf("%s: %v", where, err), "sudo install packaging/ersatz-guix "+d.guix)
		return
	case fi.IsDir() || fi.Mode()&0o111 == 0:
		e.add(check, Bad, where+" is not executable", "sudo chmod 755 "+d.guix)
		return
	}
	text, err := os.ReadFile(e.path(d.guix))
	if err != nil || !strings.Contains(string(text), "ersatz") {
		e.add(check, Bad, where+" does not mention ersatz", "sudo install packaging/ersatz-guix "+d.guix)
		return
	}
	e.add(check, OK, where, "")
}

// findDaemon looks through the running processes. The oldest guix-daemon is
// the one that listens; the others are its children.
func (e *examination) findDaemon() daemon {
	entries, err := os.ReadDir(e.path("/proc"))
	if err != nil {
		return daemon{}
	}
	var d daemon
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || d.pid != 0 && pid > d.pid {
			continue
		}
		comm, err := os.ReadFile(e.path(filepath.Join("/proc", entry.Name(), "comm")))
		if err != nil || strings.TrimSpace(string(comm)) != "guix-daemon" {
			continue
		}
		// That of a process which has ended and was not waited for is empty.
		line, err := os.ReadFile(e.path(filepath.Join("/proc", entry.Name(), "cmdline")))
		if err == nil && len(line) > 0 {
			d.pid = pid
		}
	}
	if d.pid == 0 {
		return d
	}
	dir := e.path(filepath.Join("/proc", strconv.Itoa(d.pid)))
	d.uid = readUID(filepath.Join(dir, "status"))
	if text, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil {
		d.servers = substituteURLs(strings.Split(string(text), "\x00"))
	}
	text, err := os.ReadFile(filepath.Join(dir, "environ"))
	d.unread = err
	for v := range strings.SplitSeq(string(text), "\x00") {
		if value, ok := strings.CutPrefix(v, "GUIX="); ok {
			d.guix, d.source = value, "the running daemon"
		}
	}
	return d
}

// readUID returns the effective user of a process, -1 if unknown.
func readUID(status string) int {
	text, err := os.ReadFile(status)
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) >= 3 && f[0] == "Uid:" {
			if uid, err := strconv.Atoi(f[2]); err == nil {
				return uid
			}
		}
	}
	return -1
}

// substituteURLs returns what --substitute-urls says in a command line.
func substituteURLs(args []string) []string {
	const flag = "--substitute-urls"
	var urls []string
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, flag+"="); ok {
			urls = strings.Fields(value)
		} else if arg == flag && i+1 < len(args) {
			urls = strings.Fields(args[i+1])
		}
	}
	return urls
}

// systemdGUIX returns the value that the unit or a drop-in gives to GUIX.
func (e *examination) systemdGUIX() string {
	var guix string
	for _, dir := range unitDirs() {
		files := []string{e.path(dir + "/" + guixUnit)}
		dropIns, err := filepath.Glob(e.path(dir + "/" + guixUnit + ".d/*.conf"))
		if err == nil {
			files = append(files, dropIns...)
		}
		for _, name := range files {
			text, err := os.ReadFile(name)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(text)) {
				value, ok := strings.CutPrefix(strings.TrimSpace(line), "Environment=")
				if !ok {
					continue
				}
				for _, f := range strings.Fields(value) {
					if v, ok := strings.CutPrefix(strings.Trim(f, `"'`), "GUIX="); ok {
						guix = v
					}
				}
			}
		}
	}
	return guix
}
