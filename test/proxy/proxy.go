// Package proxy stands between programs under test and what they need, and makes it fail: by refusing, and by saying nothing.
package proxy

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/drover/drover/tcp/port"
)

// Proxy passes TCP connections on to its targets, to each in turn; one that does not answer is passed over. It can be cut, and can hang.
type Proxy struct {
	port    *port.Held
	targets []string
	turn    atomic.Uint64
	done    sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener // nil while it is cut
	open     map[*link]struct{}
	flows    chan struct{} // closed while bytes are passed on
}

// link is a connection and the one that it is passed on by.
type link struct {
	ends [2]net.Conn
	gone chan struct{} // closed once it is broken off
	lost bool          // nothing is passed on any more, whatever becomes of the proxy
	once sync.Once
}

func (l *link) close() {
	l.once.Do(func() {
		close(l.gone)
		for _, conn := range l.ends {
			conn.Close()
		}
	})
}

// New starts a proxy on a free port.
func New(targets ...string) (*Proxy, error) {
	held, err := port.Hold()
	if err != nil {
		return nil, err
	}
	p := &Proxy{port: held, targets: targets, open: map[*link]struct{}{}, flows: make(chan struct{})}
	close(p.flows)
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
	for l := range p.open {
		l.close()
	}
	clear(p.open)
}

// Hang has nothing passed on until Mend, which passes on what came meanwhile. Connections stay, also in the middle of an answer, and new ones
// are taken: it is what a server looks like that is stopped.
func (p *Proxy) Hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flowing() {
		p.flows = make(chan struct{})
	}
}

// Strand has nothing passed on ever again on the connections that there are; new ones work. So it is when something on the way has forgotten
// them.
func (p *Proxy) Strand() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.open {
		l.lost = true
	}
}

// Mend accepts connections again, and passes on again what comes.
func (p *Proxy) Mend() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.flowing() {
		close(p.flows)
	}
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

// flowing is asked with mu held.
func (p *Proxy) flowing() bool {
	select {
	case <-p.flows:
		return true
	default:
		return false
	}
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
	l := &link{ends: [2]net.Conn{client, server}, gone: make(chan struct{})}
	if !p.hold(listener, l) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.pass(l, server, client) })
	both.Go(func() { p.pass(l, client, server) })
	both.Wait()
	l.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, l)
}

// hold remembers a connection so that Cut breaks it off. One that was accepted before a cut is closed at once.
func (p *Proxy) hold(listener net.Listener, l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != listener {
		l.close()
		return false
	}
	p.open[l] = struct{}{}
	return true
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
func (p *Proxy) pass(l *link, to, from net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if !p.await(l) {
			return
		}
		if n > 0 {
			if _, failure := to.Write(buffer[:n]); failure != nil {
				l.close()
				return
			}
		}
		if err == nil {
			continue
		}
		if half, ok := to.(*net.TCPConn); ok {
			_ = half.CloseWrite() // the other end may be gone
		}
		return
	}
}

// await returns when a connection may be passed on, or false when it is broken off.
func (p *Proxy) await(l *link) bool {
	for {
		p.mu.Lock()
		flows, flowing, lost := p.flows, p.flowing(), l.lost
		p.mu.Unlock()
		switch {
		case lost:
			<-l.gone
			return false
		case flowing:
			return true
		}
		select {
		case <-flows:
		case <-l.gone:
			return false
		}
	}
}
