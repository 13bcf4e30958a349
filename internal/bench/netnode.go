package bench

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"ersatz/internal/nodeapi"
	"ersatz/internal/realguix"
)

const (
	nodePort = 8181
	// nodeAddr is where a node serves the clients of its machine.
	nodeAddr  = "127.0.0.1:8181"
	nodeState = "/var/lib/ersatz-node"
)

// nodeServer is an ersatz node in a host's machine. Its state outlives it.
type nodeServer struct {
	host   *netHost
	flags  []string
	server *realguix.Server
	pid    int    // as this machine has it
	logs   string // of those that were killed
	most   int64  // memory of one of those
}

// start starts the node, as a user who owns nothing but its folders, and waits
// until it listens.
func (s *nodeServer) start(ctx context.Context) error {
	m := s.host.machine
	if _, err := m.Run(ctx, "install", "-d", "-o", "nobody", "-m", "755", nodeState, "/run/ersatz"); err != nil {
		return err
	}
	args := append([]string{"--reuid=nobody", "--regid=nogroup", "--clear-groups", "ersatz", "node", "--state=" + nodeState}, s.flags...)
	var cmd *exec.Cmd
	server, err := realguix.ServeAt(ctx, nodeAddr, s.host.Dial, func(ctx context.Context) *exec.Cmd {
		cmd = m.Command(ctx, "setpriv", args...)
		return cmd
	})
	if err != nil {
		return err
	}
	s.server = server
	s.pid, err = onlyChild(cmd.Process.Pid)
	return err
}

// kill ends the node by SIGKILL.
func (s *nodeServer) kill() {
	if s.server == nil {
		return
	}
	if p, err := peak(s.pid); err == nil { // else it has ended by itself
		s.most = max(s.most, p)
	}
	s.server.Stop()
	s.logs += s.server.Log()
	s.server = nil
}

// peak returns the greatest memory that the node has had, however often it was
// started.
func (s *nodeServer) peak() (int64, error) {
	if s.server == nil {
		return s.most, nil
	}
	p, err := peak(s.pid)
	return max(p, s.most), err
}

// log returns what the node has logged, however often it was started.
func (s *nodeServer) log() string {
	if s.server == nil {
		return s.logs
	}
	return s.logs + s.server.Log()
}

// names reports whether a line of a log says that a source gave what is no
// block.
func names(log, source string) bool {
	for line := range strings.Lines(log) {
		if strings.Contains(line, "source="+source+" ") && strings.Contains(line, "do not match the reference") {
			return true
		}
	}
	return false
}

// find waits until the node knows so many others, named ones among them.
func (s *nodeServer) find(ctx context.Context, others int) error {
	client := nodeapi.New(s.host.machine.Path("/run/ersatz/node.sock"), 0)
	defer client.Close()
	err := until(ctx, nil, func() (bool, error) {
		known, err := client.Peers(ctx)
		return len(known) >= others, err
	})
	if err != nil {
		return fmt.Errorf("waiting until the node on %s knows %d others: %w", s.host.Name(), others, err)
	}
	return nil
}
