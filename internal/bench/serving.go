package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ersatz/guixsig"
	"ersatz/internal/realguix"
	"ersatz/internal/storedb"
	"ersatz/narinfo"
)

// servingGroup measures ersatz and nginx that serve the same folder.
func servingGroup(ctx context.Context, o Options) ([]Table, error) {
	if !o.have("wrk") {
		return nil, nil
	}
	dir, err := memoryDir(64 * mib)
	if err != nil {
		return nil, err
	}
	t, err := serving(ctx, o, dir)
	return []Table{t}, errors.Join(err, os.RemoveAll(dir))
}

// The sizes of nars that are sent again and again, in bytes.
const (
	servedNar = 32 * mib
	smallNar  = 20_000
)

func serving(ctx context.Context, o Options, dir string) (t Table, err error) {
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		return t, err
	}
	cache := filepath.Join(dir, "cache")
	paths, nar, err := servedFolder(cache, key, servedNar)
	if err != nil {
		return t, err
	}
	ours, err := publishFolder(ctx, o, dir, cache, key)
	if err != nil {
		return t, err
	}
	defer ours.Stop()
	var theirs *server
	if o.have("nginx") {
		if theirs, err = nginx(ctx, dir, cache); err != nil {
			return t, err
		}
		defer theirs.Stop()
	}
	script, err := wrkScript(dir, "narinfos.lua", paths)
	if err != nil {
		return t, err
	}
	t = Table{
		Title: "Serving files",
		Note: fmt.Sprintf("%d baked narinfos, a nar of %d MiB and two of %d KB, in memory; nginx is one process, with sendfile and no log of accesses. "+
			"By wrk with one thread, %s each, which shares the machine. CPU is the server's, of user and system, beside what the kernel does on behalf of loopback.",
			queried, servedNar/mib, smallNar/1000, o.wrkTime()),
		Peer: "nginx",
	}
	rows := []struct {
		what  string
		args  []string // of wrk
		path  string
		unit  unit
		scale float64 // of a request
	}{
		{"narinfos, 8 connections", []string{"-c8", "-s", script}, "", perSecond, 1},
		{"nar, 8 connections", []string{"-c8"}, nar, megabytes, servedNar},
		{"nar, 1 connection", []string{"-c1"}, nar, megabytes, servedNar},
		{"small nar, 8 connections", []string{"-c8"}, nar + "-small", perSecond, 1},
		{"the same but for its begin, by Range", []string{"-c8", "-H", "Range: bytes=1000-"}, nar + "-small", perSecond, 1},
		{"small nar with escapes in its URL", []string{"-c8"}, nar + "-g%2B%2B", perSecond, 1},
	}
	if o.Quick {
		rows, o.Runs = rows[:2], 1
	}
	for _, row := range rows {
		us, peer := wrkSide("ersatz", o, ours, row.path, row.args), &side{}
		sides := []*side{us}
		if theirs != nil {
			peer = wrkSide("nginx", o, theirs, row.path, row.args)
			sides = append(sides, peer)
		}
		if err := turns(ctx, o, sides...); err != nil {
			return t, err
		}
		t.versus(row.what, row.unit, scaled(us.rate, row.scale), scaled(peer.rate, row.scale), nil)
		each, by := "the server's CPU for one", 1.0
		if row.unit == megabytes {
			each, by = "the server's CPU for a MB", 1e6/row.scale
		}
		t.versus(each, microseconds, scaled(us.cpu, by), scaled(peer.cpu, by), nil)
	}
	return t, nil
}

// servedFolder makes a folder as a server has it after it has baked, and returns
// the URLs of narinfos and of a nar there.
func servedFolder(dir string, key *guixsig.PrivateKey, size int) (narinfos []string, nar string, err error) {
	if err := os.MkdirAll(filepath.Join(dir, "nar", "zstd"), 0o755); err != nil {
		return nil, "", err
	}
	for i := range queried {
		p := crowdItem(i)
		refs := []string{crowdItem(i + 1).Base(), crowdItem(i + 2).Base()}
		text, err := narinfo.SignGuix(narinfo.Fields{StorePath: p, NarSize: uint64(size), References: refs}.Body(), key, "bench")
		if err != nil {
			return nil, "", err
		}
		nar = "/nar/zstd/" + p.Base()
		text = append(text, narinfo.Locations([]narinfo.Nar{{URL: nar[1:], Compression: "zstd", FileSize: uint64(size)}})...)
		narinfos = append(narinfos, "/"+p.Hash+".narinfo")
		if err := os.WriteFile(filepath.Join(dir, p.Hash+".narinfo"), text, 0o644); err != nil {
			return nil, "", err
		}
	}
	return narinfos, nar, errors.Join(os.WriteFile(dir+nar, randomBytes(size, 2), 0o644),
		os.WriteFile(dir+nar+"-small", randomBytes(smallNar, 2), 0o644), os.WriteFile(dir+nar+"-g++", randomBytes(smallNar, 2), 0o644))
}

