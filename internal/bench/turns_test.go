package bench

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestTurns: each side once for nothing, then all of them in turns.
func TestTurns(t *testing.T) {
	var order strings.Builder
	named := func(name string, rate float64) *side {
		return &side{name: name, once: func(context.Context) (usage, error) {
			order.WriteString(name)
			return usage{wall: time.Duration(order.Len()) * time.Second, cpu: 2 * time.Second, rate: rate}, nil
		}}
	}
	a, b := named("a", 5), named("b", 7)
	o := Options{Runs: 2, Log: slog.New(slog.DiscardHandler)}
	if err := turns(t.Context(), o, a, b); err != nil {
		t.Fatal(err)
	}
	if order.String() != "ababab" || len(a.wall) != 2 || a.wall[0] != 3 || b.wall[1] != 6 || b.rate[0] != 7 {
		t.Errorf("%s, %+v, %+v", &order, a, b)
	}
	if s := a.perSecond(30); s[0] != 10 || a.perCPUSecond(30)[1] != 15 {
		t.Errorf("%v", s)
	}
	broken := errors.New("broken")
	bad := &side{name: "bad", once: func(context.Context) (usage, error) { return usage{}, broken }}
	if err := turns(t.Context(), o, a, bad); !errors.Is(err, broken) || !strings.Contains(err.Error(), "bad") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := turns(ctx, o, a); !errors.Is(err, context.Canceled) {
		t.Errorf("nothing stops it: %v", err)
	}
}

// TestUsage: the work of this process and that of others is told apart.
func TestUsage(t *testing.T) {
	u, err := inProcess(func() error { randomBytes(64*mib, 1); return nil })
	if err != nil || u.cpu <= 0 || u.wall <= 0 || u.cpu > time.Minute {
		t.Errorf("%+v, %v", u, err)
	}
	broken := errors.New("broken")
	if _, err := inProcess(func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	u, err = wholeProcess(exec.Command(os.Args[0], "-test.run", "^TestMedian$"))
	if err != nil || u.cpu <= 0 || u.wall <= 0 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := wholeProcess(exec.Command("false")); err == nil {
		t.Error("a program that fails has a time")
	}
}

// TestAbsent: what is not here is told once, with its package.
func TestAbsent(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	o := Options{absent: new(absent)}
	for _, name := range []string{"nginx", "nginx", "other"} {
		if o.have(name) {
			t.Errorf("%s in an empty folder", name)
		}
	}
	const want = "Left out: what needs nginx (Debian package nginx-light); what needs other (Debian package other)."
	if got := o.absent.String(); got != want {
		t.Errorf("%q", got)
	}
	if (Options{}).have("nginx") || (Options{}).absent.String() != "" {
		t.Error("a note without a place for it")
	}
	if got := peerVersions(); len(got) != 0 {
		t.Errorf("versions of nothing: %q", got)
	}
}
