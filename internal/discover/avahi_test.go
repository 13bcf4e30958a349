package discover

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ersatz/internal/bench/netlab"
)

// limit bounds a test with real programs.
const limit = time.Minute

// inside is the network of a netlab host, for the code of this process.
type inside struct{ netns string }

// do calls f in a thread that is in the namespace; sockets stay there. The
// thread goes home: one that ended would take along the programs that it has
// started.
func (n inside) do(f func() error) error {
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := n.visit(f)
		if !errors.Is(err, errAway) {
			runtime.UnlockOSThread()
		}
		errs <- err
	}()
	return <-errs
}

var errAway = errors.New("no way back")

func (n inside) visit(f func() error) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	ns, err := os.Open(n.netns)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, errAway, back)
	}
	return err
}

func (n inside) links(names []string) (links []link, own []netip.Addr, err error) {
	err = n.do(func() (err error) {
		links, own, err = system{}.links(names)
		return err
	})
	return links, own, err
}

func (n inside) open(l link, ip6 bool) (c conn, err error) {
	err = n.do(func() (err error) {
		c, err = system{}.open(l, ip6)
		return err
	})
	return c, err
}

// site is two hosts with an avahi-daemon each, or a skipped test.
type site struct {
	t    *testing.T
	ctx  context.Context
	a, b *avahiHost
}

type avahiHost struct {
	*netlab.Host
	pid string // of a process with the daemon's /run
}

func newSite(t *testing.T) *site {
	t.Helper()
	return newSiteWith(t, nil)
}

// newSiteWith makes the hosts; the bus of the first also listens at the socket
// that a function returns, if any, once there is a network.
func newSiteWith(t *testing.T, socket func(a *netlab.Host) string) *site {
	t.Helper()
	if err := netlab.Missing(); err != nil {
		t.Skip(err)
	}
	for _, p := range append([]string{"avahi-browse", "avahi-publish"}, netlab.AvahiPrograms()...) {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	lab, err := netlab.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &site{t: t, ctx: ctx}
	s.a, s.b = s.host(lab, "alpha", socket), s.host(lab, "beta", nil)
	return s
}

// host adds a host and waits for its daemon.
func (s *site) host(lab *netlab.Lab, name string, socket func(*netlab.Host) string) *avahiHost {
	s.t.Helper()
	h, err := lab.Host(s.ctx, name, netlab.Link{})
	if err != nil {
		s.t.Fatal(err)
	}
	extra := ""
	if socket != nil {
		extra = socket(h)
	}
	lines, pid := s.start(h.Avahi(s.ctx, extra))
	s.await(lines, netlab.AvahiReady)
	return &avahiHost{h, strconv.Itoa(pid)}
}

// start starts a program and returns what it prints. It ends with the test.
func (s *site) start(cmd *exec.Cmd) (lines <-chan string, pid int) {
	s.t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stderr = s.t.Output()
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ch := make(chan string, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(ch)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			select {
			case ch <- scan.Text():
			default:
			}
		}
	}()
	s.t.Cleanup(func() {
		_ = cmd.Cancel() // it may have ended
		<-done
		_ = cmd.Wait() // it was killed
	})
	return ch, cmd.Process.Pid
}

// await waits for a line with the text.
func (s *site) await(lines <-chan string, text string) {
	s.t.Helper()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				s.t.Fatalf("ended without %q", text)
			}
			s.t.Log(line)
			if strings.Contains(line, text) {
				return
			}
		case <-s.ctx.Done():
			s.t.Fatalf("waited in vain for %q", text)
		}
	}
}

// command runs a program that talks to the host's avahi-daemon.
func (s *site) command(h *avahiHost, name string, args ...string) *exec.Cmd {
	return h.Command(s.ctx, "nsenter", append([]string{"-t", h.pid, "-m", "--", name}, args...)...)
}

// browse starts an avahi-browse that goes on and prints what comes and goes.
func (s *site) browse(h *avahiHost, kind Kind) <-chan string {
	lines, _ := s.start(s.command(h, "avahi-browse", "-rpk", strings.Join(kind.service(), ".")))
	return lines
}

// announce runs Announce in a host until stop is called.
func (s *site) announce(h *avahiHost, service Service) (stop func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan error, 1)
	go func() { done <- announce(ctx, inside{h.Netns()}, service, Options{}) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(stop)
	return stop
}

// browser runs a Browser in a host.
func (s *site) browser(h *avahiHost, o Options) *Browser {
	b := New(o)
	b.net = inside{h.Netns()}
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	return b
}

