package demo

import (
	"io"
	"net"
	"strings"
	"testing"
)

// TestCable sends what a cable lets through, before and after it is cut.
func TestCable(t *testing.T) {
	c, err := plug()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	connect := func() (near, far net.Conn) {
		far, err := net.Dial("tcp", strings.TrimPrefix(c.url(), "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { far.Close() })
		if near, err = c.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { near.Close() })
		return near, far
	}
	near, far := connect()
	idle, idleFar := connect()
	c.cut(5)
	if _, err := io.WriteString(near, "12345"); err != nil || c.isCut() {
		t.Errorf("within its length: %v", err)
	}
	if _, err := io.WriteString(near, "6"); err == nil || !c.isCut() {
		t.Errorf("beyond it: %v", err)
	}
	if got, err := io.ReadAll(far); string(got) != "12345" {
		t.Errorf("%q, %v arrived", got, err)
	}
	if got, err := io.ReadAll(idleFar); len(got) != 0 {
		t.Errorf("%q, %v of a connection that was idle", got, err)
	}
	if _, err := idle.Write([]byte("x")); err == nil {
		t.Error("the other connection is not cut")
	}
	late, lateFar := connect()
	if _, err := late.Write([]byte("x")); err == nil {
		t.Error("a connection was made through a cable that is cut")
	}
	if got, err := io.ReadAll(lateFar); len(got) != 0 {
		t.Errorf("%q, %v of a late connection", got, err)
	}
}

// TestCutAtOnce: a cable that is cut at once lets nothing through.
func TestCutAtOnce(t *testing.T) {
	c, err := plug()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.isCut() {
		t.Error("a new cable is cut")
	}
	c.cut(0)
	if !c.isCut() || c.use(1) == nil {
		t.Error("it is not cut")
	}
}
