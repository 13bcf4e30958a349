package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/pflag"
)

// TestReadme runs the session of the README in a shell.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	session := "set -eux\n"
	_, text, _ := strings.Cut(string(readme), "\n## A session\n")
	_, text, _ = strings.Cut(text, "\n```\n")
	text, _, _ = strings.Cut(text, "\n```\n")
	commands := 0
	for line := range strings.Lines(text + "\n") {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			session += command
			commands++
		}
	}
	if commands < 5 {
		t.Fatalf("%d commands in the session:\n%s", commands, text)
	}
	script := filepath.Join(t.TempDir(), "readme.txtar")
	story := "exec sh session\nstdout 'signed by .*, which is authorized'\n"
	if err := os.WriteFile(script, []byte(story), 0o600); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{Files: []string{script}, Setup: func(env *testscript.Env) error {
		for name, content := range map[string]string{
			"session":   session,
			"README.md": string(readme),
			"hello.txt": "StorePath: /gnu/store/khaaib6s836bk5kbik239hlk6n6ianc4-hello-2.11\n" +
				"NarHash: sha256:11pk3jsh4zk0gigyjk881ay1nnvjfgpd3xpb4rmbaljhbiis4jbm\nNarSize: 190480\nReferences: \n",
		} {
			if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(content), 0o600); err != nil {
				return err
			}
		}
		return nil
	}})
}

// TestReadmeCommands reads every command line of ersatz in the README as the
// program would, without running it.
func TestReadmeCommands(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var checked []string
	quoted := regexp.MustCompile(`'[^']*'`)
	command := regexp.MustCompile(`(?:^|\||\(|\$ )\s*(?:sudo )?ersatz( [^|)&>#]*)`)
	text := strings.ReplaceAll(string(readme), "\\\n", "") // lines that go on
	for k, block := range strings.Split(text, "\n```\n") {
		if k%2 == 0 {
			continue // between two blocks
		}
		for line := range strings.Lines(block) {
			line = quoted.ReplaceAllString(line, "quoted")
			for _, m := range command.FindAllStringSubmatch(strings.TrimSpace(line), -1) {
				name, err := readCommand(strings.Fields(m[1]))
				if err != nil {
					t.Errorf("%s: %v", strings.TrimSpace(line), err)
				}
				checked = append(checked, name)
			}
		}
	}
	for _, want := range []string{"encode", "decode", "verify", "node", "peers", "weather", "publish", "authorize", "demo", "doctor"} {
		if !slices.Contains(checked, want) {
			t.Errorf("no %s among the commands of the README: %v", want, checked)
		}
	}
}

// readCommand finds the command of the arguments and reads its flags. It returns
// the command's name.
func readCommand(args []string) (string, error) {
	a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }}
	cmd, rest, err := a.root().Find(args)
	if err != nil {
		return "", err
	}
	if err := cmd.ParseFlags(rest); err != nil && !errors.Is(err, pflag.ErrHelp) {
		return cmd.Name(), err
	}
	return cmd.Name(), cmd.ValidateArgs(cmd.Flags().Args())
}

// TestReadmeNodes starts the nodes of the README, with other files and addresses,
// and ends them at once: their flags must go together.
func TestReadmeNodes(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	acl := filepath.Join(dir, "acl")
	if err := os.WriteFile(acl, []byte("(acl)"), 0o600); err != nil {
		t.Fatal(err)
	}
	upstream := regexp.MustCompile(`https://\S+`)
	nodes := regexp.MustCompile(`(?m)^\$ (?:sudo )?ersatz (node [^&\n]*)`).FindAllStringSubmatch(string(readme), -1)
	if len(nodes) < 2 {
		t.Fatalf("%d nodes in the README", len(nodes))
	}
	for _, m := range nodes {
		line := strings.NewReplacer("/etc/guix/acl", acl, ":8181", ":0").Replace(m[1])
		port := 0
		line = upstream.ReplaceAllStringFunc(line, func(string) string {
			port++
			return fmt.Sprintf("http://127.0.0.1:%d", port) // where nobody answers
		})
		args := append(strings.Fields(line), "--state="+filepath.Join(dir, "state"), "--socket="+filepath.Join(dir, "socket"), "--discover=no")
		var stderr strings.Builder
		a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: &stderr, getenv: func(string) string { return "" }}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if code := a.main(ctx, args); code != exitOK {
			t.Errorf("%s: status %d\n%s", m[1], code, stderr.String())
		}
	}
}

// TestReadmeFigures wants each figure of ours and of Guix's in the README's tables
// to be one of those that were measured, rounded.
func TestReadmeFigures(t *testing.T) {
	number := regexp.MustCompile(`[0-9]+(?:,[0-9]{3})*(?:\.([0-9]+))?`)
	parse := func(s string) float64 {
		f, err := strconv.ParseFloat(strings.ReplaceAll(s, ",", ""), 64)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	var measured []float64
	for _, name := range []string{"benchmarks.md", "benchmarks-net.md"} {
		text, err := os.ReadFile("../../docs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range number.FindAllString(string(text), -1) {
			measured = append(measured, parse(s))
		}
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, figures, _ := strings.Cut(string(readme), "\n## Figures\n")
	figures, _, _ = strings.Cut(figures, "\n## ")
	seen := 0
	for line := range strings.Lines(figures) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 {
			continue
		}
		for _, m := range number.FindAllStringSubmatch(cells[2]+" "+cells[3], -1) {
			seen++
			want, half := parse(m[0]), 0.5000001*math.Pow10(-len(m[1]))
			if !slices.ContainsFunc(measured, func(f float64) bool { return math.Abs(f-want) <= half }) {
				t.Errorf("%s of %s was not measured", m[0], strings.TrimSpace(cells[1]))
			}
		}
	}
	if seen < 30 {
		t.Errorf("%d figures", seen)
	}
}

// TestReadmeLayers wants the picture in the README to show the packages of the
// table in docs/design.md, row by row. Of the last row only what runs is shown.
func TestReadmeLayers(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	design, err := os.ReadFile("../../docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(design), "\n## Layers\n")
	rows := regexp.MustCompile(`(?m)^\| [0-9] [a-z]+ \|(.*)\|$`).FindAllStringSubmatch(table, -1)
	_, picture, _ := strings.Cut(string(readme), "\n## How it is built\n\n```\n")
	picture, _, _ = strings.Cut(picture, "\n```\n")
	shown := regexp.MustCompile(`(?m)^ *─+$`).Split(picture, -1)
	if len(rows) != 6 || len(shown) != len(rows) {
		t.Fatalf("%d rows in the table, %d in the picture", len(rows), len(shown))
	}
	slices.Reverse(shown)
	name := regexp.MustCompile("`([^`]+)`")
	for k, row := range rows {
		var want, got []string
		for _, m := range name.FindAllStringSubmatch(row[1], -1) {
			want = append(want, strings.TrimPrefix(strings.TrimSuffix(m[1], "/..."), "internal/"))
		}
		for line := range strings.Lines(shown[k]) {
			// Behind three spaces stands what they are for.
			names, _, _ := strings.Cut(strings.TrimSpace(line), "   ")
			got = append(got, strings.Fields(names)...)
		}
		for _, p := range got {
			if !slices.Contains(want, p) {
				t.Errorf("row %d: %s is not in the table", k, p)
			}
		}
		for _, p := range want {
			if k < len(rows)-1 && !slices.Contains(got, p) {
				t.Errorf("row %d: %s is not in the picture", k, p)
			}
		}
	}
}
