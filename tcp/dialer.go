// Package tcp makes connections that end when nothing is heard of their other side: packets are lost on the way, its machine is gone, or
// something between has forgotten them. Left alone, the kernel tries for a quarter of an hour.
package tcp

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Dialer returns a dialer whose connections end when what was sent is not acknowledged, or finds no room at the other side, for that long,
// and 25 seconds after the other side of an idle one was heard of last. A process that hangs does not end them by that: its kernel answers
// for it. Reads and writes then fail with [syscall.ETIMEDOUT].
func Dialer(unacknowledged time.Duration) *net.Dialer {
	return &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control: func(network, _ string, conn syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			var failed error
			err := conn.Control(func(fd uintptr) {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds()))
			})
			return errors.Join(err, failed)
		},
	}
}
