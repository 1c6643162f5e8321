package stack

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/drover/drover/test/port"
)

// Proxy passes TCP connections on to its targets, to each in turn; one that does not answer is passed over. It can be cut.
type Proxy struct {
	port    *port.Held
	targets []string
	turn    atomic.Uint64
	done    sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener          // nil while it is cut
	open     map[net.Conn]struct{} // both ends of every connection
}

// NewProxy starts a proxy on a free port.
func NewProxy(targets ...string) (*Proxy, error) {
	held, err := port.Hold()
	if err != nil {
		return nil, err
	}
	p := &Proxy{port: held, targets: targets, open: map[net.Conn]struct{}{}}
	return p, p.Mend()
}

// Address is where it listens.
func (p *Proxy) Address() string { return p.port.Address() }

// Cut breaks off all connections and refuses new ones, until Mend.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	for conn := range p.open {
		conn.Close()
	}
	clear(p.open)
}

// Mend accepts connections again.
func (p *Proxy) Mend() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		return nil
	}
	listener, err := net.Listen("tcp", p.Address())
	if err != nil {
		return fmt.Errorf("proxy of %v: %w", p.targets, err)
	}
	p.listener = listener
	p.done.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it was closed
			}
			p.done.Go(func() { p.serve(listener, conn) })
		}
	})
	return nil
}

// Close cuts it for good.
func (p *Proxy) Close() {
	p.Cut()
	p.done.Wait()
	p.port.Close()
}

func (p *Proxy) serve(listener net.Listener, client net.Conn) {
	server, err := p.dial()
	if err != nil {
		client.Close()
		return
	}
	if !p.hold(listener, client, server) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { pass(server, client) })
	both.Go(func() { pass(client, server) })
	both.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range []net.Conn{client, server} {
		conn.Close()
		delete(p.open, conn)
	}
}

// hold remembers the ends of a connection so that Cut breaks it off. One that was accepted before a cut is closed at once.
func (p *Proxy) hold(listener net.Listener, ends ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range ends {
		if p.listener != listener {
			conn.Close()
			continue
		}
		p.open[conn] = struct{}{}
	}
	return p.listener == listener
}

func (p *Proxy) dial() (conn net.Conn, err error) {
	first := p.turn.Add(1)
	for i := range uint64(len(p.targets)) {
		var failure error
		if conn, failure = net.Dial("tcp", p.targets[(first+i)%uint64(len(p.targets))]); failure == nil { //nolint:noctx // loopback
			return conn, nil
		}
		err = errors.Join(err, failure)
	}
	return nil, err
}

// pass copies until the end of a stream, and hands that on.
func pass(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return
	}
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite() // the other end may be gone
	}
}
