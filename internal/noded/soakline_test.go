package noded

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
)

// fault is what is wrong with a line.
type fault int

const (
	fine   fault = iota
	gone         // nobody answers
	silent       // no byte goes out
	lying        // one bit of what goes out is changed
	torn         // connections break in the middle
)

var errTorn = errors.New("the line is torn")

// line is an address with a server behind it, or nobody at times, and with
// faults.
type line struct {
	real net.Listener
	from int // lies are told in what is at least so long, in bytes
	work sync.WaitGroup

	mu     sync.Mutex
	server *plug // nil: nobody
	fault  fault
	healed chan struct{} // closed when the fault changes
	conns  map[*lineConn]bool
	writes int
}

func newLine(t *testing.T, lieFrom int) *line {
	l := &line{real: listen(t, "tcp", "127.0.0.1:0"), from: lieFrom, healed: make(chan struct{}), conns: map[*lineConn]bool{}}
	l.work.Go(l.accept)
	t.Cleanup(func() {
		l.real.Close()
		l.set(gone)
		l.work.Wait()
	})
	return l
}

func (l *line) url() string { return "http://" + l.real.Addr().String() }

// accept hands connections to the server, if there is one.
func (l *line) accept() {
	for {
		c, err := l.real.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		server, x := l.server, &lineConn{Conn: c, line: l, closed: make(chan struct{})}
		if l.fault == gone {
			server = nil
		}
		if server != nil {
			l.conns[x] = true
		}
		l.mu.Unlock()
		if server == nil {
			c.Close()
			continue
		}
		select {
		case server.conns <- x:
		case <-server.done:
			x.Close()
		}
	}
}

// set changes what is wrong.
func (l *line) set(f fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = f
	close(l.healed)
	l.healed = make(chan struct{})
	if f == gone {
		l.cut()
	}
}

// cut closes all connections. The caller has l.mu.
func (l *line) cut() {
	for x := range l.conns {
		x.Conn.Close()
		x.end()
	}
	clear(l.conns)
}

// plug returns a listener for the next server at the address.
func (l *line) plug() net.Listener {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.server = &plug{line: l, conns: make(chan net.Conn), done: make(chan struct{})}
	return l.server
}

// unplug cuts all connections to the server.
func (l *line) unplug() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.server = nil
	l.cut()
}

// plug is a net.Listener of one server.
type plug struct {
	line  *line
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (p *plug) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *plug) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *plug) Addr() net.Addr { return p.line.real.Addr() }

// lineConn is the server's end of a connection.
type lineConn struct {
	net.Conn
	line   *line
	once   sync.Once
	closed chan struct{}
}

func (x *lineConn) end() { x.once.Do(func() { close(x.closed) }) }

func (x *lineConn) Close() error {
	x.end()
	x.line.mu.Lock()
	delete(x.line.conns, x)
	x.line.mu.Unlock()
	return x.Conn.Close()
}

func (x *lineConn) Write(b []byte) (int, error) {
	for {
		x.line.mu.Lock()
		f, healed := x.line.fault, x.line.healed
		x.line.writes++
		odd := x.line.writes%5 == 0
		x.line.mu.Unlock()
		switch {
		case f == silent:
			select {
			case <-healed:
				continue
			case <-x.closed:
				return 0, net.ErrClosed
			}
		case f == torn && odd:
			n, err := x.Conn.Write(b[:len(b)/2])
			return n, errors.Join(errTorn, err, x.Close())
		case f == lying && len(b) >= x.line.from:
			b = append([]byte(nil), b...)
			b[len(b)/2] ^= 1
		}
		return x.Conn.Write(b)
	}
}

// trouble makes something be wrong until ctx ends.
func (l *line) trouble(ctx context.Context, f fault) {
	l.set(f)
	<-ctx.Done()
	l.set(fine)
}
