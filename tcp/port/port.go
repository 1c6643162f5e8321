// Package port holds ports of the loopback interface, for tests and for servers that only take the number of a port: who listens on one in a
// moment, or is away for a while, finds it free, whatever other tests and processes do meanwhile.
package port

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Held is a port that is nobody's but of those who ask for it by its number, as Go's net.Listen and every server that can be started again do
// (SO_REUSEADDR). Connections to it are refused while nobody listens.
type Held struct {
	number int
	socket int // bound to the port, and not listened on; -1: none
}

// Hold takes a free port. It is below those that the system gives to connections and to those who ask for any port.
func Hold() (*Held, error) {
	const lowest, highest, tries = 10000, 32000, 1000
	err := errors.New("none is free")
	for range tries {
		var h *Held
		if h, err = hold(lowest + rand.IntN(highest-lowest)); err == nil {
			return h, nil
		}
	}
	return nil, fmt.Errorf("hold a port of the loopback: %w", err)
}

func hold(number int) (*Held, error) {
	syscall.ForkLock.RLock() // no child may have it
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(socket)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, err
	}
	h := &Held{number: number, socket: socket}
	// Bound without the option the port is nobody else's, nor held by anybody; with it, from then on, it is shared with who has it, too.
	if err := unix.Bind(socket, &unix.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		h.Close()
		return nil, err
	}
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		h.Close()
		return nil, err
	}
	if listener, err := net.Listen("tcp", h.Address()); err == nil {
		return h, listener.Close()
	}
	h.Close() // a system that does not let ports be shared: it is free, and no more than that
	return h, nil
}

// Number is that of the port.
func (h *Held) Number() int { return h.number }

// Address is where to listen, and to connect to.
func (h *Held) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(h.number)) }

// Close gives the port back, once. Who listens on it goes on.
func (h *Held) Close() {
	if h.socket >= 0 {
		unix.Close(h.socket)
		h.socket = -1
	}
}

// test is as much of testing.TB as is needed here: programs do without that package.
type test interface {
	Helper()
	Fatal(args ...any)
	Cleanup(f func())
}

// ForTest holds a port until the end of a test and returns its address.
func ForTest(t test) string {
	t.Helper()
	h, err := Hold()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h.Address()
}
