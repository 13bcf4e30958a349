package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"ersatz/internal/realguix"
	"ersatz/nar"
	"ersatz/storepath"
)

// latencyGroup measures how an item is baked beside the compressor alone, and
// how narinfos are answered meanwhile.
func latencyGroup(ctx context.Context, o Options) ([]Table, error) {
	k, err := newKitchen(o)
	if err != nil {
		return nil, err
	}
	var tables []Table
	for _, measure := range []func(context.Context) (Table, error){k.methods, k.answers} {
		t, err := measure(ctx)
		if err != nil {
			return nil, closing(err, k.close)
		}
		tables = append(tables, t)
	}
	return tables, k.close()
}

// methods bakes one large item and many small ones.
func (k *kitchen) methods(ctx context.Context) (Table, error) {
	const size, n = 100_000_000, 500
	large, narSize, err := k.add(ctx, "large", func(path string) error { return realguix.MakePackage(path, 3, 3000, size) })
	if err != nil {
		return Table{}, err
	}
	small, err := k.files(ctx, "small", n, func(i int) int64 { return int64(400 + i*97%20_000) })
	if err != nil {
		return Table{}, err
	}
	plain := filepath.Join(k.dir, "large.nar")
	f, err := os.Create(plain)
	if err != nil {
		return Table{}, err
	}
	if _, err := nar.Dump(f, large.String()); err != nil {
		return Table{}, err
	}
	if err := f.Close(); err != nil {
		return Table{}, err
	}
	t := Table{
		Title: "Baking",
		Note: fmt.Sprintf("A nar of %s MB in 3,000 files, and %d items of up to 20 KB, from a store in memory into an empty cache there. "+
			"The limit is `zstd` alone, with one thread and the same nar in a file; ersatz also dumps, hashes, encodes, indexes and signs. CPU and memory are those of the server and of the processes that it bakes by.",
			number(float64(narSize)/1e6), n),
		Limit: "`zstd`",
	}
	for _, level := range []string{"3", "9"} {
		one, all := k.baker("zstd:"+level, 1, large), k.baker("zstd:"+level, runtime.NumCPU(), large)
		limit := &side{name: "zstd", once: func(ctx context.Context) (usage, error) {
			return wholeProcess(exec.CommandContext(ctx, "zstd", "-q", "-f", "-T1", "-"+level, plain, "-o", plain+".zst"))
		}}
		sides := []*side{one, all, limit}
		if !k.o.have("zstd") {
			sides = sides[:2]
		}
		if err := turns(ctx, k.o, sides...); err != nil {
			return t, err
		}
		of := float64(narSize)
		t.versus("zstd:"+level+", one worker: CPU", megabytes, one.perCPUSecond(of), nil, limit.perCPUSecond(of))
		t.versus("zstd:"+level+", one worker: wall", megabytes, one.perSecond(of), nil, limit.perSecond(of))
		t.versus(fmt.Sprintf("zstd:%s, %d workers: wall", level, runtime.NumCPU()), megabytes, all.perSecond(of), nil, limit.perSecond(of))
		t.versus(fmt.Sprintf("zstd:%s, %d workers: memory", level, runtime.NumCPU()), mebibytes, all.peak, nil, nil)
	}
	for _, method := range []string{"zstd:3", "zstd:19"} {
		many := k.baker(method, runtime.NumCPU(), small...)
		if err := turns(ctx, k.o, many); err != nil {
			return t, err
		}
		t.versus(method+", small items", perSecond, many.perSecond(float64(n)), nil, nil)
	}
	return t, nil
}

// baker bakes items by a new server.
func (k *kitchen) baker(method string, workers int, paths ...storepath.Path) *side {
	return &side{name: method, once: func(ctx context.Context) (usage, error) {
		c, err := k.cook(ctx, method, workers)
		if err != nil {
			return usage{}, err
		}
		u, err := c.bake(ctx, paths...)
		return u, closing(err, c.stop)
	}}
}

const (
	askers  = 8               // connections
	askRate = 1000            // requests per second, all connections together
	asked   = 2 * time.Second // for how long
)

