package man_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"ersatz/internal/man"
)

// tree is a command with all that a page can have.
func tree() *cobra.Command {
	root := &cobra.Command{Use: "ersatz", Short: "Substitutes", Run: func(*cobra.Command, []string) {}}
	root.PersistentFlags().String("log-level", "info", "least `LEVEL` that is logged")
	sub := &cobra.Command{
		Use: "keep [--all] DIR", Short: "Keep what is in a folder",
		Long: `Keep all, with --all; see /var/cache/x-y and well-kept \n things.

.dotted and
'quoted lines. A table:
  1  as-is
  2  .too
and on.`,
		Example: "  ersatz keep --all .\n  'x' | ersatz keep /a-b",
		Run:     func(*cobra.Command, []string) {},
	}
	sub.Flags().BoolP("all", "a", false, "keep `all`")
	sub.Flags().StringArray("listen", []string{"127.0.0.1:8181"}, "`HOST:PORT` to serve on")
	sub.Flags().String("quota", "10GiB", "keep at most `SIZE`")
	sub.Flags().Int("secret", 0, "hidden")
	if err := sub.Flags().MarkHidden("secret"); err != nil {
		panic(err)
	}
	hidden := &cobra.Command{Use: "man", Hidden: true, Run: func(*cobra.Command, []string) {}}
	deep := &cobra.Command{Use: "deep", Short: "Go on", Run: func(*cobra.Command, []string) {}}
	sub.AddCommand(deep)
	root.AddCommand(sub, hidden)
	return root
}

func TestCommands(t *testing.T) {
	var names []string
	for _, c := range man.Commands(tree()) {
		names = append(names, man.Name(c))
	}
	if got := strings.Join(names, " "); got != "ersatz ersatz-keep ersatz-keep-deep" {
		t.Error(got)
	}
}

func write(t *testing.T, cmd *cobra.Command) string {
	t.Helper()
	var b strings.Builder
	if err := man.Write(&b, cmd, man.Options{Date: "2026-01-02", Version: "1.0"}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestWrite(t *testing.T) {
	want := `.TH "ERSATZ\-KEEP" "1" "2026-01-02" "ersatz 1.0" ""
.nh
.ad l
.SH "NAME"
ersatz\-keep \- Keep what is in a folder
.SH "SYNOPSIS"
.B ersatz keep [\-\-all] DIR [flags]
.SH "DESCRIPTION"
Keep all, with \-\-all; see /var/cache/x\-y and well-kept \en things.
.PP
\&.dotted and
\&'quoted lines. A table:
.nf
  1  as\-is
  2  .too
.fi
and on.
.SH "COMMANDS"
.TP
.B deep
Go on
.SH "OPTIONS"
.TP
\fB\-a\fR, \fB\-\-all\fR=\fIall\fR
Keep all.
.TP
\fB\-\-listen\fR=\fIHOST:PORT\fR
HOST:PORT to serve on (default 127.0.0.1:8181).
.TP
\fB\-\-quota\fR=\fISIZE\fR
Keep at most SIZE (default 10GiB).
.SH "OPTIONS OF ALL COMMANDS"
.TP
\fB\-\-log\-level\fR=\fILEVEL\fR
Least LEVEL that is logged (default info).
.SH "EXAMPLES"
.nf
ersatz keep \-\-all .
\&'x' | ersatz keep /a\-b
.fi
.SH "SEE ALSO"
.BR ersatz (1),
.BR ersatz\-keep\-deep (1)
`
	got := write(t, tree().Commands()[0])
	if got != want {
		t.Errorf("%s", got)
	}
}

func TestWriteHelp(t *testing.T) {
	var b strings.Builder
	err := man.WriteHelp(&b, "x-y", "Do it", "Usage: x-y --go\n\nGo on with --go.\n\nOr not.\n", man.Options{})
	want := `.TH "X\-Y" "8" "" "ersatz" ""
.nh
.ad l
.SH "NAME"
x\-y \- Do it
.SH "SYNOPSIS"
.B x\-y \-\-go
.SH "DESCRIPTION"
Go on with \-\-go.
.PP
Or not.
`
	if err != nil || b.String() != want {
		t.Errorf("%v\n%s", err, b.String())
	}
	for _, help := range []string{"", "Do it\n\nUsage: x\n", "Usage: x", "Usage: x\n y\n\nz"} {
		if err := man.WriteHelp(&b, "x", "", help, man.Options{}); err == nil {
			t.Errorf("%q was taken", help)
		}
	}
}

type full struct{}

var errFull = errors.New("full")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestErrors(t *testing.T) {
	if err := man.Write(full{}, tree(), man.Options{}); !errors.Is(err, errFull) {
		t.Error(err)
	}
	if err := man.WriteHelp(full{}, "x", "", "Usage: x\n\ny", man.Options{}); !errors.Is(err, errFull) {
		t.Error(err)
	}
}

// TestRendered has the programs that people read pages with take them.
func TestRendered(t *testing.T) {
	dir := t.TempDir()
	for _, c := range man.Commands(tree()) {
		name := filepath.Join(dir, man.Name(c)+".1")
		if err := os.WriteFile(name, []byte(write(t, c)), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, command := range [][]string{
			{"groff", "-Kutf8", "-man", "-Tutf8", "-ww", "-z", name},
			{"mandoc", "-Tlint", "-Wwarning", name},
		} {
			if _, err := exec.LookPath(command[0]); err != nil {
				t.Logf("SKIPPED: %v", err)
				continue
			}
			if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v: %v\n%s", command, err, out)
			}
		}
	}
}
