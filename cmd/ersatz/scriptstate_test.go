package main

import (
	"bytes"
	"context"
	"crypto/sha256"

	"github.com/rogpeppe/go-internal/testscript"

	"ersatz/internal/keep"
	"ersatz/nar"
	"ersatz/storepath"
)

// mkstate makes a file an item of a node's state folder, as if it had been
// fetched: mkstate STATE BASE FILE.
func mkstate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: mkstate STATE BASE FILE")
	}
	p, err := storepath.ParseBase("/gnu/store", args[1])
	ts.Check(err)
	var b bytes.Buffer
	_, err = nar.Dump(&b, ts.MkAbs(args[2]))
	ts.Check(err)
	s, err := keep.Open(ts.MkAbs(args[0]), keep.Options{})
	ts.Check(err)
	item := keep.Item{Path: p, NarHash: sha256.Sum256(b.Bytes()), NarSize: int64(b.Len()), Method: "none", Asked: true}
	about := keep.About{Item: item, FileSize: item.NarSize}
	part, err := s.Part(keep.NarID(about), about)
	ts.Check(err)
	_, err = part.Append(b.Bytes())
	ts.Check(err)
	part.Finish(item.NarSize)
	_, err = part.Commit(context.Background(), item, nil)
	ts.Check(err)
	ts.Check(part.Close())
	ts.Check(s.Close())
}

// holdstate has a state folder, as a node that runs, until the script ends.
func holdstate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: holdstate STATE")
	}
	s, err := keep.Open(ts.MkAbs(args[0]), keep.Options{})
	ts.Check(err)
	ts.Defer(func() { ts.Check(s.Close()) })
}
