package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes "ersatz" a command in the PATH of the tests: this test
// binary under another name, which runs main.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ersatz": main})
}

// TestScript runs testdata/script/*.txtar: one file, one story, with its
// fixtures inside.
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("ERSATZ_ACL", "") // not the machine's
			env.Setenv("ERSATZ_CONFIG", env.WorkDir+"/no-config")
			env.Setenv("XDG_STATE_HOME", env.WorkDir+"/state")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":   status,
			"sub":      sub,
			"mkstore":  mkstore,
			"freeport": freeport,
			"get":      get,
			"forget":   forget,
			"urn":      urn,
			"maxrss":   maxrss,
			"putstore": putstore,
			"waitfor":  waitfor,
			"process":  process,

			"mkstate":   mkstate,
			"holdstate": holdstate,
		},
	})
}
