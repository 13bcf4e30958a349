package weather

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseList(t *testing.T) {
	one, two := path(1).String(), path(2).String()
	paths, err := ParseList("# mine\n\n  " + one + "\r\n" + two)
	if err != nil || len(paths) != 2 || paths[0] != path(1) || paths[1] != path(2) {
		t.Errorf("%v, %v", paths, err)
	}
	for _, text := range []string{"hello\n", one + "/bin\n", "\n" + one + " " + two + "\n"} {
		if _, err := ParseList(text); !errors.Is(err, ErrList) || !strings.Contains(err.Error(), "line ") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := ParseList(strings.Repeat(one+"\n", MaxItems+1)); !errors.Is(err, ErrTooMany) {
		t.Errorf("too many: %v", err)
	}
}

func FuzzParseList(f *testing.F) {
	for _, text := range []string{"", "#\n", path(1).String(), path(1).String() + "\n" + path(2).String() + "\n", "/gnu/store/x\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		paths, err := ParseList(text)
		if err != nil {
			if !errors.Is(err, ErrList) && !errors.Is(err, ErrTooMany) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		var printed strings.Builder
		for _, p := range paths {
			fmt.Fprintln(&printed, p)
		}
		again, err := ParseList(printed.String())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(paths) {
			t.Fatalf("%q is read again as %v, %v", printed.String(), again, err)
		}
	})
}

// TestManifest: what guix prints is read, what it says is passed on, and
// nothing stays behind. The real guix is asked by package realguix.
func TestManifest(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	guix := filepath.Join(t.TempDir(), "guix")
	script := func(text string) {
		must(t, os.WriteFile(guix, []byte("#!/bin/sh\n"+text), 0o755))
	}
	var messages strings.Builder
	script(`echo computing >&2; [ "$1 $2 $4" = "repl -- m.scm" ] && grep -q manifest "$3" && echo ` + path(1).String())
	paths, err := Manifest(t.Context(), guix, "m.scm", &messages)
	if err != nil || len(paths) != 1 || paths[0] != path(1) || messages.String() != "computing\n" {
		t.Errorf("%v, %v, %q", paths, err, messages.String())
	}
	for text, want := range map[string]string{
		"exit 1\n":                "exit status 1",
		"echo hello\n":            "line 1",
		"yes /gnu/store | cat\n":  "", // for ever, but for a bound
		"echo " + dir + "/none\n": "not a list",
	} {
		script(text)
		if paths, err := Manifest(t.Context(), guix, "m.scm", &messages); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", text, paths, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v stays, %v", left, err)
	}
	if _, err := Manifest(t.Context(), filepath.Join(dir, "none"), "m.scm", &messages); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no guix: %v", err)
	}
}