func scaled(s series, by float64) series {
	var out series
	for _, v := range s {
		out = append(out, v*by)
	}
	return out
}

// wrkSide has wrk ask a server. Its rate is in requests per second, its CPU that
// of the server for one of them.
func wrkSide(name string, o Options, s *server, path string, args []string) *side {
	return &side{name: name, once: func(ctx context.Context) (usage, error) {
		before, err := cpu(s.pid)
		if err != nil {
			return usage{}, err
		}
		u, n, err := wrk(ctx, o, s.URL+path, args...)
		if err != nil {
			return usage{}, err
		}
		after, err := cpu(s.pid)
		u.cpu = time.Duration(float64(after-before) / n)
		return u, err
	}}
}

// publishFolder starts `ersatz publish` with a folder of what was baked, and a
// store that has nothing.
func publishFolder(ctx context.Context, o Options, dir, cache string, key *guixsig.PrivateKey) (*server, error) {
	public, private, err := crowdKeys(dir, key)
	if err != nil {
		return nil, err
	}
	db, err := storedb.Create(filepath.Join(dir, "guix"))
	if err != nil {
		return nil, err
	}
	if err := db.Close(); err != nil {
		return nil, err
	}
	return serveBy(ctx, func(ctx context.Context, port string) *exec.Cmd {
		return ersatzCommand(ctx, o.Ersatz, "publish", "--listen=127.0.0.1", "--port="+port, "--cache="+cache,
			"--state="+filepath.Join(dir, "guix"), "--public-key="+public, "--private-key="+private)
	})
}

// nginx starts nginx with a folder, whose configuration lies in dir. It asks
// the disk for each request, as it does unless it is told otherwise.
func nginx(ctx context.Context, dir, root string) (*server, error) {
	return serveBy(ctx, func(ctx context.Context, port string) *exec.Cmd {
		// One process: a worker would outlive a master that is killed.
		config := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/nginx.pid; error_log stderr;
events { worker_connections 512; }
http {
	access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;
	client_body_temp_path %[1]s/nginx; proxy_temp_path %[1]s/nginx; fastcgi_temp_path %[1]s/nginx; uwsgi_temp_path %[1]s/nginx; scgi_temp_path %[1]s/nginx;
	server { listen 127.0.0.1:%[2]s; root %[3]s; }
}
`, dir, port, root)
		name := filepath.Join(dir, "nginx.conf")
		_ = os.WriteFile(name, []byte(config), 0o644) // nginx says if it is not there
		return exec.CommandContext(ctx, "nginx", "-c", name, "-e", "stderr")
	})
}

// serveBy starts a server of this machine and waits until it listens.
func serveBy(ctx context.Context, command func(ctx context.Context, port string) *exec.Cmd) (*server, error) {
	addr, err := realguix.FreeAddr()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	var cmd *exec.Cmd
	s, err := realguix.Serve(ctx, addr, func(ctx context.Context) *exec.Cmd {
		cmd = command(ctx, port)
		return cmd
	})
	if err != nil {
		return nil, err
	}
	return &server{addr, s, cmd.Process.Pid, newClient()}, nil
}

// wrkScript writes the script that makes wrk ask for all paths in turn.
func wrkScript(dir, name string, paths []string) (string, error) {
	var b strings.Builder
	b.WriteString("local paths = {\n")
	for _, p := range paths {
		fmt.Fprintf(&b, "  %s,\n", strconv.Quote(p))
	}
	b.WriteString("}\nlocal n = 0\nfunction request()\n  n = n % #paths + 1\n  return wrk.format(\"GET\", paths[n])\nend\n")
	name = filepath.Join(dir, name)
	return name, os.WriteFile(name, []byte(b.String()), 0o644)
}

// wrkTime is for how long wrk asks.
func (o Options) wrkTime() time.Duration {
	if o.Quick {
		return time.Second
	}
	return 3 * time.Second
}

// wrk returns the requests per second that a server answers, and how many it
// has answered.
func wrk(ctx context.Context, o Options, url string, args ...string) (u usage, n float64, err error) {
	args = append([]string{"-t1", "-d" + o.wrkTime().String(), "--timeout", "10s"}, args...)
	out, err := exec.CommandContext(ctx, "wrk", append(args, url)...).CombinedOutput()
	if err != nil {
		return usage{}, 0, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	rate, n, err := parseWrk(string(out))
	return rateOf(rate), n, err
}
