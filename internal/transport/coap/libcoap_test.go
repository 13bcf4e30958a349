package coap_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ersatz/eris"
	"ersatz/internal/block/blocktest"
	"ersatz/internal/block/memstore"
	"ersatz/internal/transport/coap"
)

// The programs of libcoap, as Debian's libcoap3-bin has them.
const (
	clientProgram = "coap-client-openssl"
	serverProgram = "coap-server-openssl"
)

func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("no %s (Debian package libcoap3-bin)", name)
	}
	return path
}

// run runs libcoap's client and returns what it prints: errors, and the code of
// an answer that is one.
func run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	args = append([]string{"-B", "20", "-u", key.Identity, "-k", string(key.Secret)}, args...)
	out, err := exec.CommandContext(ctx, program(t, clientProgram), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", clientProgram, err, out)
	}
	return string(out)
}

// TestLibcoapClient has libcoap's client put and get blocks, and ask for what it
// may not.
func TestLibcoapClient(t *testing.T) {
	program(t, clientProgram)
	for _, scheme := range schemes {
		t.Run(scheme, func(t *testing.T) {
			s := memstore.New()
			host, _ := listen(t, scheme, "127.0.0.1:0", coap.ServerOptions{},
				coap.Resource{Path: coap.WellKnown, Blocks: s}, coap.Resource{Path: "/capability", Blocks: s, Sink: s})
			well, secret := scheme+"://"+host+coap.WellKnown+"/blocks", scheme+"://"+host+"/capability/blocks"
			for i, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB} {
				ref, b := blocktest.Make(size, uint64(i))
				in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
				if err := os.WriteFile(in, b, 0o600); err != nil {
					t.Fatal(err)
				}
				if got := run(t, "-m", "put", "-f", in, well); !strings.Contains(got, "4.05") {
					t.Errorf("put to a store that may only be read: %q", got)
				}
				if s.Len() != i {
					t.Fatalf("%d blocks", s.Len())
				}
				if got := run(t, "-m", "put", "-f", in, secret); strings.TrimSpace(got) != "" {
					t.Errorf("put: %q", got)
				}
				if got, err := s.Get(t.Context(), ref); err != nil || !bytes.Equal(got, b) {
					t.Fatalf("after put: %d bytes, %v", len(got), err)
				}
				for _, args := range [][]string{
					{"-O", "15,0x" + hex.EncodeToString(ref[:]), "-O", fmt.Sprintf("60,0x%04x", int(size)), "-o", out, well},
					{"-o", out, well + "?" + ref.String()},
					{"-b", "256", "-o", out, well + "?" + ref.String()},
					{"-N", "-o", out, well + "?" + ref.String()},
				} {
					os.Remove(out)
					msg := run(t, args...)
					if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, b) {
						t.Errorf("get %v: %d bytes, %v, %q", args, len(got), err, msg)
					}
				}
			}
			missing := eris.Ref{1}.String()
			for _, c := range []struct {
				want string
				args []string
			}{
				{"4.04", []string{well + "?" + missing}},
				{"4.04", []string{scheme + "://" + host + "/elsewhere?" + missing}},
				{"4.00", []string{well}},
				{"4.00", []string{well + "?" + strings.ToLower(missing)}},
				{"4.00", []string{"-O", "60,0x0800", well + "?" + missing}},
				{"4.05", []string{"-m", "post", "-e", "x", well}},
				{"4.05", []string{"-m", "delete", secret}},
				{"4.00", []string{"-m", "put", "-e", "no block", secret}},
				{"4.06", []string{"-A", "60", well + "?" + missing}},
				{"4.02", []string{"-O", "9,0x01", well + "?" + missing}}, // OSCORE
			} {
				if got := run(t, c.args...); !strings.Contains(got, c.want) {
					t.Errorf("%v: %q, want %s", c.args, got, c.want)
				}
			}
		})
	}
}

// TestLibcoapServer puts blocks to libcoap's server and gets them from there. It
// knows nothing of ERIS: it keeps, under a path, what was put there last.
func TestLibcoapServer(t *testing.T) {
	for _, scheme := range schemes {
		t.Run(scheme, func(t *testing.T) {
			c := dial(t, scheme+"://"+libcoap(t, scheme)+"/store?get&put", coap.Options{Idle: 10 * time.Second})
			for i, size := range []eris.BlockSize{eris.Size1KiB, eris.Size32KiB, eris.Size1KiB} {
				ref, b := blocktest.Make(size, uint64(i))
				if err := c.Put(t.Context(), ref, b); err != nil {
					t.Fatal(err)
				}
				if got, err := fetch(t.Context(), c, size, []eris.Ref{ref}); err != nil || len(got) != 1 {
					t.Errorf("get: %d blocks, %v", len(got), err)
				}
				if _, err := fetch(t.Context(), c, size, []eris.Ref{{1}}); !errors.Is(err, eris.ErrCorrupt) {
					t.Errorf("get of another: %v", err)
				}
			}
			empty := dial(t, c.String()+"/nothing", coap.Options{})
			if got, err := fetch(t.Context(), empty, eris.Size1KiB, []eris.Ref{{1}}); err != nil || len(got) != 0 {
				t.Errorf("get where nothing is: %d blocks, %v", len(got), err)
			}
		})
	}
}

// libcoap runs the server until the test ends, and returns its address.
func libcoap(t *testing.T, scheme string) string {
	t.Helper()
	path := program(t, serverProgram)
	// Two ports in a row: the second is for DTLS. Somebody may take them
	// before the server does.
	for range 5 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		cmd := exec.Command(path, "-A", "127.0.0.1", "-p", fmt.Sprint(port), "-d", "10", "-k", string(key.Secret), "-v", "3")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { cmd.Wait(); close(ended) }()
		stop := func() { cmd.Process.Kill(); <-ended }
		if ready(t, fmt.Sprintf("127.0.0.1:%d", port)) {
			t.Cleanup(stop)
			if scheme == coap.SchemeDTLS {
				port++
			}
			return fmt.Sprintf("127.0.0.1:%d", port)
		}
		stop()
		t.Logf("%s: %s", serverProgram, out.Bytes())
	}
	t.Fatalf("%s does not start", serverProgram)
	return ""
}

// ready asks a server by UDP until it answers, for some seconds.
func ready(t *testing.T, address string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		c, err := coap.New("coap://"+address, coap.Options{Idle: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		_, err = fetch(ctx, c, eris.Size1KiB, []eris.Ref{{1}})
		c.Close()
		if err == nil {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tick.Stop()
			return false
		}
	}
}
