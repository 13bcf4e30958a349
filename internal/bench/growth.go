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
	if o.Quick {
		return growth(ctx, o, []int{10, 5000})
	}
	return growth(ctx, o, []int{10, 1000, 100_000, 1_000_000})
}

// crowdMemory is what an item takes in a folder in memory, in bytes: the pages
// of its narinfo and of its record, four names, rows.
const crowdMemory = 11 << 10

// growth fills folders and starts both programs on each.
func growth(ctx context.Context, o Options, sizes []int) ([]Table, error) {
	programs := []string{"publish", "node"}
	var tables []Table
	for _, program := range programs {
		t := Table{
			Title: fmt.Sprintf("Growth: `ersatz %s` by the number of items", program),
			Note: "Small synthetic items, five blocks each, in memory. Start is from the start of the process to its first answer; settled is when it " +
				"uses no processor any more, or half a minute later, and CPU and memory (RssAnon, what is its own) are those then. Narinfos of items by chance are asked for one at a time.",
			Head: []string{"what"},
		}
		for _, what := range []string{"start, to the first answer", "CPU until settled", "memory when settled", "peak memory", "narinfo, median", "narinfo, p99", "index, bytes per item"} {
			t.Rows = append(t.Rows, []string{what})
		}
		tables = append(tables, t)
	}
	for _, n := range sizes {
		dir, err := memoryDir(int64(n) * crowdMemory)
		if err != nil {
			o.absent.note(fmt.Sprintf("%s items: %v", grouped(n), err))
			continue
		}
		o.Log.InfoContext(ctx, "filling a folder", slog.Int("items", n))
		err = growthOf(ctx, o, dir, n, programs, tables)
		if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
			return nil, fmt.Errorf("%s items: %w", grouped(n), err)
		}
	}
	return tables, nil
}

// growthOf adds a column to the table of each program.
func growthOf(ctx context.Context, o Options, dir string, n int, programs []string, tables []Table) error {
	key, err := guixsig.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		return err
	}
	w, err := makeCrowd(ctx, filepath.Join(dir, "items"), n, key)
	if err != nil {
		return err
	}
	args, err := growthArgs(dir, w.dir, key)
	if err != nil {
		return err
	}
	runs := min(o.Runs, 3)
	if n >= 1_000_000 {
		runs = 1
	}
	for k, program := range programs {
		t := &tables[k]
		if err := w.as(program); err != nil {
			return err
		}
		var g grown
		for range runs {
			o.Log.InfoContext(ctx, "starting", slog.String("program", program), slog.Int("items", n))
			if err := g.run(ctx, o, w, args[program]); err != nil {
				return fmt.Errorf("%s: %w", program, err)
			}
		}
		size, err := w.indexSize()
		if err != nil {
			return err
		}
		t.Head = append(t.Head, grouped(n)+" items")
		for i, cell := range []string{
			milliseconds.cell(g.start), seconds.cell(g.settled.cpu), mebibytes.cell(g.private), mebibytes.cell(g.settled.peak),
			microseconds.cell(g.median), microseconds.cell(g.p99), number(float64(size) / float64(n)),
		} {
			t.Rows[i] = append(t.Rows[i], cell)
		}
	}
	return nil
}

// growthArgs returns the arguments of the programs, without an address.
func growthArgs(dir, items string, key *guixsig.PrivateKey) (map[string][]string, error) {
	public, private, err := crowdKeys(dir, key)
	if err != nil {
		return nil, err
	}
	guix := filepath.Join(dir, "guix")
	db, err := storedb.Create(guix)
	if err != nil {
		return nil, err
	}
	return map[string][]string{
		"publish": {"publish", "--listen=127.0.0.1", "--cache=" + items, "--state=" + guix, "--public-key=" + public, "--private-key=" + private},
		"node":    {"node", "--socket=none", "--state=" + items, "--quota=1TiB", "--discover=no"},
	}, db.Close()
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

// grown is what was measured of one program on one folder.
type grown struct {
	start, private, median, p99 series
	settled                     usages
}

// run starts the program, waits until it has settled, and asks it.
func (g *grown) run(ctx context.Context, o Options, w *crowd, args []string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	addr, err := realguix.FreeAddr()
	if err != nil {
		return err
	}
	url := "http://" + addr
	_, port, _ := net.SplitHostPort(addr)
	at := "--port=" + port
	if args[0] == "node" {
		at = "--listen=" + addr
	}
	cmd := ersatzCommand(ctx, o.Ersatz, append(slices.Clone(args), at)...)
	var log bytes.Buffer
	cmd.Stderr = &log
	client := newClient()
	defer client.CloseIdleConnections()
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	var werr error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		werr = cmd.Wait()
		cancel() // nobody answers any more
	}()
	defer func() {
		_ = cmd.Process.Signal(unix.SIGTERM) // it may have ended
		<-ended
		if err != nil {
			err = fmt.Errorf("%w; %w\n%s", err, werr, log.Bytes()[max(0, log.Len()-2000):])
		}
	}()
	if err := untilAnswer(ctx, client, url+"/nix-cache-info"); err != nil {
		return err
	}
	g.start = append(g.start, time.Since(begin).Seconds())
	u, err := settle(ctx, cmd, settled)
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

// settled is for how long it is waited at most until a program has settled: what
// it does in the background may be spread over a long time.
const settled = 30 * time.Second

// settle waits until a process has used no processor for a second, but no longer
// than most, and returns what it has used until then.
func settle(ctx context.Context, cmd *exec.Cmd, most time.Duration) (usage, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	pid := cmd.Process.Pid
	begin := time.Now()
	last, since := time.Duration(-1), begin
	for {
		now, err := cpu(pid)
		if err != nil {
			return usage{}, err
		}
		if now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) > time.Second || time.Since(begin) > most {
			peak, err := peak(pid)
			return usage{cpu: last, peak: peak}, err
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