// answers asks for narinfos at a steady rate, with nothing else to do and while
// two items are being baked.
func (k *kitchen) answers(ctx context.Context) (Table, error) {
	t := Table{
		Title: "Narinfos while two items are baked",
		Note: fmt.Sprintf("Baked narinfos, %d requests per second over %d connections, for %s each time; the client shares the machine. "+
			"Two workers bake files of 64 MiB, one after the other. The limit is nginx, with the same narinfos as files, and beside it two processes of "+
			"`zstd` at SCHED_IDLE that compress the same files: what the machine lets a server answer.", askRate, askers, asked),
		Head: []string{"what", "median", "99 %", "99.9 %", "longest"},
	}
	few, err := k.files(ctx, "asked", 50, func(i int) int64 { return int64(400 + 97*i) })
	if err != nil {
		return t, err
	}
	loaves, err := k.files(ctx, "loaf", 48, func(int) int64 { return 64 * mib })
	if err != nil {
		return t, err
	}
	peer := k.o.have("nginx") && k.o.have("zstd") && k.o.have("chrt")
	for _, level := range []string{"", "3", "19"} {
		of, ofPeer := "two bakes at zstd:"+level, "nginx, two `zstd -"+level+"`"
		if level == "" {
			of, ofPeer = "no bake", "nginx"
		}
		var ours, theirs [4]series
		for range k.o.Runs {
			all, err := k.answersOf(ctx, level, few, loaves)
			if err != nil {
				return t, err
			}
			note(&ours, all)
			if !peer {
				continue
			}
			if all, err = k.answersOfPeer(ctx, level, few, loaves); err != nil {
				return t, err
			}
			note(&theirs, all)
		}
		t.Rows = append(t.Rows, latencies(of, ours))
		if peer {
			t.Rows = append(t.Rows, latencies(ofPeer, theirs))
		}
	}
	return t, nil
}

// note adds the median and so on of one time.
func note(to *[4]series, all series) {
	slices.Sort(all)
	for i, part := range []float64{0.5, 0.99, 0.999, 1} {
		to[i] = append(to[i], all[int(part*float64(len(all)-1))])
	}
}

func latencies(what string, figures [4]series) []string {
	row := []string{what}
	for _, s := range figures {
		row = append(row, unit{name: "ms", scale: 1e3}.cell(s))
	}
	return row
}

// answersOf returns how many seconds each answer took, by a server that bakes at
// a level of zstd, or does not.
func (k *kitchen) answersOf(ctx context.Context, level string, few, loaves []storepath.Path) (all series, err error) {
	busy := level != ""
	if !busy {
		level = "3"
	}
	c, err := k.cook(ctx, "zstd:"+level, 2)
	if err != nil {
		return nil, err
	}
	defer func() { err = closing(err, c.stop) }()
	if _, err := c.bake(ctx, few...); err != nil {
		return nil, err
	}
	if busy {
		for _, p := range loaves {
			if err := c.order(ctx, p); err != nil {
				return nil, err
			}
		}
	}
	if all, err = askSteadily(ctx, c.addr, few); err != nil {
		return nil, err
	}
	if busy && c.ready(loaves[len(loaves)-1]) {
		return nil, fmt.Errorf("zstd:%s: the items were baked before all was asked", level)
	}
	return all, nil
}

// answersOfPeer is answersOf nginx, beside compressors that have the priority of
// bakes.
func (k *kitchen) answersOfPeer(ctx context.Context, level string, few, loaves []storepath.Path) (all series, err error) {
	dir, err := os.MkdirTemp(k.dir, "nginx")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, p := range few {
		if err := os.WriteFile(filepath.Join(dir, p.Hash+".narinfo"), make([]byte, 1300), 0o644); err != nil {
			return nil, err
		}
	}
	s, err := nginx(ctx, dir, dir)
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	ctx, cancel := context.WithCancel(ctx)
	var compressors errgroup.Group
	for i := range 2 {
		if level == "" {
			break
		}
		compressors.Go(func() error {
			for n := i; ctx.Err() == nil; n += 2 {
				to := filepath.Join(dir, fmt.Sprintf("%d.zst", i))
				err := exec.CommandContext(ctx, "chrt", "-i", "0", "zstd", "-q", "-f", "-T1", "-"+level, loaves[n%len(loaves)].String(), "-o", to).Run()
				if err != nil && ctx.Err() == nil {
					return err
				}
			}
			return nil
		})
	}
	all, err = askSteadily(ctx, s.addr, few)
	cancel()
	return all, errors.Join(err, compressors.Wait())
}

// askSteadily asks for narinfos at askRate and returns how many seconds each took, from
// when it was due if the one before was late.
func askSteadily(ctx context.Context, addr string, paths []storepath.Path) (series, error) {
	var took [askers]series
	var g errgroup.Group
	begin := time.Now()
	const every = askers * time.Second / askRate
	for n := range askers {
		g.Go(func() error {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			r := bufio.NewReader(conn)
			due := begin.Add(time.Duration(n) * every / askers)
			for i := n; due.Sub(begin) < asked && ctx.Err() == nil; i++ {
				from := due
				if wait := time.Until(due); wait > 0 {
					time.Sleep(wait)
					from = time.Now() // the client's own delay is not the server's
				}
				if _, err := fmt.Fprintf(conn, "GET /%s.narinfo HTTP/1.1\r\nHost: bench\r\n\r\n", paths[i%len(paths)].Hash); err != nil {
					return err
				}
				res, err := http.ReadResponse(r, nil)
				if err != nil {
					return err
				}
				if res.StatusCode != http.StatusOK {
					return fmt.Errorf("narinfo: %s", res.Status)
				}
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					return err
				}
				took[n] = append(took[n], time.Since(from).Seconds())
				due = due.Add(every)
			}
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(took[:]...), nil
}
