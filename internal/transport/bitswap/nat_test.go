package bitswap_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"ersatz/eris"
	"ersatz/internal/transport/bitswap"
	"ersatz/internal/transport/transporttest"
)

// envRole says what a process of TestNAT does.
const envRole = "ERSATZ_BITSWAP_ROLE"

// natBlocks is how many blocks of 32 KiB go from one to the other: more than
// libp2p's own limit of a relayed connection lets pass.
const natBlocks = 100

// internet joins hosts by translated addresses, which libp2p counts as public.
// There is no way out.
//
//	a ─ 10.1.0.0/24 ─ na ─┐
//	                      ├─ 5.5.5.0/24 ─ relay
//	b ─ 10.2.0.0/24 ─ nb ─┘
//
// What comes to a translated address without having been asked for is dropped.
const internet = `set -e
ip link set lo up
ip link add net type bridge
ip link set net up
for ns in relay na nb a b; do ip netns add $ns; ip -n $ns link set lo up; done
n=0
for ns in relay na nb; do
	n=$((n + 1))
	ip link add p$n type veth peer name eth0 netns $ns
	ip link set p$n master net up
	ip -n $ns addr add 5.5.5.$n/24 dev eth0
	ip -n $ns link set eth0 up
done
n=0
for ns in a b; do
	n=$((n + 1))
	ip -n n$ns link add lan type veth peer name eth0 netns $ns
	ip -n n$ns addr add 10.$n.0.1/24 dev lan
	ip -n n$ns link set lan up
	ip -n $ns addr add 10.$n.0.2/24 dev eth0
	ip -n $ns link set eth0 up
	ip -n $ns route add default via 10.$n.0.1
	ip netns exec n$ns sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
	ip netns exec n$ns nft 'add table ip t
		add chain ip t post { type nat hook postrouting priority 100; }
		add rule ip t post oifname eth0 masquerade
		add chain ip t in { type filter hook input priority 0; }
		add rule ip t in iifname eth0 drop
		add chain ip t on { type filter hook forward priority 0; }
		add rule ip t on iifname eth0 ct state established,related accept
		add rule ip t on iifname eth0 drop'
done`

// TestNAT has one behind a translated address fetch from another one: by a relay,
// and by the direct connection that both make then.
func TestNAT(t *testing.T) {
	if !inLab(t) {
		return
	}
	shell(t, "%s", internet)
	relay := role(t, "relay", "relay")
	at := strings.Join(relay.line(t, "at"), " ")
	a := role(t, "a", "gives", at)
	there := strings.Join(a.line(t, "at"), " ")
	for name, want := range map[string]string{"relayed": "Limited", "direct": "Connected"} {
		t.Run(name, func(t *testing.T) {
			b := role(t, "b", name, at, there)
			if got := strings.Join(b.line(t, "got"), " "); got != fmt.Sprint(natBlocks)+" "+want {
				t.Errorf("got %s, want %d %s", got, natBlocks, want)
			}
		})
	}
}

// process is one that has a role.
type process struct {
	name string
	out  *bufio.Scanner
}

// role starts a process in a namespace, which lives as long as its input is open.
func role(t *testing.T, ns, name string, args ...string) process {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", ns, os.Args[0], "-test.run=^TestRole$")
	cmd.Env = append(os.Environ(), envRole+"="+name+" "+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		defer time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() }).Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	return process{name, bufio.NewScanner(out)}
}

// line waits for a line that begins with a word, and returns the others.
func (p process) line(t *testing.T, word string) []string {
	t.Helper()
	var seen []string
	for p.out.Scan() {
		f := strings.Fields(p.out.Text())
		if len(f) > 0 && f[0] == word {
			return f[1:]
		}
		seen = append(seen, p.out.Text())
	}
	t.Fatalf("%s ended:\n%s", p.name, strings.Join(seen, "\n"))
	return nil
}

// TestRole is a process of TestNAT.
func TestRole(t *testing.T) {
	role, args, _ := strings.Cut(os.Getenv(envRole), " ")
	addrs := strings.Fields(args)
	o := bitswap.Options{Listen: []string{"/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1"}, Idle: 20 * time.Second}
	blocks, refs := transporttest.Blocks(t, natBlocks)
	switch role {
	case "":
		t.Skip("is a part of TestNAT")
	case "relay":
		o.RelayService = true
		h := start(t, nil, o)
		fmt.Println("at", strings.Join(waitAddrs(t, h, "5.5.5.1"), " "))
	case "gives":
		o.Relays = addrs
		h := start(t, blocks, o)
		list := waitAddrs(t, h, "/p2p-circuit")
		until(t, h.Punches)
		fmt.Println("at", strings.Join(list, " "))
	default:
		o.NoHolePunch = role == "relayed"
		for _, a := range addrs {
			if strings.Contains(a, "/p2p-circuit/") {
				o.Peers = append(o.Peers, a)
			} else {
				o.Relays = append(o.Relays, a)
			}
		}
		h := start(t, nil, o)
		waitAddrs(t, h, "/p2p-circuit")
		until(t, func() bool { return o.NoHolePunch || h.Punches() })
		n := 0
		err := open(t, h, refs[0]).Fetch(t.Context(), eris.Size32KiB, refs, func(i int, b []byte) error {
			n++
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		_, id, _ := strings.Cut(addrs[len(addrs)-1], "/p2p-circuit/p2p/")
		to, err := peer.Decode(id)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("got", n, h.Connected(to))
		return
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		t.Error(err)
	}
}

// waitAddrs waits until a Host has addresses that have a part.
func waitAddrs(t *testing.T, h *bitswap.Host, part string) (found []string) {
	t.Helper()
	until(t, func() bool {
		for _, a := range h.Addrs() {
			if strings.Contains(a, part) {
				found = append(found, a)
			}
		}
		return len(found) > 0
	})
	return found
}

// until waits until something is so.
func until(t testing.TB, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it does not come")
		}
	}
}
