package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"ersatz/narinfo"
	"ersatz/nixsig"
	"ersatz/storepath"
)

const (
	nixStore  = storepath.Nix
	nixSocket = "/nix/var/nix/daemon-socket/socket"
	nixUnit   = "nix-daemon.service"
)

// Of how many items of the Nix store the node is asked for the narinfo, and how
// many names are read to find those.
const (
	samples     = 8
	sampleNames = 256
)

// checkNix looks at what Nix needs to have substitutes from the node.
func (e *examination) checkNix(ctx context.Context) []answer {
	e.checkNixDaemon(ctx)
	e.checkNixStore()
	s, err := e.readNixConf()
	var keys []nixsig.PublicKey
	if err == nil {
		keys, err = s.trusted()
	}
	switch {
	case errors.Is(err, fs.ErrPermission): // files with secrets are included
		e.add("nix.conf", Note, err.Error(), "run doctor as root")
		return nil
	case err != nil:
		e.add("nix.conf", Bad, err.Error(), "mend "+nixConf)
		return nil
	}
	const setting = "substituters in " + nixConf
	by := asking{check: "substituter", setting: setting, silent: "check the network, or take the server out of " + setting,
		judge: func(ctx context.Context, server, info string) *Finding {
			return e.judgeSubstituter(ctx, server, info, keys, s.unsigned)
		}}
	nodes, others := e.sortSubstituters(s.substituters)
	e.checkNixConf(nodes, others)
	answers := e.askServers(ctx, others, by)
	by.silent = "start the node: " + startNode
	for i, a := range e.askServers(ctx, nodes, by) {
		answers = append(answers, a)
		if a.finding.Level == OK && !s.unsigned {
			e.checkNixKeys(ctx, nodes[i], keys)
		}
	}
	return answers
}

func (e *examination) checkNixDaemon(ctx context.Context) {
	const check = "nix-daemon"
	switch {
	case e.exists(nixSocket):
		c, err := (&net.Dialer{Timeout: e.o.Timeout}).DialContext(ctx, "unix", e.path(nixSocket))
		if err != nil {
			e.add(check, Bad, err.Error(), "sudo systemctl restart nix-daemon")
			return
		}
		c.Close()
		e.add(check, OK, "listens at "+nixSocket, "")
	case e.installed(nixUnit):
		e.add(check, Bad, nixSocket+" is not there: it does not run", "sudo systemctl enable --now nix-daemon.socket")
	default:
		e.add(check, Note, "there is none: Nix is for the owner of "+nixStore+" alone", "")
	}
}

func (e *examination) checkNixStore() {
	const check = "nix store"
	if !e.exists(nixStore) {
		e.add(check, Bad, nixStore+" is not there", "install Nix, whose daemon makes the store")
		return
	}
	e.checkSpace(check, nixStore, leastStore, "free some: nix-collect-garbage --delete-older-than 30d")
}

// sortSubstituters tells this machine's node from other servers. If the node
// has not said where it listens, what is on this machine is taken for it. Those
// that are not asked by HTTP are left out, and so are parameters of Nix.
func (e *examination) sortSubstituters(substituters []string) (nodes, others []string) {
	for _, s := range substituters {
		u, err := url.Parse(s)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" {
			continue
		}
		u.RawQuery = ""
		host := strings.ReplaceAll(u.Hostname(), "localhost", "127.0.0.1")
		if s = u.String(); e.isNode(s) || len(e.node.Listen) == 0 && loopback(net.JoinHostPort(host, "0")) {
			nodes = append(nodes, s)
		} else {
			others = append(others, s)
		}
	}
	return nodes, others
}

// checkNixConf says whether Nix asks the node. Where there is Guix as well, the
// node may be for that alone.
func (e *examination) checkNixConf(nodes, others []string) {
	const check = "nix.conf"
	if len(nodes) > 0 {
		e.add(check, OK, "Nix asks the node at "+shownAll(nodes), "")
		return
	}
	level := Bad
	if e.guix {
		level = Note
	}
	asks := "nobody by HTTP"
	if len(others) > 0 {
		asks = shownAll(others)
	}
	e.add(check, level, fmt.Sprintf("%s names no node of this machine: Nix asks %s", nixConf, asks),
		"add at its end, or to nix.settings of NixOS: extra-substituters = "+e.nodeURL()+"\nsudo systemctl restart nix-daemon")
}

