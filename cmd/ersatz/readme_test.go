package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestReadme runs the session of the README in a shell.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	session := "set -eux\n"
	_, text, _ := strings.Cut(string(readme), "\n## A session\n\n```\n")
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
