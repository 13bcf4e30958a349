package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestCommandsExplainThemselves walks all commands: each has examples that
// name it, and none takes more arguments than it understands.
func TestCommandsExplainThemselves(t *testing.T) {
	commands := 0
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			walk(c)
		}
		if !cmd.HasParent() || cmd.Name() == "help" || cmd.Name() == "completion" || cmd.Parent().Name() == "completion" {
			return // cobra's own
		}
		commands++
		if !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("%s: no example names it", cmd.CommandPath())
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short description %q", cmd.CommandPath(), cmd.Short)
		}
		if cmd.Args == nil {
			t.Errorf("%s: takes any arguments", cmd.CommandPath())
		}
	}
	root := (&app{getenv: func(string) string { return "" }}).root()
	walk(root)
	if commands < 8 {
		t.Errorf("%d commands", commands)
	}
}

// TestExitCodes compares the constants of exit.go, docs/exit-codes.md, and what
// --help says.
func TestExitCodes(t *testing.T) {
	code, err := os.ReadFile("exit.go")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "exit-codes.md"))
	if err != nil {
		t.Fatal(err)
	}
	constants, table := map[string]string{}, map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\texit([A-Z][A-Za-z]+) += ([0-9]+)`).FindAllStringSubmatch(string(code), -1) {
		constants[m[2]] = strings.ToLower(m[1])
	}
	for _, m := range regexp.MustCompile(`(?m)^\| ([0-9]+) \| ([a-z]+) \|`).FindAllStringSubmatch(string(doc), -1) {
		table[m[1]] = m[2]
	}
	if len(constants) < 9 || !maps.Equal(constants, table) {
		t.Errorf("exit.go has %v, docs/exit-codes.md %v", constants, table)
	}
	help := (&app{getenv: os.Getenv}).root().Long
	for n := range constants {
		if !regexp.MustCompile(`\b` + n + ` [a-z]`).MatchString(help) {
			t.Errorf("the help of ersatz does not have %s", n)
		}
	}
}
