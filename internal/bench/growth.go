package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ersatz/guixsig"
	"ersatz/internal/realguix"
	"ersatz/internal/storedb"
)

// growthGroup measures what more items cost a server and a node.
func growthGroup(ctx context.Context, o Options) ([]Table, error) {
	sizes := []int{10, 1000, 100_000, 1_000_000}
	if o.Quick {
		sizes = []int{10, 5000}
	}
	var tables []Table
	for _, node := range []bool{false, true} {
		t, err := growth(ctx, o, node, sizes)
		if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// crowdMemory is what an item takes in a folder in memory, in bytes: the page
// of its narinfo, three names, rows.
const crowdMemory = 8 << 10

// growth fills folders and starts the program on each.
func growth(ctx context.Context, o Options, node bool, sizes []int) (Table, error) {
	program := "publish"
	if node {
		program = "node"
	}
	t := Table{
		Title: fmt.Sprintf("Growth: `ersatz %s` by the number of items", program),
		Note: "Small synthetic items, five blocks each, in memory. Start is from the start of the process to its first answer; settled is when it " +
			"uses no processor any more, and CPU and memory (RssAnon, what is its own) are those then. Narinfos of items by chance are asked for one at a time.",
		Head: []string{"what"},
	}
	rows := [][]string{{"start, to the first answer"}, {"CPU until settled"}, {"memory when settled"}, {"peak memory"}, {"narinfo, median"}, {"narinfo, p99"}, {"index, bytes per item"}}
	for _, n := range sizes {
		dir, err := memoryDir(int64(n) * crowdMemory)
		if err != nil {
			o.absent.note(fmt.Sprintf("%s items: %v", grouped(n), err))
			continue
		}
		o.Log.InfoContext(ctx, "filling", slog.String("program", program), slog.Int("items", n))
		g, err := grow(ctx, o, dir, node, n)
		if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
			return Table{}, fmt.Errorf("%s with %d items: %w", program, n, err)
		}
		t.Head = append(t.Head, grouped(n)+" items")
		for i, cell := range []string{
			milliseconds.cell(g.start), seconds.cell(g.settled.cpu), mebibytes.cell(g.private), mebibytes.cell(g.settled.peak),
			microseconds.cell(g.median), microseconds.cell(g.p99), number(g.perItem),
		} {
			rows[i] = append(rows[i], cell)
		}
	}
	t.Rows = rows
	return t, nil
}

var microseconds = unit{name: "µs", scale: 1e6}

// grouped prints a number with commas.
func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// memoryDir makes a folder in memory, if that has room for as many bytes.
func memoryDir(need int64) (string, error) {
	const shm = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(shm, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		return os.MkdirTemp("", "ersatz-bench-")
	}
	free := int64(fs.Bavail) * fs.Bsize
	if kib, err := statusField("/proc/meminfo", "MemAvailable:"); err == nil {
		free = min(free, kib<<10)
	}
	if free < need {
		return "", fmt.Errorf("they take %d MiB of memory, and %d MiB are free", need>>20, free>>20)
	}
	return os.MkdirTemp(shm, "ersatz-bench-")
}

// grown is what was measured of one folder.
type grown struct {
	start, private, median, p99 series
	settled                     usages
	perItem                     float64
}

func grow(ctx context.Context, o Options, dir string, node bool, n int) (grown, error) {
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		return grown{}, err
	}
	cache := filepath.Join(dir, "cache")
	w, err := makeCrowd(ctx, cache, n, node, key)
	if err != nil {
		return grown{}, err
	}
	public, private, err := crowdKeys(dir, key)
	if err != nil {
		return grown{}, err
	}
	db, err := storedb.Create(filepath.Join(dir, "guix"))
	if err != nil {
		return grown{}, err
	}
	if err := db.Close(); err != nil {
		return grown{}, err
	}
	addr, err := realguix.FreeAddr()
	if err != nil {
		return grown{}, err
	}
	_, port, _ := net.SplitHostPort(addr)
	args := []string{"publish", "--listen=127.0.0.1", "--port=" + port, "--cache=" + cache, "--state=" + filepath.Join(dir, "guix"),
		"--public-key=" + public, "--private-key=" + private}
	if node {
		args = []string{"node", "--listen=" + addr, "--socket=none", "--state=" + cache, "--quota=1TiB", "--discover=no"}
	}
	var g grown
	for range min(o.Runs, 3) {
		if err := g.run(ctx, o, w, args, "http://"+addr); err != nil {
			return grown{}, err
		}
	}
	size, err := w.indexSize()
	g.perItem = float64(size) / float64(n)
	return g, err
}

// run starts the program, waits until it has settled, and asks it.
func (g *grown) run(ctx context.Context, o Options, w *crowd, args []string, url string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := ersatzCommand(ctx, o.Ersatz, args...)
	var log bytes.Buffer
	cmd.Stderr = &log
	client := newClient()
	defer client.CloseIdleConnections()
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, cmd.Process.Signal(unix.SIGTERM))
		werr := cmd.Wait()
		if err != nil {
			err = fmt.Errorf("%w; %w\n%s", err, werr, log.Bytes()[max(0, log.Len()-2000):])
		}
	}()
	if err := untilAnswer(ctx, client, url+"/nix-cache-info"); err != nil {
		return err
	}
	g.start = append(g.start, time.Since(begin).Seconds())
	u, err := settle(ctx, cmd)
	if err != nil {
		return err
	}
	g.settled.add(u)
	own, err := statusField(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid), "RssAnon:")
	if err != nil {
		return err
	}
	g.private = append(g.private, float64(own<<10))
	all, err := askByChance(ctx, client, url, w, min(2000, 20*w.n))
	if err != nil {
		return err
	}
	g.median = append(g.median, all.median())
	slices.Sort(all)
	g.p99 = append(g.p99, all[len(all)*99/100])
	return nil
}

// untilAnswer waits until a server answers.
func untilAnswer(ctx context.Context, client *http.Client, url string) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if text, err := fetch(ctx, client, url); err == nil && text != nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", url, ctx.Err())
		}
	}
}

// settle waits until a process has used no processor for a second, and returns
// what it has used until then.
func settle(ctx context.Context, cmd *exec.Cmd) (usage, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	pid := cmd.Process.Pid
	last, since := time.Duration(-1), time.Now()
	for {
		now, err := cpu(pid)
		if err != nil {
			return usage{}, err
		}
		if now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) > time.Second {
			most, err := peak(pid)
			return usage{cpu: last, peak: most}, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return usage{}, fmt.Errorf("it does not come to rest: %w", ctx.Err())
		}
	}
}

// askByChance asks for narinfos one by one and returns how many seconds each
// took.
func askByChance(ctx context.Context, client *http.Client, url string, w *crowd, times int) (series, error) {
	var all series
	random := rand.New(rand.NewPCG(1, uint64(w.n)))
	for range times {
		p := crowdItem(random.IntN(w.n))
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/"+p.Hash+".narinfo", nil)
		if err != nil {
			return nil, err
		}
		begin := time.Now()
		res, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(res.Body)
		took := time.Since(begin)
		if err = errors.Join(err, res.Body.Close()); err != nil {
			return nil, err
		}
		if res.StatusCode != http.StatusOK || !strings.HasPrefix(string(text), "StorePath: "+p.String()+"\n") {
			return nil, fmt.Errorf("%s: %s: %.200s", p, res.Status, text)
		}
		all = append(all, took.Seconds())
	}
	return all, nil
}