// list waits until the browser lists exactly these, each "KIND NAME URL".
func (s *site) list(b *Browser, want ...string) {
	s.t.Helper()
	for {
		got := []string{}
		for _, p := range b.Peers() {
			got = append(got, fmt.Sprintf("%s %s %s", p.Kind, p.Name, p.URL))
		}
		if slices.Equal(got, want) || len(got)+len(want) == 0 {
			return
		}
		select {
		case <-b.Changes():
		case <-s.ctx.Done():
			s.t.Fatalf("lists %q, not %q", got, want)
		}
	}
}

func TestSeenByAvahi(t *testing.T) {
	s := newSite(t)
	at := netip.MustParseAddrPort("[::]:8080")
	stopPublish := s.announce(s.a, Service{Kind: Publish, Instance: InstanceOf("alpha.example.org"), Listen: at})
	stopNode := s.announce(s.a, Service{Kind: Node, Instance: "ersatz-n", Listen: at, Text: []string{"path=/guix"}})
	for _, h := range []*avahiHost{s.a, s.b} { // of the same machine, and of another
		lines := s.browse(h, Publish)
		s.await(lines, `=;eth0;IPv4;guix-publish-alpha\.example\.org;_guix_publish._tcp;local;ersatz-`)
	}
	publish, node := s.browse(s.b, Publish), s.browse(s.b, Node)
	s.await(publish, fmt.Sprintf(`;%s;8080;`, s.a.Addr()))
	s.await(node, `;8080;"path=/guix" "v=1"`)
	stopPublish()
	s.await(publish, `-;eth0;IPv4;guix-publish-alpha`)
	stopNode()
	s.await(node, `-;eth0;IPv4;ersatz-n`)
	out, err := s.command(s.b, "avahi-browse", "-pat").CombinedOutput()
	if err != nil || strings.Contains(string(out), "ersatz") || strings.Contains(string(out), "guix") {
		t.Errorf("after the goodbye: %v\n%s", err, out)
	}
}

// publish announces a service by avahi-publish until stop is called.
func (s *site) publish(h *avahiHost, args ...string) (stop func()) {
	s.t.Helper()
	cmd := s.command(h, "avahi-publish", append([]string{"-s"}, args...)...)
	stderr := filepath.Join(s.t.TempDir(), "stderr")
	f, err := os.Create(stderr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	cmd.Stderr = f
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Cancel() // it may have ended
		_ = cmd.Wait()   // it was killed
	})
	s.t.Cleanup(stop)
	return stop
}

func TestSeesAvahi(t *testing.T) {
	s := newSite(t)
	early := s.browser(s.a, Options{})
	s.list(early)
	stop := s.publish(s.b, "guix-publish-beta.example.org", "_guix_publish._tcp", "8081")
	stopNode := s.publish(s.b, "Ersatz of beta", "_ersatz._tcp", "8181", "v=1", "path=/x")
	s.publish(s.b, "another version", "_ersatz._tcp", "8182", "v=9")
	s.publish(s.a, "of the same machine", "_guix_publish._tcp", "8083")
	node := fmt.Sprintf("node Ersatz of beta http://%s:8181/x", s.b.Addr())
	publish := fmt.Sprintf("publish guix-publish-beta.example.org http://%s:8081", s.b.Addr())
	s.list(early, node, publish)
	late := s.browser(s.a, Options{Interfaces: []string{"eth0"}})
	s.list(late, node, publish)
	stop()
	s.list(early, node)
	stopNode()
	s.list(early)
	s.list(late)
}

// TestNameOfAvahi wants another name where avahi-daemon has given ours to
// somebody, on the same machine or another.
func TestNameOfAvahi(t *testing.T) {
	s := newSite(t)
	s.publish(s.a, "guix-publish-x", "_guix_publish._tcp", "8081")
	lines := s.browse(s.b, Publish)
	s.await(lines, ";guix-publish-x;")
	s.announce(s.a, Service{Kind: Publish, Instance: "guix-publish-x", Listen: netip.MustParseAddrPort("[::]:8080")})
	s.await(lines, `=;eth0;IPv4;guix-publish-x\032\0402\041;`)
}

// TestSystemNetwork wants this machine's own interfaces to be looked at
// without harm, whatever they are.
func TestSystemNetwork(t *testing.T) {
	links, own, err := system{}.links(nil)
	if err != nil || len(own) == 0 {
		t.Fatal(own, err)
	}
	for _, l := range links {
		if l.Index == 0 || l.Name == "lo" || len(l.Prefixes) == 0 {
			t.Errorf("%+v", l)
		}
	}
	if some, _, err := (system{}).links([]string{"no such interface"}); err != nil || len(some) > 0 {
		t.Errorf("%v, %v", some, err)
	}
}
