package bench

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"ersatz/internal/bench/netlab"
	"ersatz/internal/realguix"
)

// severalLine is a line to the origin, and how much is fetched over it.
type severalLine struct {
	what  string
	link  netlab.Link
	items int
	size  int64 // of each, bytes
}

// severalJobs are the numbers of substituters that a guix-daemon may run.
var severalJobs = []int{1, 4}

// severalScript asks about items and then for them, as guix build does: what is
// asked about comes in one request.
const severalScript = `(use-modules (guix store))
(define items '(%s))
(with-store store
  (set-build-options store #:max-build-jobs %d)
  (substitutable-path-info store items)
  (build-things store items))
`

// severalGroup has a guix-daemon want several items that do not refer to each
// other. It runs one substituter, or one for each job that its client allows.
func severalGroup(ctx context.Context, o Options) ([]Table, error) {
	if err := netlab.Missing(); err != nil {
		o.absent.note(fmt.Sprintf("what needs network namespaces (%v)", err))
		return nil, nil
	}
	lines := []severalLine{
		{"fast line", netlab.Link{}, 8, 12_000_000},
		{"100 Mbit/s, 40 ms", netlab.Link{Rate: 100 * netlab.Mbit, Delay: 20 * time.Millisecond}, 8, 12_000_000},
		{"100 Mbit/s, 40 ms, small", netlab.Link{Rate: 100 * netlab.Mbit, Delay: 20 * time.Millisecond}, 24, 300_000},
	}
	runs, jobs := min(o.Runs, 3), severalJobs
	if o.Quick {
		lines, runs, jobs = lines[:1], 1, jobs[1:]
		lines[0].items, lines[0].size = 4, 2_000_000
	}
	t := Table{
		Title: "Several items at once",
		Note: fmt.Sprintf("A client asks about items that do not refer to each other, and then for all of them, with at most %d or %d jobs: guix-daemon runs as many substituters. "+
			"The items have many files; the origin is ersatz publish, with zstd:3. Wall is that of the client, its start among it; CPU is that of guix-daemon, its substituters and the node. Medians of %d.",
			severalJobs[0], severalJobs[1], runs),
		Head: []string{"what", stockWay().name, aloneWay().name, "ahead", nodeWay().name, "ahead"},
	}
	for _, line := range lines {
		n, err := newNetwork(ctx, NetOptions{Root: o.Root, Ersatz: o.Ersatz, Wrapper: o.Wrapper, Log: o.Log})
		if err != nil {
			return nil, err
		}
		if err := closing(n.several(ctx, &t, line, jobs, runs), n.close); err != nil {
			return nil, fmt.Errorf("%s: %w", line.what, err)
		}
	}
	return []Table{t}, nil
}

// several measures a line, and adds its rows.
func (n *network) several(ctx context.Context, t *Table, line severalLine, jobs []int, runs int) error {
	from, items, err := n.origin(ctx, line.link, func(s *shelf) (items []item, err error) {
		for k := range line.items {
			i, err := s.add(ctx, fmt.Sprintf("item-%02d", k), nil, func(path string) error {
				return realguix.MakePackage(path, uint64(k), int(max(line.size/20_000, 10)), line.size)
			})
			if err != nil {
				return nil, err
			}
			items = append(items, i)
		}
		return items, nil
	})
	if err != nil {
		return err
	}
	client, err := n.host(ctx, "client", netlab.Link{})
	if err != nil {
		return err
	}
	ways := []way{stockWay(), aloneWay(), nodeWay()}
	for _, most := range jobs {
		figures := make([]usages, len(ways))
		for range runs {
			for k, by := range ways {
				u, err := n.atOnce(ctx, client, by, from, items, most)
				if err != nil {
					return err
				}
				figures[k].add(u)
			}
		}
		what := fmt.Sprintf("%s: %d × %s MB, %d at once", line.what, line.items, number(float64(line.size)/1e6), most)
		wall, cpu := []string{what + ": wall"}, []string{what + ": CPU"}
		for k, f := range figures {
			wall, cpu = append(wall, seconds.cell(f.wall)), append(cpu, seconds.cell(f.cpu))
			if k > 0 {
				wall = append(wall, seconds.ahead(f.wall, figures[0].wall))
				cpu = append(cpu, seconds.ahead(f.cpu, figures[0].cpu))
			}
		}
		t.Rows = append(t.Rows, wall, cpu)
	}
	return nil
}

// atOnce has a host get items in some way by one guix build, in as many jobs.
func (n *network) atOnce(ctx context.Context, h *netHost, by way, from *origin, items []item, jobs int) (usage, error) {
	s, err := n.station(ctx, h, by, from)
	if err != nil {
		return usage{}, err
	}
	defer s.stop()
	before, err := s.used(ctx)
	if err != nil {
		return usage{}, err
	}
	var paths strings.Builder
	for _, i := range items {
		fmt.Fprintf(&paths, "%q ", i.Path)
	}
	const script = "/root/several.scm"
	if err := s.machine.WriteFile(script, fmt.Appendf(nil, severalScript, &paths, jobs), 0o644); err != nil {
		return usage{}, err
	}
	begin := time.Now()
	out, err := s.machine.Run(ctx, "guix", "repl", script)
	u := usage{wall: time.Since(begin)}
	if err == nil {
		err = wentAside(out)
	}
	if err == nil {
		err = s.wantInstalled(items)
	}
	if err != nil {
		return u, s.failed(err)
	}
	after, err := s.used(ctx)
	u.cpu = after - before
	return u, err
}

// used returns the processor time of the station's guix-daemon, of all that
// it has run, and of the node. It waits until the daemon has nobody to serve.
func (s *station) used(ctx context.Context) (time.Duration, error) {
	var sum time.Duration
	err := until(ctx, nil, func() (bool, error) {
		pids, err := s.machine.Processes("guix-daemon")
		if err != nil || len(pids) != 1 {
			return false, err
		}
		proc := s.machine.Path(fmt.Sprintf("/proc/%d/", pids[0]))
		children, err := os.ReadFile(fmt.Sprintf("%stask/%d/children", proc, pids[0]))
		if err != nil || len(children) > 0 {
			return false, err
		}
		sum, err = cpuAt(proc + "stat")
		return err == nil, err
	})
	if err != nil || s.node == nil {
		return sum, err
	}
	used, err := cpu(s.node.pid)
	return sum + used, err
}

// wentAside returns an error if what guix build has printed shows that
// substitutes came otherwise than they should.
func wentAside(out string) error {
	for _, aside := range []string{"the real guix substitutes", "node does not give a substitute"} {
		if strings.Contains(out, aside) {
			return fmt.Errorf("it went another way:\n%s", lastLines(out))
		}
	}
	return nil
}