// nodeURL returns where Nix finds this machine's node, or would by default.
func (e *examination) nodeURL() string {
	for _, at := range e.node.Listen {
		if _, port, err := net.SplitHostPort(at); err == nil {
			return "http://127.0.0.1:" + port + "/nix"
		}
	}
	return "http://127.0.0.1:8181/nix"
}

// shownAll returns addresses as they may be printed.
func shownAll(addresses []string) string {
	var all []string
	for _, a := range addresses {
		all = append(all, shown(a))
	}
	return strings.Join(all, ", ")
}

// judgeSubstituter says if a substituter serves another store, or signs with a
// key that Nix does not trust. Only ersatz publish says which key it has.
func (e *examination) judgeSubstituter(ctx context.Context, server, info string, keys []nixsig.PublicKey, unsigned bool) *Finding {
	const check = "substituter"
	for line := range strings.Lines(info) {
		if dir, ok := strings.CutPrefix(line, "StoreDir:"); ok && strings.TrimSpace(dir) != nixStore {
			return &Finding{check, Bad, fmt.Sprintf("%s serves %s", shown(server), strings.TrimSpace(dir)),
				"what a node has for Nix is at " + e.nodeURL() + "; mend the address in " + nixConf}
		}
	}
	if unsigned {
		return nil
	}
	text, err := e.get(ctx, server, "nix-key.pub")
	if err != nil {
		return nil
	}
	key, err := nixsig.ParsePublicKey(strings.TrimSpace(string(text)))
	if err != nil || slices.ContainsFunc(keys, func(k nixsig.PublicKey) bool { return k.String() == key.String() }) {
		return nil
	}
	return &Finding{check, Bad, fmt.Sprintf("%s signs with %v, which %s does not trust", shown(server), key, nixConf),
		fmt.Sprintf("compare that with what the server's operator says; if it is the same, add to %s:\nextra-trusted-public-keys = %v", nixConf, key)}
}

// checkNixKeys asks the node for some items of the store, and looks if Nix would
// take them.
func (e *examination) checkNixKeys(ctx context.Context, server string, keys []nixsig.PublicKey) {
	const check = "nix keys"
	items, err := e.nixItems()
	if err != nil {
		e.add(check, Note, err.Error(), "run doctor as root")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	refused := make([]error, len(items))
	served := make([]bool, len(items))
	var wg sync.WaitGroup
	for i, name := range items {
		wg.Go(func() { served[i], refused[i] = e.askNarinfo(ctx, server, name, keys) })
	}
	wg.Wait()
	n := 0
	for _, ok := range served {
		if ok {
			n++
		}
	}
	of := fmt.Sprintf("%d of %s of %s", n, count(len(items), "item"), nixStore)
	switch err := errors.Join(refused...); {
	case err != nil:
		first, _, _ := strings.Cut(err.Error(), "\n")
		e.add(check, Bad, fmt.Sprintf("the node serves what Nix does not take: %s", first),
			"if you trust that key, add it to trusted-public-keys in "+nixConf+"; else have the node ask other upstreams, or pass on less: --nix-trusted-key")
	case n == 0:
		e.add(check, Note, "the node has "+of+": whether Nix trusts what it serves is not known", "")
	default:
		e.add(check, OK, "the node has "+of+", signed by keys that Nix trusts", "")
	}
}

// nixItems returns the names of some items of the store that a server may have.
func (e *examination) nixItems() ([]string, error) {
	d, err := os.Open(e.path(nixStore))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(sampleNames)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		_, err := storepath.Parse(nixStore + "/" + name)
		return err != nil || path.Ext(name) == ".drv"
	})
	return names[:min(len(names), samples)], nil
}

// askNarinfo reports whether a server has an item, and as error why Nix would
// not take it.
func (e *examination) askNarinfo(ctx context.Context, server, name string, keys []nixsig.PublicKey) (served bool, err error) {
	hash, _, _ := strings.Cut(name, "-")
	text, err := e.get(ctx, server, hash+".narinfo")
	if err != nil {
		return false, nil // no server has all items
	}
	n, err := narinfo.Parse(text)
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	addressed := strings.Contains(string(text), "\nCA: ") // by content, which needs no signature
	if _, err := n.VerifyNix(keys); err != nil && !addressed {
		return false, fmt.Errorf("%s is signed by %s: %w", name, signers(n), err)
	}
	return true, nil
}

// signers returns the names of the keys that an item is signed by.
func signers(n *narinfo.Narinfo) string {
	var names []string
	for _, sig := range n.Sigs {
		name, _, _ := strings.Cut(sig, ":")
		names = append(names, strconv.Quote(name))
	}
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}
